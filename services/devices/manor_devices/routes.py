"""Which provider serves a device, and what its names resolve to on this node. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from manor_bus.wire.errors import ManorError, Problem, bad_request, denied_state
from manor_bus.wire.messages.devices import Connect, VolumeStatus
from manor_bus.wire.messages.documents import Disk, NetworkSpec, Nic
from manor_devices.backends import Target

FAKE: Final = "fake"
NAME_CHARS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
NAME_MAX: Final = 63


@dataclass(frozen=True, slots=True)
class NotYet:
    """What is missing may still come: a document that is on its way, or a volume being made (no document)."""

    reason: str
    kind: str = ""
    name: str = ""


def checked(request: Connect) -> Disk | Nic | None:
    """Return the disk or nic of a request whose own fields are in order (a console or channel has none)."""
    device = request.device
    if device is None:
        raise _refused(request.type, "", "is missing: it is the one that `type` names")
    for path, value in (
        ("key.id", request.key.id),
        ("domain", request.domain),
        ("key.uuid", request.key.uuid),
    ):
        if not value or len(value) > NAME_MAX or not NAME_CHARS.issuperset(value):
            raise _refused(path, value[:80], f"must be 1 to {NAME_MAX} letters, digits, - and _")
    if request.key.incarnation < 1 or request.uid < 0:
        raise _refused("key.incarnation", str(request.key.incarnation), "must be 1 or more")
    if isinstance(device, Disk) and device.provider != FAKE:
        given = [name for name in ("source", "volume", "nbd") if getattr(device, name)]
        if len(given) != 1:
            raise _refused("disk", ", ".join(given), "needs exactly one of source, volume and nbd")
    return device if isinstance(device, Disk | Nic) else None


def route(
    request: Connect, networks: Mapping[str, NetworkSpec], volumes: Mapping[str, VolumeStatus]
) -> Target | NotYet:
    """Return the provider and the resolved names. Raises what can never be served."""
    device = checked(request)
    if device is None:
        return Target(request.type)
    if device.provider == FAKE:
        return Target(FAKE)
    if isinstance(device, Nic):
        return _nic(device, networks)
    if device.nbd:
        return Target(device.provider or "nbd", path=device.nbd)
    if device.source:
        return Target(device.provider or "file", path=device.source, format=device.format or "raw")
    return _volume(device, volumes)


def _nic(nic: Nic, networks: Mapping[str, NetworkSpec]) -> Target | NotYet:
    if not nic.network:
        return Target(nic.provider or "usernet", network=NetworkSpec())
    network = networks.get(nic.network)
    if network is None:
        return NotYet(f"there is no Network document {nic.network}", "Network", nic.network)
    by_type = {"user": "usernet", "bridge": "bridge"}
    return Target(nic.provider or by_type[network.type], network=network)


def _volume(disk: Disk, volumes: Mapping[str, VolumeStatus]) -> Target | NotYet:
    volume = volumes.get(disk.volume)
    if volume is None:
        return NotYet(f"there is no Volume document {disk.volume}", "Volume", disk.volume)
    if volume.state in ("failed", "deleting"):
        raise denied_state(
            f"volume {disk.volume} is {volume.state}: {volume.reason}", hint="See: manor describe volume"
        )
    if volume.state != "ready":
        return NotYet(f"volume {disk.volume} is {volume.state}")
    return Target(disk.provider or "file", path=volume.path, format=volume.format, volume=volume.uuid)


def _refused(path: str, value: str, reason: str) -> ManorError:
    return bad_request(f"{path} {reason}", Problem(path=path, reason=reason, value=value))
