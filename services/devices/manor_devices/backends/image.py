"""What the back ends of disks share: the image of an order, who may use it, and the permission to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from manor_bus.wire.errors import Problem, bad_request
from manor_bus.wire.messages.devices import DeviceKey
from manor_bus.wire.messages.documents import Disk
from manor_devices import access, images
from manor_devices.backends import Claim, Order
from manor_devices.images import Layer

PATHS: Final = "paths"  # the note that says which files were made usable


def disk_of(order: Order) -> Disk:
    """Return the disk of an order."""
    disk = order.request.disk
    if disk is None:
        raise bad_request(
            f"{order.request.key.id} is not a disk", Problem(path="type", reason="must be disk")
        )
    return disk


async def layers(order: Order, roots: str = "") -> tuple[Layer, ...]:
    """Return the image and those below it. `roots`: the only folders they may lie in, separated by `:`."""
    path, format_ = order.target.path, order.target.format
    if format_ == "raw":
        resolved, identity = images.identify(path)
        found: tuple[Layer, ...] = (Layer(resolved, format_, 0, 0, identity),)
    else:
        found = await images.chain(path, format_)
    allowed = [root.rstrip("/") + "/" for root in roots.split(":") if root]
    for layer in found:
        if allowed and not layer.path.startswith(tuple(allowed)):
            raise bad_request(
                f"{layer.path} is outside of {roots}",
                Problem(path="source", reason=f"provider {order.target.provider} serves files below {roots}"),
            )
    return found


def claims(order: Order, found: tuple[Layer, ...]) -> tuple[Claim, ...]:
    """Return what the order uses: its image to write (unless readonly), what is below it to read."""
    disk = disk_of(order)
    top, below = found[0], found[1:]
    mine = Claim(top.identity, top.path, write=not disk.readonly, shareable=disk.shareable)
    return (mine, *(Claim(layer.identity, layer.path, write=False) for layer in below))


@dataclass
class Grants:
    """Which files were made usable for which user, by device."""

    _held: dict[DeviceKey, tuple[int, tuple[str, ...]]] = field(default_factory=dict)

    async def grant(self, order: Order, found: tuple[Layer, ...]) -> dict[str, str]:
        """Make the files of an order usable for its user; returns the notes that `revoke` needs later."""
        uid, paths = order.request.uid, tuple(layer.path for layer in found)
        if not uid:
            return {}
        self._held[order.key] = (uid, paths)
        for number, path in enumerate(paths):
            await access.grant(path, uid, write=number == 0 and not disk_of(order).readonly)
        return {PATHS: "\n".join(paths)}

    def adopt(self, order: Order) -> None:
        """Remember what was granted before the service restarted."""
        if order.request.uid and PATHS in order.notes:
            self._held[order.key] = (order.request.uid, _paths(order.notes))

    def revoke(self, order: Order) -> None:
        """Take back what no other device of the same user needs."""
        uid, paths = self._held.pop(order.key, (order.request.uid, _paths(order.notes)))
        needed = {path for other, held in self._held.values() if other == uid for path in held}
        for path in set(paths) - needed:
            access.revoke(path, uid)


def _paths(notes: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(notes[PATHS].split("\n")) if PATHS in notes else ()
