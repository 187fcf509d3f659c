"""The hypervisor QEMU: which guests there are, and the calls about them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from pathlib import Path

from manor_bus.wire.errors import ManorError, bad_request, conflict, denied_state, not_found
from manor_bus.wire.messages.consoles import LastRun
from manor_lifecycle.hypervisors import (
    LEFTOVERS,
    AdapterSettings,
    Attachment,
    Changed,
    ConsoleStream,
    Creation,
    Description,
    Progress,
)
from manor_lifecycle.hypervisors.lanes import DESTROY_S, LOOK_S, Lanes
from manor_lifecycle.hypervisors.qemu import birth, folder, hotplug, keeping, serial
from manor_lifecycle.hypervisors.qemu.census import Census
from manor_lifecycle.hypervisors.qemu.guest import Guest
from manor_lifecycle.hypervisors.qemu.options import Options
from manor_lifecycle.hypervisors.qemu.program import Program
from manor_lifecycle.hypervisors.qemu.record import Record
from manor_lifecycle.hypervisors.qemu.site import Site
from manor_lifecycle.hypervisors.seen import Leftover, LeftoverKind, Run, SavedImage, Seen


class QemuHypervisor:
    """See `Hypervisor`. Call `begin` before anything else."""

    def __init__(
        self,
        settings: AdapterSettings,
        options: Options,
        program: Program,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._happened: asyncio.Queue[Changed | None] = asyncio.Queue()
        say, durable = self._happened.put_nowait, settings.durable
        self._site = Site(program, settings.directory, options, durable, say, wall, settings.state_id)
        self._census = Census(self._site)
        self._guests, self._notes = self._census.guests, self._census.notes
        self._lanes = Lanes()

    # --- the adapter itself -----------------------------------------------------------------------------

    async def begin(self) -> None:
        """Find the guests that an earlier process of this service started."""
        await self._census.begin()

    async def describe(self) -> Description:
        """Say what is installed and what of it works here."""
        program = self._site.program
        return Description("qemu", program.version_text, program.accelerators, program.features())

    async def look(self, uuid: str | None = None) -> Mapping[str, Seen]:
        """Ask every guest, or one, side by side."""
        names = [uuid] if uuid is not None else self._census.names()
        return dict(zip(names, await asyncio.gather(*map(self._look_at, names)), strict=True))

    async def _look_at(self, uuid: str) -> Seen:
        async with self._lanes.turn_within(uuid, LOOK_S) as held:
            unknown = "" if held else f"a call about it has not returned for {LOOK_S:g} s"
            guest = self._guests.get(uuid)
            if guest is None:
                return self._census.without_guest(uuid, unknown)
            if held:
                try:
                    await guest.look()
                except ManorError as error:
                    unknown = error.message
            return Seen(uuid, self._notes.last(uuid), guest.seen(), unknown=unknown)

    async def events(self) -> AsyncIterator[Changed]:
        """Yield what happens."""
        while (event := await self._happened.get()) is not None:
            yield event

    async def close(self) -> None:
        """Let go; the guests stay."""
        await self._census.close()
        self._happened.put_nowait(None)

    # --- runs -------------------------------------------------------------------------------------------

    async def create(self, creation: Creation) -> None:
        """Make a paused guest."""
        async with self._lanes.turn(creation.run.uuid):
            if not await self._is_there(creation):
                record = await birth.draft(self._site, creation)
                self._notes.begin(record.uuid, record.incarnation)
                await self._make(record)

    async def restore(self, creation: Creation, path: Path, image: str = "") -> None:
        """Make a paused guest that goes on where the saved one was."""
        async with self._lanes.turn(creation.run.uuid):
            if await self._is_there(creation):
                return
            with keeping.opened(path) as (descriptor, header):
                await asyncio.to_thread(keeping.check, descriptor, header, path)
                record = birth.redraft(self._site, header.record, creation)
                await keeping.demand_same(self._site, header, image, record.plugged)
                self._notes.begin(record.uuid, record.incarnation)
                await self._make(record, descriptor)

    async def _is_there(self, creation: Creation) -> bool:
        """Say whether the run exists. Another one, or the remains of one, must be destroyed first."""
        run = creation.run
        if run.uuid in self._census.unreadable:
            message = f"a guest of {creation.name} runs, and {self._census.unreadable[run.uuid][1]}"
            raise denied_state(message, hint="Destroy it first.")
        there = self._guests.get(run.uuid)
        record = there.record if there is not None else self._census.gone.get(run.uuid)
        if there is not None and there.run == run:
            there.demand_life()
            return True
        if record is not None and record.incarnation < run.incarnation:
            message = f"run {record.incarnation} of {creation.name} is still there"
            raise conflict(message, hint="Destroy it first.")
        return False  # an older one is refused when its number is noted

    async def _make(self, record: Record, saved: int | None = None) -> Guest:
        """Start a guest, from the beginning or with the stream of a saved one."""
        guest = self._guests[record.uuid] = await birth.launch(self._site, record, saved)
        guest.watch()
        return guest

    @contextlib.asynccontextmanager
    async def _turn(self, run: Run) -> AsyncIterator[Guest]:
        """Take a living run's turn in its lane."""
        async with self._lanes.turn(run.uuid):
            guest = self._live(run)
            guest.demand_life()
            yield guest

    def _live(self, run: Run) -> Guest:
        guest = self._guests.get(run.uuid)
        if guest is None or guest.record.incarnation < run.incarnation:
            raise not_found(f"qemu has no run {run.incarnation} of {run.uuid}", hint="Ask for its state.")
        if guest.record.incarnation > run.incarnation:
            raise birth.stale(guest, run)
        return guest

    async def resume(self, run: Run) -> None:
        """Let it run."""
        async with self._turn(run) as guest:
            await guest.resume()

    async def pause(self, run: Run) -> None:
        """Stop it."""
        async with self._turn(run) as guest:
            await guest.ask("stop")

    async def shutdown(self, run: Run) -> None:
        """Press the power button."""
        async with self._turn(run) as guest:
            await guest.ask("system_powerdown")

    async def reset(self, run: Run, incarnation: int) -> None:
        """Start the same machine from the beginning, in a new process."""
        async with self._lanes.turn(run.uuid):
            guest = self._guests.get(run.uuid)
            if guest is not None and guest.record.incarnation == incarnation:
                return
            guest = self._live(run)
            with contextlib.suppress(ManorError):  # one that hangs: what it last said
                await guest.status()
            ran = guest.runs
            self._notes.begin(run.uuid, incarnation)
            await self._end(guest)
            folder.keep_words(guest.path)
            fresh = await self._make(birth.reborn(guest.record, incarnation, self._site.wall()))
            if ran:
                await fresh.resume()

    async def destroy(self, run: Run) -> None:
        """End it and leave nothing of it, whatever is stuck in its lane."""
        async with self._lanes.turn_within(run.uuid, DESTROY_S):
            await self._destroy(run)

    async def _destroy(self, run: Run) -> None:
        guest = self._guests.get(run.uuid)
        if guest is not None:
            if guest.record.incarnation > run.incarnation:
                raise birth.stale(guest, run)
            await self._end(guest)
            self._census.forget(guest.record)
        else:
            await self._census.clear(run.uuid)

    async def _end(self, guest: Guest) -> None:
        await birth.end(guest)
        self._guests.pop(guest.record.uuid, None)

    # --- devices, size, and the rest --------------------------------------------------------------------

    async def plug(self, run: Run, attachment: Attachment) -> None:
        """Attach a device."""
        async with self._turn(run) as guest:
            await hotplug.plug(guest, attachment)

    async def unplug(self, run: Run, device: str, *, force: bool, timeout_s: float) -> None:
        """Detach a device."""
        async with self._turn(run) as guest:
            await hotplug.unplug(guest, device, force=force, timeout_s=timeout_s)

    async def save(self, run: Run, path: Path, progress: Progress, image: str = "") -> SavedImage:
        """Write it to a file."""
        async with self._turn(run) as guest:
            return await keeping.save(guest, path, progress, image)

    async def saved_image(self, path: Path) -> SavedImage:
        """Read what a file is."""
        return await asyncio.to_thread(keeping.image_of, path)

    async def coredump(self, run: Run, path: Path) -> None:
        """Write its memory to a file."""
        async with self._lanes.turn(run.uuid):
            await keeping.coredump(self._live(run), path)

    async def set_memory(self, run: Run, memory_mib: int) -> None:
        """Set the balloon."""
        async with self._turn(run) as guest:
            memory = guest.record.spec.memory
            most = max(memory.max_mib or 0, memory.size_mib)
            if not 1 <= memory_mib <= most:
                message = f"{guest.record.name} can have up to {most} MiB until it is started anew"
                raise bad_request(message, hint="Raise spec.memory.max_mib and start it again.")
            async with guest.changing(asked_mib=memory_mib):
                await guest.ask("balloon", {"value": memory_mib << 20})

    async def set_cpus(self, run: Run, count: int) -> None:
        """Plug or unplug processors."""
        async with self._turn(run) as guest:
            await hotplug.set_cpus(guest, count)

    async def rename(self, run: Run, name: str) -> None:
        """Show it under another name."""
        async with self._lanes.turn(run.uuid):
            self._live(run).remember(name=name)

    async def nmi(self, run: Run) -> None:
        """Send a non-maskable interrupt."""
        async with self._turn(run) as guest:
            await guest.ask("inject-nmi")

    async def screenshot(self, run: Run) -> bytes:
        """Return a picture of the screen."""
        async with self._turn(run) as guest:
            return await keeping.screenshot(guest)

    async def console(self, run: Run) -> ConsoleStream:
        """Open the serial console."""
        guest = self._live(run)
        console = guest.record.spec.console
        if console.type == "none":
            raise denied_state(f"{guest.record.name} has no console", hint="Set spec.console.type.")
        return await serial.open_console(guest.path, logged=console.log)

    # --- what stays on the node -------------------------------------------------------------------------

    async def last_run(self, uuid: str) -> LastRun | None:
        """Return what was said last; what is kept of a guest that ended lies where it wrote it."""
        guest = self._guests.get(uuid)
        over = uuid in self._census.gone or (guest is not None and guest.record.ended is not None)
        return await asyncio.to_thread(folder.last_run, self._site.directory / uuid, over=over)

    async def leftovers(self, uuid: str) -> tuple[Leftover, ...]:
        """List the files of a domain."""
        return await asyncio.to_thread(folder.leftovers, self._site.directory / uuid)

    async def remove(self, uuid: str, kinds: Collection[LeftoverKind] = LEFTOVERS) -> None:
        """Remove them."""
        async with self._lanes.turn(uuid):
            if uuid in self._guests or uuid in self._census.gone or uuid in self._census.unreadable:
                raise denied_state(f"{uuid} has a run", hint="Destroy it first.")
            await asyncio.to_thread(folder.remove, self._site.directory / uuid, kinds)
            if "note" in kinds:
                self._notes.known.pop(uuid, None)
