"""Disks over NBD: an image of this node behind a qemu-storage-daemon of its own, or a server elsewhere.

The daemon survives this service and is found again. When it dies or hangs it is started again at the same
socket; the front end's NBD client waits that long (`reconnect_s`), so that the loss is a pause for the guest.
Settings: `roots` (folders images may lie in, separated by `:`), `probe_s` (between looks whether a server
still answers; default 10).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from manor_bus.wire.errors import ManorError, Problem, bad_request, unavailable
from manor_bus.wire.messages.devices import DeviceKey
from manor_bus.wire.messages.documents import Disk
from manor_devices import access, storage
from manor_devices.backends import (
    Arguments,
    BackendSettings,
    Claim,
    Leftover,
    Notice,
    Observation,
    Order,
    Prepared,
    daemons,
)
from manor_devices.backends.daemons import Daemon
from manor_devices.backends.image import Grants, claims, disk_of, layers, unheld, warning
from manor_devices.backends.watch import Watch
from manor_devices.images import Layer
from manor_host import privileges

PROGRAM: Final = "qemu-storage-daemon"
SOCKET_BYTES_MAX: Final = 107  # sun_path, include/uapi/linux/un.h
GREETING: Final = b"NBDMAGICIHAVEOPT"  # NBD protocol, doc/proto.md, "Newstyle negotiation"
GREET_S: Final = 5.0
MISSES_MAX: Final = 3
PROBE_MAX_S: Final = 3_600.0
RECONNECT_S: Final = {"wait": 86_400, "detach": 90, "fail": 0}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: a unix socket, or host and port."""

    export: str
    path: str = ""
    host: str = ""
    port: int = 10_809

    def args(self) -> Arguments:
        """Return it as a descriptor says it."""
        place: Arguments = {"path": self.path} if self.path else {"host": self.host, "port": self.port}
        return {**place, "export": self.export}


def parse(uri: str) -> Address:
    """Read an NBD URI (NBD project, doc/uri.md): `nbd://host:port/export`, `nbd+unix:///export?socket=/path`."""
    try:
        parts = urlsplit(uri)
        port = parts.port or 10_809
    except ValueError as error:
        raise _bad_uri(uri, str(error)) from None
    export = unquote(parts.path.removeprefix("/"))
    if parts.scheme == "nbd+unix":
        sockets = parse_qs(parts.query).get("socket", [])
        if len(sockets) != 1 or not os.path.isabs(sockets[0]):
            raise _bad_uri(uri, "needs ?socket= with an absolute path")
        return Address(export, path=sockets[0])
    if parts.scheme != "nbd":
        raise _bad_uri(uri, "must begin with nbd:// or nbd+unix://")
    if not parts.hostname:
        raise _bad_uri(uri, "has no host")
    return Address(export, host=parts.hostname, port=port)


async def greet(address: Address) -> None:
    """Ask a server for its greeting. Raises `unavailable` when it does not answer as one."""
    where = address.path or f"{address.host}:{address.port}"
    writer = None
    try:
        async with asyncio.timeout(GREET_S):
            if address.path:
                reader, writer = await asyncio.open_unix_connection(address.path)
            else:
                reader, writer = await asyncio.open_connection(address.host, address.port)
            greeting = await reader.readexactly(len(GREETING))
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        why = "no answer" if isinstance(error, TimeoutError) else str(error)
        raise unavailable(
            f"the NBD server at {where} cannot be reached: {why}",
            delivered=True,
            hint="Start it, or mend the way.",
        ) from None
    finally:
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    if greeting != GREETING:
        raise unavailable(f"what answers at {where} is not an NBD server of today", delivered=True)


@dataclass(eq=False)
class Export:
    """One server being watched. `daemon` None: it is not ours."""

    order: Order
    address: Address
    daemon: Daemon | None
    watch: asyncio.Task[None] | None = None


