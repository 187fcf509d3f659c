"""Everything a guest's process is given open: sockets, logs, kernel, firmware's variables, network taps.

The process may run as a user that can reach none of these by their paths.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import struct
from pathlib import Path
from typing import Final

from manor_bus.wire.errors import Kind, ManorError, Problem, bad_request
from manor_bus.wire.messages.documents import Nic
from manor_host import privileges
from manor_lifecycle.hypervisors.qemu import firmware, folder, monitor, serial, sockets
from manor_lifecycle.hypervisors.qemu.arguments import Wiring
from manor_lifecycle.hypervisors.qemu.frontends import Reach
from manor_lifecycle.hypervisors.qemu.lending import lend
from manor_lifecycle.hypervisors.qemu.record import Plugged, Record
from manor_lifecycle.hypervisors.qemu.site import Site

TUN: Final = Path("/dev/net/tun")
NETWORK_DEVICES: Final = Path("/sys/class/net")
VHOST: Final = Path("/dev/vhost-net")
TUNSETIFF: Final = 0x400454CA  # this and the next: Linux, include/uapi/linux/if_tun.h
IFF_TAP, IFF_MULTI_QUEUE, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x0100, 0x1000, 0x4000


def opened(files: contextlib.ExitStack, path: Path, flags: int) -> int:
    """Return a descriptor that is closed with `files`."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    files.callback(os.close, descriptor)
    return descriptor


async def wire(
    site: Site, record: Record, path: Path, files: contextlib.ExitStack, *, incoming: bool
) -> tuple[Wiring, list[int]]:
    """Open everything; returns it and the descriptors that the process inherits."""
    spec = record.spec
    ear = files.enter_context(sockets.listen(path, monitor.SOCKET)).fileno()
    wiring, given = Wiring(binary=site.program.binary, monitor_fd=ear, incoming=incoming), [ear]
    if spec.console.type != "none":
        ear = files.enter_context(sockets.listen(path, serial.SOCKET)).fileno()
        given.append(ear)
        wiring = dataclasses.replace(wiring, console_fd=ear)
        if spec.console.log:
            log = opened(
                files, path / folder.CONSOLE_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC
            )
            given.append(log)
            wiring = dataclasses.replace(wiring, log_fd=log)
    if spec.boot.firmware == "uefi":
        found = firmware.uefi(record.machine)
        kept = folder.variables(path, found.variables)
        files.callback(os.close, kept)
        given.append(kept)
        wiring = dataclasses.replace(wiring, firmware=found, variables_fd=kept)
    kernel, lent = await _readable(site, "kernel", spec.boot.kernel, record.uid, files)
    initrd, more = await _readable(site, "initrd", spec.boot.initrd, record.uid, files)
    given += lent + more
    wiring = dataclasses.replace(wiring, kernel=kernel, initrd=initrd)
    looked_at = {}
    for plugged in record.plugged:
        looked_at[plugged.number], descriptors = await reach(site, plugged, files)
        given += descriptors
    return dataclasses.replace(wiring, reach=looked_at), given


async def unreadable(site: Site, field: str, image: str) -> Problem | None:
    """Say why a file of `spec.boot` cannot be read; None when it can, or none is named."""
    try:
        if image:
            os.close(await site.look_at(image, lambda: lend(Path(image), copy=False)))
    except OSError as error:
        return Problem(path=f"spec.boot.{field}", value=image, reason=error.strerror or str(error))
    return None


async def _readable(
    site: Site, field: str, image: str, uid: int, files: contextlib.ExitStack
) -> tuple[str, list[int]]:
    """Return how the process names a file, and the descriptor it needs for that."""
    if not image:
        return "", []
    if problem := await unreadable(site, field, image):
        raise bad_request(f"the {field} {image} cannot be read", problem)
    copy = uid not in (0, os.geteuid())
    descriptor = await site.look_at(image, lambda: lend(Path(image), copy=copy))
    files.callback(os.close, descriptor)
    return f"/dev/fd/{descriptor}", [descriptor]


async def reach(site: Site, plugged: Plugged, files: contextlib.ExitStack) -> tuple[Reach, list[int]]:
    """Look at a back end; returns what was found out, and the descriptors in it, which QEMU must get."""
    if plugged.disk is not None and plugged.descriptor.type == "file":
        return Reach(direct=bool(plugged.descriptor.args.get("direct", True))), []
    if plugged.nic is not None and plugged.descriptor.type == "tap" and privileges.may(privileges.NET_ADMIN):
        taps = [_tap(plugged, plugged.nic, files) for _ in range(plugged.nic.queues)]
        vhosts: list[int] = []
        if plugged.descriptor.args.get("vhost") and VHOST.exists():
            vhosts = [opened(files, VHOST, os.O_RDWR) for _ in taps]
        return Reach(taps=tuple(map(str, taps)), vhosts=tuple(map(str, vhosts))), taps + vhosts
    return Reach(), []


def _tap(plugged: Plugged, nic: Nic, files: contextlib.ExitStack) -> int:
    """Return one queue of a tap device that somebody else made."""
    name = str(plugged.descriptor.args.get("ifname", ""))
    flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (IFF_MULTI_QUEUE if nic.queues > 1 else 0)
    if not name or not (NETWORK_DEVICES / name).is_dir():  # asking for it would make one
        message = f"there is no tap device {name!r} for {nic.id}"
        raise ManorError(Kind.UNAVAILABLE, message, hint="Look at its provider.")
    try:
        descriptor = opened(files, TUN, os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    except OSError as error:
        message = f"the tap device {name!r} of {nic.id} cannot be opened: {error.strerror}"
        raise ManorError(Kind.UNAVAILABLE, message, hint="Look at its provider.") from None
    return descriptor
