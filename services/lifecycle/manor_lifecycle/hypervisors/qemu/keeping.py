"""Memory and screens in files: save, the stream back into a new process, core dumps, pictures.

QEMU may not open files itself, nor start programs; it is handed descriptors.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import stat
from collections.abc import AsyncIterator, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from manor_bus.wire.errors import Kind, ManorError, bad_request, denied_state, not_found
from manor_host import durable
from manor_lifecycle.hypervisors import Progress
from manor_lifecycle.hypervisors.qemu import saved
from manor_lifecycle.hypervisors.qemu.folder import last_words, unwritable
from manor_lifecycle.hypervisors.qemu.guest import Guest
from manor_lifecycle.hypervisors.qemu.record import Plugged, Record
from manor_lifecycle.hypervisors.qemu.site import Site
from manor_lifecycle.hypervisors.seen import CauseWord, DiskIdentity, SavedImage, differences

LOOK_S: Final = 0.05
UNLIMITED: Final = 1 << 40  # bytes per second
SLOWEST: Final = 5 << 20  # bytes per second, below which a transfer is given up
LEAST_S: Final = 60.0
CANCEL_S: Final = 30.0
BLOCK: Final = 1 << 20


@contextlib.asynccontextmanager
async def _made(path: Path) -> AsyncIterator[int]:
    """Write a file, under another name until it is whole. Whatever goes wrong, nothing of it is left then."""
    there = f"{path}.part"
    try:
        descriptor = os.open(there, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
        os.rename(there, path)
        there = str(path)
        await asyncio.to_thread(durable.sync_folder, path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(there)
        if isinstance(error, OSError):
            raise unwritable(path, error) from None
        raise


async def save(guest: Guest, path: Path, progress: Progress, image: str) -> SavedImage:
    """Write a guest to a file; it is then paused. On error it goes on as before and no file is left."""
    await guest.status()
    guest.demand_life()
    ran = guest.runs
    try:
        await _begin_anew(guest)
        async with _made(path) as descriptor:
            header = await _stream(guest, descriptor, progress, image or secrets.token_hex(8))
    except BaseException:
        await asyncio.shield(_go_on(guest, ran))
        raise
    progress(1.0)
    return header.image


async def _begin_anew(guest: Guest) -> None:
    """End what a service that ended began; after a whole stream QEMU begins no other before the guest ran."""
    await _end_stream(guest)
    _, cause = await guest.status()
    if cause.word is CauseWord.SAVING:
        await guest.ask("cont")


async def _stream(guest: Guest, descriptor: int, progress: Progress, image: str) -> saved.Header:
    await guest.ask("stop")
    os.lseek(descriptor, saved.HEADER_BYTES, os.SEEK_SET)
    await guest.ask("getfd", {"fdname": "save"}, lend=descriptor)
    await guest.ask("migrate-set-parameters", {"max-bandwidth": UNLIMITED})
    await guest.ask("migrate", {"uri": "fd:save"})
    await _until_migrated(guest, progress)
    header = saved.Header(
        id=image,
        record=guest.record,
        disks=await identities(guest.site, guest.record.plugged),
        version=guest.site.program.version_text,
        length=os.fstat(descriptor).st_size - saved.HEADER_BYTES,
        sha256=await asyncio.to_thread(_digest, descriptor),
    )
    os.pwrite(descriptor, saved.encode(header), 0)
    await asyncio.to_thread(os.fsync, descriptor)
    return header


async def identities(site: Site, devices: Iterable[Plugged]) -> tuple[DiskIdentity, ...]:
    """Look at the files and devices behind disks. Raises OSError."""
    found = []
    for one in devices:
        if one.disk is not None and one.descriptor.type == "file" and not one.gone:
            path = str(one.descriptor.args.get("path", ""))
            found.append(await site.look_at(path, partial(_identity, one.device.id, path)))
    return tuple(found)


def _identity(name: str, path: str) -> DiskIdentity:
    there = os.stat(path)
    size, modified = there.st_size, there.st_mtime_ns
    if stat.S_ISBLK(there.st_mode):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size, modified = os.lseek(descriptor, 0, os.SEEK_END), 0
        finally:
            os.close(descriptor)
    return DiskIdentity(name, path, there.st_dev, there.st_ino, size, modified)


async def demand_same(site: Site, header: saved.Header, image: str, devices: Iterable[Plugged]) -> None:
    """Raise when it is another image than asked for, or its disks are not what they were."""
    name = header.record.name
    if image and header.id != image:
        raise ManorError(Kind.STALE, f"the saved state of {name} is {header.id}, not {image}")
    try:
        changed = differences(header.disks, await identities(site, devices))
    except OSError as error:
        changed = (f"{error.filename}: {error.strerror}",)
    if changed:
        message = f"the saved state of {name} does not fit any more: {'; '.join(changed)}"
        hint = "Bring back what it was, or discard the saved state and start the domain."
        raise denied_state(message, hint=hint)


async def _go_on(guest: Guest, was_running: bool) -> None:
    """After a save that was not to be: end the transfer, let the guest run again."""
    with contextlib.suppress(ManorError):
        await _end_stream(guest)
        if was_running:
            await guest.ask("cont")


async def _end_stream(guest: Guest) -> None:
    await guest.ask("migrate_cancel")
    try:
        await _until(guest, "query-migrate", ("active", "setup", "cancelling", "device"), CANCEL_S)
    except TimeoutError:
        message = f"a transfer of {guest.record.name} does not end within {CANCEL_S:g} s"
        raise ManorError(Kind.TIMEOUT, message, hint="Look at the disk that it is written to.") from None


async def _until(guest: Guest, question: str, underway: tuple[str, ...], bound_s: float) -> str:
    """Ask until the status is another; return that one."""
    async with asyncio.timeout(bound_s):
        while True:
            status = str((await guest.ask(question)).get("status"))
            if status not in underway:
                return status
            await asyncio.sleep(LOOK_S)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[int, saved.Header]]:
    """Open a saved guest, never to change it, and read what it is."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise not_found(f"there is no saved state at {path}", hint="Discard the saved state.") from None
    except OSError as error:
        raise saved.damaged(str(path), error.strerror or str(error)) from None
    try:
        block, size = os.pread(descriptor, saved.HEADER_BYTES, 0), os.fstat(descriptor).st_size
        yield descriptor, saved.decode(block, size, str(path))
    finally:
        os.close(descriptor)