class NbdBackend:
    """Starts, finds, watches and ends one daemon per disk."""

    classes: Final = ("disk",)

    def __init__(self, settings: BackendSettings) -> None:
        self._directory = settings.directory
        self._notify = settings.notify
        self._roots = settings.values.get("roots", "")
        self._probe_s = _seconds(settings.values.get("probe_s", "10"))
        self._exports: dict[DeviceKey, Export] = {}
        self._grants = Grants()
        self._files = Watch(settings.notify)

    async def observe(self, known: Sequence[Order]) -> Observation:
        """Find our daemons by their command line; a server elsewhere counts as there until a look says no."""
        self._directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        ours = _listen(self._directory / "x").partition('/x"')[0] + "/"
        found = await storage.ask("/proc", partial(daemons.find, PROGRAM, ours))
        present: list[DeviceKey] = []
        folders = {entry.name for entry in os.scandir(self._directory)}
        for order in known:
            self._grants.adopt(order)
            remote = order.target.path if disk_of(order).nbd else ""
            address = parse(remote) if remote else self._address(order)
            folders.discard(self._folder(order).name)
            mark = _listen(Path(address.path))
            daemon = daemons.hold(found.pop(mark), mark) if mark in found else None
            if remote or daemon is not None:
                self._watch(Export(order, address, daemon))
                if not remote:
                    self._files.follow(order, (order.target.path,))
                present.append(order.key)
        used = _connected_sockets()
        left = [
            Leftover(name, str(place), ours=True, used=str(place / "socket") in used)
            for name, place in ((name, self._directory / name) for name in sorted(folders))
        ]
        return Observation(tuple(present), tuple(left))

    async def claim(self, order: Order) -> tuple[Claim, ...]:
        """Name the image and all images below it; a server elsewhere guards its own."""
        if disk_of(order).nbd:
            parse(order.target.path)
            return ()
        return claims(order, await layers(order, self._roots))

    async def prepare(self, order: Order) -> Prepared:
        """Start a daemon, or look whether the server elsewhere answers."""
        disk = disk_of(order)
        await self._forget(order.key)
        if disk.nbd:
            address = parse(order.target.path)
            await greet(address)
            self._watch(Export(order, address, None))
            notes = {}
        else:
            address = self._address(order)
            await self._clear(self._folder(order))  # a daemon of ours would hold the image
            found = await layers(order, self._roots)
            await unheld(order, found)
            notes = await self._grants.grant(order, found) | await warning(order)
            self._watch(Export(order, address, await self._start(order, found[0], address)))
            self._files.follow(order, [layer.path for layer in found])
        reconnect = RECONNECT_S[disk.on_provider_loss]
        return Prepared(
            "nbd", {**address.args(), "reconnect_s": reconnect, "readonly": disk.read_only}, notes
        )

    async def release(self, order: Order) -> None:
        """End the daemon and remove what it leaves."""
        await self._forget(order.key)
        if not disk_of(order).nbd:
            await self._clear(self._folder(order))
            await self._grants.revoke(order)

    async def discard(self, leftover: Leftover) -> None:
        """End a daemon that no disk explains."""
        await self._clear(self._directory / leftover.name)

    async def close(self) -> None:
        """Stop watching; daemons and guests go on."""
        await self._files.close()
        for export in self._exports.values():
            if export.watch is not None:
                export.watch.cancel()
            if export.daemon is not None:
                export.daemon.let_go()
        tasks = [export.watch for export in self._exports.values() if export.watch is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- one export -----------------------------------------------------------------------------------

    def _folder(self, order: Order) -> Path:
        key = order.key
        name = hashlib.sha256(f"{key.uuid}/{key.incarnation}/{key.id}".encode()).hexdigest()[:16]
        return self._directory / name

    def _address(self, order: Order) -> Address:
        return Address(order.key.id, path=str(self._folder(order) / "socket"))

    async def _start(self, order: Order, image: Layer, address: Address) -> Daemon:
        folder, uid = self._folder(order), order.request.uid
        if len(address.path.encode()) > SOCKET_BYTES_MAX:
            raise bad_request(
                f"{address.path} is too long for a unix socket",
                hint="Choose a MANOR_DIR with a shorter path.",
            )
        folder.mkdir(mode=0o700)
        if uid and privileges.may(privileges.SETUID):
            access.share(str(folder), uid)
        mark = _listen(Path(address.path))
        return await daemons.start(command(order, image, mark), address.path, uid, mark)

    async def _clear(self, folder: Path) -> None:
        """End whatever listens in a folder of ours, and remove it."""
        mark = _listen(folder / "socket")
        pid = (await storage.ask("/proc", partial(daemons.find, PROGRAM, mark))).get(mark)
        daemon = daemons.hold(pid, mark) if pid is not None else None
        if daemon is not None:
            await daemon.stop()
        await storage.ask(str(folder), partial(shutil.rmtree, folder, ignore_errors=True))

    async def _forget(self, key: DeviceKey) -> None:
        self._files.forget(key)
        export = self._exports.pop(key, None)
        if export is None:
            return
        if export.watch is not None:
            export.watch.cancel()
            await asyncio.gather(export.watch, return_exceptions=True)
        if export.daemon is not None:
            await export.daemon.stop()

    def _watch(self, export: Export) -> None:
        self._exports[export.order.key] = export
        if export.daemon is not None:
            export.daemon.watch(lambda: self._lost(export, f"{PROGRAM} ended"))
        export.watch = asyncio.get_running_loop().create_task(self._look(export))

    async def _look(self, export: Export) -> None:
        """Notice a server that is there and does not answer: a stopped process, a dead machine."""
        misses = 0
        while misses < MISSES_MAX:
            await asyncio.sleep(self._probe_s)
            try:
                await greet(export.address)
                misses = 0
            except ManorError:
                misses += 1
        if export.daemon is not None:
            export.daemon.kill()  # its end is noticed; nothing new starts before it is really gone
        else:
            self._lost(export, "the NBD server does not answer")

    def _lost(self, export: Export, reason: str) -> None:
        if self._exports.get(export.order.key) is not export:
            return
        del self._exports[export.order.key]
        if export.watch is not None:
            export.watch.cancel()
        order = export.order
        self._notify(Notice("lost", reason, order.key, order.generation, order.epoch))


def command(order: Order, image: Layer, listen: str) -> list[str]:
    """Return the daemon's command line. Options travel as JSON: no character of a path means anything."""
    disk = disk_of(order)
    storage = {
        "driver": "host_device" if image.block else "file",
        "node-name": "storage",
        "filename": image.path,
        "read-only": disk.read_only,
        "discard": "unmap" if disk.discard else "ignore",
        "cache": _cache(disk),
        **({"locking": "off"} if disk.shareable else {}),
    }
    top = {
        "driver": image.format,
        "node-name": "top",
        "file": "storage",
        "read-only": disk.read_only,
        "discard": "unmap" if disk.discard else "ignore",
    }
    export = {
        "type": "nbd",
        "id": "export",
        "node-name": "top",
        "name": order.key.id,
        "writable": not disk.read_only,
    }
    nodes = ["--blockdev", json.dumps(storage), "--blockdev", json.dumps(top)]
    return [PROGRAM, *nodes, "--nbd-server", listen, "--export", json.dumps(export)]


def _cache(disk: Disk) -> dict[str, bool]:
    return {"direct": disk.cache in ("none", "directsync"), "no-flush": disk.cache == "unsafe"}


def _listen(socket: Path) -> str:
    """Return the argument that makes a daemon ours."""
    return json.dumps({"addr": {"type": "unix", "path": str(socket)}})


def _connected_sockets() -> set[str]:
    """Return the paths of unix sockets somebody is connected to (proc(5), /proc/net/unix)."""
    connected = "03"
    lines = (line.split() for line in Path("/proc/net/unix").read_text(errors="replace").splitlines())
    return {line[7] for line in lines if len(line) == 8 and line[5] == connected}


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= PROBE_MAX_S:
        reason = f"must be a number of seconds up to {PROBE_MAX_S:.0f}"
        raise bad_request(
            f"probe_s {reason}", Problem(path="settings.probe_s", reason=reason, value=text[:40])
        )
    return seconds


def _bad_uri(uri: str, reason: str) -> ManorError:
    return bad_request(
        f"NBD URI {uri[:200]}: {reason}", Problem(path="disk.nbd", reason=reason, value=uri[:200])
    )


def open_backend(settings: BackendSettings) -> NbdBackend:
    """Open the back end, if its program is installed."""
    if shutil.which(PROGRAM) is None:
        raise unavailable(
            f"{PROGRAM} is not installed",
            delivered=True,
            hint="Install it (Debian: qemu-system-common).",
        )
    return NbdBackend(settings)
