"""The beginning and the end of a guest's process. On any error in the beginning, nothing is left of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Final

import msgspec

from manor_bus.wire.errors import Kind, ManorError, bad_request
from manor_host import clock
from manor_host.processes import Watched
from manor_lifecycle.hypervisors import Creation
from manor_lifecycle.hypervisors.qemu import complaints, folder, keeping, monitor, process
from manor_lifecycle.hypervisors.qemu.arguments import command_line
from manor_lifecycle.hypervisors.qemu.guest import Guest
from manor_lifecycle.hypervisors.qemu.lending import backing_name
from manor_lifecycle.hypervisors.qemu.record import PCI_SLOTS, Record, added, needs_slot
from manor_lifecycle.hypervisors.qemu.refusals import affinity, refusals
from manor_lifecycle.hypervisors.qemu.site import Site
from manor_lifecycle.hypervisors.qemu.wiring import opened, unreadable, wire
from manor_lifecycle.hypervisors.seen import Run

ROOT_PORTS: Final = 120  # what fits into slots 0x10 to 0x1e of the root bus
RECONNECT_MS_SINCE: Final = (9, 2)
GONE_S: Final = 10.0
QUIT_S: Final = 3.0
LAST_WORDS_S: Final = 2.0


async def draft(site: Site, creation: Creation) -> Record:
    """Decide the shape of a new machine. Raises `bad_request` with everything that cannot be."""
    spec = creation.spec
    files = [await unreadable(site, field, getattr(spec.boot, field)) for field in ("kernel", "initrd")]
    kvm = site.program.accelerators[0] == "kvm"
    problems = (*refusals(spec, os.cpu_count() or 1, kvm=kvm), *(problem for problem in files if problem))
    if problems:
        raise bad_request(f"qemu cannot run {creation.name} as it is described", *problems)
    machine = site.program.machine(spec)
    wanted = site.options.spare_slots + sum(needs_slot(one.device) for one in creation.attachments)
    record = Record(
        uuid=creation.run.uuid,
        name=creation.name,
        incarnation=creation.run.incarnation,
        born=creation.run.incarnation,
        spec=spec,
        uid=creation.uid,
        machine=machine,
        accelerator=site.program.accelerators[0],
        cpus=spec.cpu.count,
        memory_mib=spec.memory.size_mib,
        slots=min(wanted, ROOT_PORTS) if "q35" in machine else PCI_SLOTS,
        created=site.wall(),
        scsi=any(disk.bus == "scsi" for disk in spec.disks),
        reconnect_ms=site.program.version >= RECONNECT_MS_SINCE,
    )
    for attachment in creation.attachments:
        record, _ = added(record, attachment)
    return record


def redraft(site: Site, before: Record, creation: Creation) -> Record:
    """Return the record of a saved guest as its new run: the same machine, with the back ends of today."""
    if before.uuid != creation.run.uuid:
        raise bad_request(f"the saved state is of another domain ({before.name}, {before.uuid})")
    if before.machine not in site.program.machines:
        version = site.program.version_text
        raise bad_request(f"QEMU {version} has no machine type {before.machine}, which the saved state needs")
    today = {one.device.id: one.descriptor for one in creation.attachments}
    missing = [one.device.id for one in before.plugged if not one.gone and one.device.id not in today]
    if missing:
        names = ", ".join(missing)
        raise bad_request(f"the saved state of {before.name} has devices that are not given: {names}")
    again = reborn(before, creation.run.incarnation, site.wall())
    return msgspec.structs.replace(
        again,
        name=creation.name,
        born=creation.run.incarnation,
        uid=creation.uid,
        plugged=tuple(msgspec.structs.replace(one, descriptor=today[one.device.id]) for one in again.plugged),
        accelerator=site.program.accelerators[0],
        reconnect_ms=site.program.version >= RECONNECT_MS_SINCE,
    )


def reborn(record: Record, incarnation: int, now: float) -> Record:
    """Return the record of the next run of the same machine."""
    plugged = tuple(one for one in record.plugged if not one.gone)
    return msgspec.structs.replace(
        record, incarnation=incarnation, created=now, plugged=plugged, troubles=(), ended=None, detail=""
    )


def stale(guest: Guest, run: Run) -> ManorError:
    """Return the error for a call about an older run."""
    message = f"run {run.incarnation} of {guest.record.name} is over; it is at {guest.record.incarnation} now"
    return ManorError(Kind.STALE, message, hint="Ask for its state.")


async def launch(site: Site, record: Record, saved: int | None = None) -> Guest:
    """Start the process of a record, paused, and connect to it. On any error nothing of the run is left.

    `saved`: where it goes on, a descriptor at the beginning of the stream of a saved guest.
    """
    path = site.directory / record.uuid
    path.mkdir(mode=0o711, exist_ok=True)
    guest: Guest | None = None
    try:
        with contextlib.ExitStack() as open_files:
            wiring, descriptors = await wire(site, record, path, open_files, incoming=saved is not None)
            record = msgspec.structs.replace(
                record, argv=tuple(command_line(record, wiring)), pid=0, boot_id=clock.boot_id()
            )
            folder.write_record(path, record, durable=site.durable)  # so that the process can be found
            log_flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC
            output = opened(open_files, path / folder.QEMU_LOG, log_flags)
            started = await process.launch(
                record.argv, descriptors, output, record.uid, site.state_id, site.options.birthplace
            )
            guest = Guest(site, record, started)
        guest.remember(pid=started.identity.pid, started_ticks=started.identity.ticks)
        await _greet(guest)
        await pin(guest)
        await (shrink(guest) if saved is None else keeping.bring_back(guest, saved))
    except BaseException as error:
        if guest is not None:
            await asyncio.shield(end(guest))
        (path / folder.CONSOLE_LOG).unlink(missing_ok=True)  # it printed nothing: what the last run did stays
        folder.empty(path)
        if isinstance(error, OSError):
            raise folder.unwritable(path, error) from None
        raise
    return guest


async def _greet(guest: Guest) -> None:
    """Connect, or say why the process ended instead."""
    loop = asyncio.get_running_loop()
    greeting = loop.create_task(guest.monitor.connect(guest.path))
    ended = loop.create_task(guest.process.ended.wait())
    try:
        await asyncio.wait((greeting, ended), return_when=asyncio.FIRST_COMPLETED)
        if greeting.done() and greeting.exception() is not None:  # it is probably about to end
            await asyncio.wait((ended,), timeout=LAST_WORDS_S)
        if not guest.process.ended.is_set():
            return await greeting
    finally:
        ended.cancel()
        greeting.cancel()
        await asyncio.gather(greeting, ended, return_exceptions=True)
    words = folder.last_words(guest.path) or f"it ended with status {guest.process.status}"
    raise await explained(guest.record, words)


async def explained(record: Record, words: str) -> ManorError:
    """Return what QEMU's refusal means; who holds a file is looked for outside of the loop."""
    return await asyncio.to_thread(complaints.explain, record, words, process.holder, backing_name)


