"""What the back ends of disks share: the image of an order, who may use it, and the permission to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from manor_bus.wire.errors import ManorError, Problem, bad_request, denied_state
from manor_bus.wire.messages.devices import DeviceKey
from manor_bus.wire.messages.documents import Disk
from manor_devices import access, holders, images, storage
from manor_devices.backends import WARNING, Claim, Order
from manor_devices.images import Layer, Look
from manor_devices.magic import way_out

MOMENT_S: Final = 0.3
MOMENTS: Final = 8  # a process that was told to end holds its image that long
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
    try:
        seen = await storage.ask(path, partial(images.look, path))
        _judge(disk_of(order), format_, seen)
        if format_ == "raw":
            found: tuple[Layer, ...] = (Layer(seen.path, format_, seen.size, 0, seen.identity, seen.block),)
        else:
            top, *below = await images.chain(path, format_)
            found = (replace(top, block=seen.block), *below)
    except ManorError as error:
        named = f"disk {order.key.id}: {error.message}"
        raise ManorError(error.kind, named, problems=error.problems, hint=error.hint) from None
    allowed = [root.rstrip("/") + "/" for root in roots.split(":") if root]
    for layer in found:
        if allowed and not layer.path.startswith(tuple(allowed)):
            raise bad_request(
                f"{layer.path} is outside of {roots}",
                Problem(path="source", reason=f"provider {order.target.provider} serves files below {roots}"),
            )
    return found


def _judge(disk: Disk, format_: str, seen: Look) -> None:
    """Refuse what would destroy an image: bytes of another format than is said, and files that are sealed."""
    expected = seen.holds == "iso" and disk.read_only
    if disk.source and format_ == "raw" and not disk.format and seen.holds and not expected:
        reason = f"is not said, and the file holds the bytes of {seen.holds}"
        raise bad_request(
            f"{seen.path} looks like {seen.holds}, and the document does not say how to use it",
            Problem(path="disk.format", reason=reason, allowed="raw, qcow2"),
            hint=way_out(seen.holds),
        )
    if disk.source and format_ == "qcow2" and seen.holds != "qcow2":
        reason = f"the file is not in qcow2 format: it holds the bytes of {seen.holds or 'something else'}"
        raise bad_request(
            f"{seen.path} is not in qcow2 format", Problem(path="disk.format", reason=reason, value=format_)
        )
    if seen.sealed and not disk.read_only:
        raise bad_request(
            f"{seen.path} is read-only for its owner, too, and the disk would be written",
            Problem(path="disk.readonly", reason="must be true for a file that nobody may write"),
            hint=f"Write readonly: true at the disk, or: chmod u+w {seen.path}",
        )


async def warning(order: Order) -> dict[str, str]:
    """Return a note that warns of a disk that is raw by the document's own word, and looks like an image."""
    disk, path = disk_of(order), order.target.path
    if disk.format != "raw" or not disk.source:
        return {}
    seen = await storage.ask(path, partial(images.look, path))
    if not seen.holds or (seen.holds == "iso" and disk.read_only):
        return {}
    return {
        WARNING: f"used as raw, and looks like {seen.holds}: the guest sees the bytes of the image itself"
    }


async def unheld(order: Order, found: tuple[Layer, ...]) -> None:
    """Refuse an image that a process has open, though no device explains it. One that ends gets a moment."""
    disk, path = disk_of(order), found[0].path
    if disk.shareable:
        return
    for left in range(MOMENTS, -1, -1):
        if not await storage.ask(path, partial(holders.locked, path, write=not disk.read_only)):
            return
        who = await storage.ask("/proc", partial(holders.holders, path))
        if left:
            await asyncio.sleep(MOMENT_S)
    named = (
        ", ".join(f"{name} (pid {pid})" for pid, name in who.items())
        or "a process that cannot be seen from here"
    )
    raise denied_state(
        f"disk {order.key.id}: {path} is held by {named}",
        hint="It can be attached when that process has closed it.",
    )


def claims(order: Order, found: tuple[Layer, ...]) -> tuple[Claim, ...]:
    """Return what the order uses: its image to write (unless readonly), what is below it to read."""
    disk = disk_of(order)
    top, below = found[0], found[1:]
    mine = Claim(top.identity, top.path, write=not disk.read_only, shareable=disk.shareable)
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
            await access.grant(path, uid, write=number == 0 and not disk_of(order).read_only)
        return {PATHS: "\n".join(paths)}

    def adopt(self, order: Order) -> None:
        """Remember what was granted before the service restarted."""
        if order.request.uid and PATHS in order.notes:
            self._held[order.key] = (order.request.uid, _paths(order.notes))

    async def revoke(self, order: Order) -> None:
        """Take back what no other device of the same user needs."""
        uid, paths = self._held.pop(order.key, (order.request.uid, _paths(order.notes)))
        needed = {path for other, held in self._held.values() if other == uid for path in held}
        for path in set(paths) - needed:
            await access.revoke(path, uid)


def _paths(notes: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(notes[PATHS].split("\n")) if PATHS in notes else ()