def image_of(path: Path) -> SavedImage:
    """Return what a saved guest is, without a look at its stream."""
    with opened(path) as (_, header):
        return header.image


def check(descriptor: int, header: saved.Header, path: Path) -> None:
    """Check the stream of a saved guest; leaves the descriptor at its beginning."""
    saved.check(header, _digest(descriptor), str(path))
    os.lseek(descriptor, saved.HEADER_BYTES, os.SEEK_SET)


async def bring_back(guest: Guest, descriptor: int) -> None:
    """Read the stream of a saved guest into a process that waits for it."""
    await guest.ask("getfd", {"fdname": "saved"}, lend=descriptor)
    try:
        await guest.ask("migrate-incoming", {"uri": "fd:saved"})
        await _until_migrated(guest, lambda done: None)
    except ManorError as error:
        if error.kind is not Kind.UNAVAILABLE:
            raise
        words = last_words(guest.path)
        raise denied_state(f"QEMU did not take the saved state of {guest.record.name}: {words}") from None


async def _until_migrated(guest: Guest, progress: Progress) -> None:
    bound_s = _bound(guest.record)
    try:
        async with asyncio.timeout(bound_s):
            while True:
                state: dict[str, Any] = await guest.ask("query-migrate")
                if state.get("status") == "completed":
                    return
                if state.get("status") in ("failed", "cancelled"):
                    reason = state.get("error-desc", "QEMU does not say why; see its log")
                    raise denied_state(f"the state of {guest.record.name} was not transferred: {reason}")
                ram = state.get("ram", {})
                if ram.get("total"):
                    progress(min(0.99, 1 - ram["remaining"] / ram["total"]))
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        message = f"the state of {guest.record.name} was not transferred within {bound_s:g} s"
        raise ManorError(Kind.TIMEOUT, message, hint="The disk of this node may be too slow.") from None


def _bound(record: Record) -> float:
    memory = max(record.spec.memory.max_mib or 0, record.spec.memory.size_mib) << 20
    return LEAST_S + memory / SLOWEST


def _digest(descriptor: int) -> str:
    digest, offset = hashlib.sha256(), saved.HEADER_BYTES
    while block := os.pread(descriptor, BLOCK, offset):
        digest.update(block)
        offset += len(block)
    return digest.hexdigest()


# --- dumps and pictures -----------------------------------------------------------------------------------


async def coredump(guest: Guest, path: Path) -> None:
    """Write the guest's memory as an ELF core file; the guest goes on as before."""
    if guest.process.ended.is_set():
        raise denied_state(f"the process of {guest.record.name} is gone, and its memory with it")
    async with _made(path) as descriptor:
        await guest.ask("getfd", {"fdname": "dump"}, lend=descriptor)
        await guest.ask("dump-guest-memory", {"paging": False, "protocol": "fd:dump", "detach": True})
        try:
            status = await _until(guest, "query-dump", ("active",), _bound(guest.record))
        except TimeoutError:
            raise ManorError(Kind.TIMEOUT, f"the dump of {guest.record.name} takes too long") from None
        if status != "completed":
            raise ManorError(Kind.NO_CAPACITY, f"the memory of {guest.record.name} could not be written")


async def screenshot(guest: Guest) -> bytes:
    """Return a PNG of the screen."""
    graphics = guest.record.spec.graphics
    if graphics.type == "none" and graphics.video in ("", "none"):
        raise denied_state(f"{guest.record.name} has no screen", hint="Set spec.graphics.video.")
    if guest.site.program.version < (7, 1):
        raise bad_request("this QEMU makes no PNG pictures; it is older than 7.1")
    memory = os.memfd_create("screenshot", os.MFD_CLOEXEC)
    for_writing = os.open(f"/proc/self/fd/{memory}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        lent = await guest.ask("add-fd", lend=for_writing)
        name = f"/dev/fdset/{lent['fdset-id']}"
        try:
            await guest.ask("screendump", {"filename": name, "format": "png"})
        finally:
            await guest.ask("remove-fd", {"fdset-id": lent["fdset-id"]})
        return os.pread(memory, os.fstat(memory).st_size, 0)
    finally:
        os.close(for_writing)
        os.close(memory)