async def end(guest: Guest) -> None:
    """End the process, politely first so that image files are closed properly. Raises `timeout` (zombie)."""
    guest.doomed = True
    if guest.monitor.connected and not guest.process.ended.is_set():
        with contextlib.suppress(ManorError, monitor.Refusal):
            await guest.monitor.ask("quit", wait_s=QUIT_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(QUIT_S):
                await guest.process.ended.wait()
    guest.process.kill()
    await gone(guest.process, guest.record.name)
    await guest.leave()


async def gone(killed: Watched, name: str) -> None:
    """Wait for the end of a killed process. Raises `timeout` (zombie)."""
    try:
        async with asyncio.timeout(GONE_S):
            await killed.ended.wait()
    except TimeoutError:
        message = f"process {killed.identity.pid} of {name} does not end although it was killed"
        raise ManorError(Kind.TIMEOUT, message, hint="It hangs in the kernel; look at its disks.") from None


async def shrink(guest: Guest) -> None:
    """Set the balloon of a guest that was started with room to grow."""
    record, memory = guest.record, guest.record.spec.memory
    if record.memory_mib < max(memory.max_mib or 0, memory.size_mib):
        await guest.ask("balloon", {"value": record.memory_mib << 20})


async def pin(guest: Guest) -> None:
    """Keep the virtual processors on those that the document names."""
    chosen = affinity(guest.record.spec.cpu.affinity, os.cpu_count() or 1)
    if chosen:
        for cpu in await guest.ask("query-cpus-fast"):
            os.sched_setaffinity(cpu["thread-id"], chosen)
