"""The fake hypervisor: its calls, and what happens by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec

from manor_bus.wire.errors import Kind, ManorError, conflict, not_found
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
from manor_lifecycle.hypervisors.fake.faults import Effect, Faults
from manor_lifecycle.hypervisors.fake.guest import FEATURES, Guest, seen
from manor_lifecycle.hypervisors.fake.screen import PICTURE, EchoConsole
from manor_lifecycle.hypervisors.fake.store import Store, read_image, write_image, write_whole
from manor_lifecycle.hypervisors.lanes import DESTROY_S, LOOK_S, Lanes
from manor_lifecycle.hypervisors.seen import (
    Activity,
    CauseWord,
    EndReason,
    Leftover,
    LeftoverKind,
    Run,
    SavedImage,
    Seen,
    with_devices,
)

SHUTDOWN_S: Final = 0.05  # a guest takes so long to power off
SAVE_STEPS: Final = 4


class FakeHypervisor:
    """See the module. `wall` gives seconds since 1970; timers run on the loop's clock."""

    def __init__(
        self,
        settings: AdapterSettings,
        wall: Callable[[], float] = time.time,
    ) -> None:
        options = settings.options
        self.faults = Faults(
            settings.directory, exits=bool(options.get("exits")), hostile=options.get("hostile", "")
        )
        self._loop = asyncio.get_running_loop()
        self._wall, self._clock = wall, self._loop.time
        self._store = Store(settings.directory)
        self._lanes = Lanes()
        self._answers: dict[str, Seen] = {}  # of the last look, for when it lies
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._consoles: dict[str, EchoConsole] = {}
        self._happened: asyncio.Queue[Changed | None] = asyncio.Queue()
        for guest in self._store.there.values():
            if guest.activity in (Activity.RUNS, Activity.SLEEPS):
                self._schedule(guest)

    # --- facts ----------------------------------------------------------------------------------------

    async def describe(self) -> Description:
        """Say what this is: everything is possible."""
        return Description(name="fake", version="1", accelerators=(), features=FEATURES)

    async def look(self, uuid: str | None = None) -> Mapping[str, Seen]:
        """Say what is there; what was to come late has come before that."""
        names = [uuid] if uuid is not None else [*self._store.there, *self._store.past]
        return dict(zip(names, await asyncio.gather(*map(self._look_at, names)), strict=True))

    async def _look_at(self, uuid: str) -> Seen:
        async with self._lanes.turn_within(uuid, LOOK_S) as held:
            if held:
                self.faults.arrive(uuid)
            guest = self._store.known(uuid)
            why = "" if held else f"a call about it has not returned for {LOOK_S:g} s"
            if guest is not None and held:
                try:
                    async with asyncio.timeout(LOOK_S):
                        how = await self.faults.obey("look", guest.name, uuid, guest.told)
                    if how is Effect.NONE and uuid in self._answers:
                        return self._answers[uuid]
                except (ManorError, TimeoutError) as error:
                    why = str(error) or f"no answer within {LOOK_S:g} s"
            self._answers[uuid] = seen(uuid, guest, self._clock(), why)
            return self._answers[uuid]

    async def events(self) -> AsyncIterator[Changed]:
        """Yield what happens."""
        while (event := await self._happened.get()) is not None:
            yield event

    async def close(self) -> None:
        """Let go; the files stay."""
        for timer in self._timers.values():
            timer.cancel()
        self._happened.put_nowait(None)

    # --- runs -----------------------------------------------------------------------------------------

    async def create(self, creation: Creation) -> None:
        """Make a paused guest."""
        await self._make("create", creation)

    async def restore(self, creation: Creation, path: Path, image: str = "") -> None:
        """Make a paused guest from a saved one."""
        found = await self.saved_image(path)
        if image and found.id != image:
            raise ManorError(Kind.STALE, f"the saved state of {creation.name} is {found.id}, not {image}")
        await self._make("restore", replace(creation, spec=found.spec))

    async def saved_image(self, path: Path) -> SavedImage:
        """Read the file."""
        return read_image(path)

    async def _make(self, call: str, creation: Creation) -> None:
        run, spec = creation.run, creation.spec
        told = dict(spec.extra.get("fake", {}))
        async with self._lanes.turn(run.uuid):
            self.faults.arrive(run.uuid)
            there = self._store.there.get(run.uuid)
            if there is not None and there.incarnation != run.incarnation:
                raise conflict(f"run {there.incarnation} of {creation.name} is still there")
            past = self._store.past.get(run.uuid)
            if past is not None and past.incarnation >= run.incarnation:
                message = f"run {run.incarnation} of {creation.name} was made before"
                raise ManorError(Kind.STALE, message, hint="Ask for the domain's state.")
            how = await self.faults.obey(call, creation.name, run.uuid, told)
            if there is None:
                await self.faults.carry(how, call, run.uuid, lambda: self._born(creation, told))

    def _born(self, creation: Creation, told: dict[str, Any]) -> None:
        run, spec = creation.run, creation.spec
        if run.uuid in self._store.there:
            return
        guest = Guest(
            uuid=run.uuid,
            name=creation.name,
            incarnation=run.incarnation,
            activity=Activity.STANDS,
            started=self._wall(),
            cpus=spec.cpu.count,
            memory_mib=spec.memory.size_mib,
            devices={a.device.id: a.descriptor.generation for a in creation.attachments},
            told=told,
            born=run.incarnation,
            boot=self._store.boot,
            up_since=self._clock(),
            spec=with_devices(spec, [one.device for one in creation.attachments]),
        )
        self._store.put(guest)

    async def resume(self, run: Run) -> None:
        """Let it run, or wake it; a told end begins to count."""

        def effect(guest: Guest) -> None:
            if guest.go():
                self._schedule(guest)

        await self._do("resume", run, effect)

    async def pause(self, run: Run) -> None:
        """Stop it."""
        await self._do("pause", run, lambda guest: guest.stand(CauseWord.PERSON))

    async def shutdown(self, run: Run) -> None:
        """Ask it to power off."""

        def effect(guest: Guest) -> None:
            told = self.faults.wish("shutdown", guest.name, guest.told)
            if guest.activity is Activity.RUNS and told != "ignore":
                timer = self._loop.call_later(SHUTDOWN_S, self._end, run, EndReason.POWEROFF, "", False)
                self._timers[run.uuid] = timer

        await self._do("shutdown", run, effect)

    async def reset(self, run: Run, incarnation: int) -> None:
        """Continue under a new incarnation, from the beginning."""

        def effect(guest: Guest) -> None:
            guest.incarnation, guest.started, guest.up_since = incarnation, self._wall(), self._clock()

        guest = self._store.there.get(run.uuid)
        if guest is None or guest.incarnation != incarnation:
            await self._do("reset", run, effect)

    async def destroy(self, run: Run) -> None:
        """End it."""
        async with self._lanes.turn_within(run.uuid, DESTROY_S):
            self.faults.arrive(run.uuid)
            guest = self._store.there.get(run.uuid)
            if guest is None or guest.incarnation != run.incarnation or not guest.ours:
                return
            how = await self.faults.obey("destroy", guest.name, guest.uuid, guest.told)
            await self.faults.carry(how, "destroy", run.uuid, lambda: self._remove(guest))

    # --- changes of a run -----------------------------------------------------------------------------

    async def plug(self, run: Run, attachment: Attachment) -> None:
        """Attach a device."""
        device, generation = attachment.device, attachment.descriptor.generation
        await self._do("plug", run, lambda guest: guest.attach(device, generation))

    async def unplug(self, run: Run, device: str, *, force: bool, timeout_s: float) -> None:
        """Detach a device, if the guest agrees."""

        def effect(guest: Guest) -> None:
            if not ignored(guest):
                guest.detach(device)

        def ignored(guest: Guest) -> bool:
            told = self.faults.wish("unplug", guest.name, guest.told)
            return device in guest.devices and not force and told == "ignore"

        guest = await self._do("force-unplug" if force else "unplug", run, effect)
        if ignored(guest):
            await asyncio.sleep(timeout_s)
            message = f"the guest did not let {device} go within {timeout_s:g} s"
            raise ManorError(Kind.TIMEOUT, message, hint="Try again, or force.")

    def let_go(self, uuid: str, device: str) -> None:
        """Tests: the guest lets a device go late, or by itself."""
        guest = self._store.there[uuid]
        guest.detach(device)
        self._store.put(guest)
        self.say(Changed(uuid))

    async def save(self, run: Run, path: Path, progress: Progress, image: str = "") -> SavedImage:
        """Write a file that stands for the memory."""

        def effect(guest: Guest) -> None:
            write_image(path, guest, image)
            guest.stand(CauseWord.SAVING)

        for step in range(SAVE_STEPS):
            progress(step / SAVE_STEPS)
            await asyncio.sleep(0)
        await self._do("save", run, effect)
        return read_image(path)

    async def coredump(self, run: Run, path: Path) -> None:
        """Write a file that stands for the memory."""
        guest = self._store.there.get(run.uuid)
        if guest is None:
            raise _absent(run)
        how = await self.faults.obey("coredump", guest.name, guest.uuid, guest.told)
        await self.faults.carry(how, "coredump", run.uuid, lambda: write_whole(path, b"fake core\n"))

    async def set_memory(self, run: Run, memory_mib: int) -> None:
        """Balloon."""
        await self._do("set_memory", run, lambda guest: self._resize(guest, memory_mib, guest.cpus))

    async def set_cpus(self, run: Run, count: int) -> None:
        """Plug or unplug virtual CPUs."""
        await self._do("set_cpus", run, lambda guest: self._resize(guest, guest.memory_mib, count))

    async def rename(self, run: Run, name: str) -> None:
        """Show another name."""
        await self._do("rename", run, lambda guest: setattr(guest, "name", name))

    async def nmi(self, run: Run) -> None:
        """Count nothing, send nothing."""
        await self._do("nmi", run)

    async def screenshot(self, run: Run) -> bytes:
        """Return a very small picture."""
        await self._do("screenshot", run)
        return PICTURE

    async def last_run(self, uuid: str) -> LastRun | None:
        """Return what a guest would have printed."""
        return self._store.last_run(uuid)

    async def leftovers(self, uuid: str) -> tuple[Leftover, ...]:
        """List the file of a domain."""
        return self._store.leftovers(uuid)

    async def remove(self, uuid: str, kinds: Collection[LeftoverKind] = LEFTOVERS) -> None:
        """Remove it."""
        self._store.remove(uuid, kinds)

    async def console(self, run: Run) -> ConsoleStream:
        """Open a console that greets and echoes."""
        guest = await self._do("console", run)
        self._consoles[run.uuid] = EchoConsole.greeting(f"{guest.name}, run {guest.incarnation}")
        return self._consoles[run.uuid]

    # --- what happens by itself -----------------------------------------------------------------------

    def end(self, uuid: str, reason: EndReason, detail: str = "", *, kept: bool = False) -> None:
        """Tests: the run ends by itself, now."""
        self._end(Run(uuid, self._store.there[uuid].incarnation), reason, detail, kept)

    def change(self, uuid: str, **fields: Any) -> None:
        """Tests: something about a guest is different, such as `activity` with a `cause`, or `io`."""
        guest = msgspec.structs.replace(self._store.there[uuid], **fields)
        self._store.put(guest)
        self.say(Changed(uuid))

    def say(self, event: Changed) -> None:
        """Report something."""
        self._happened.put_nowait(event)

    # --- inside ---------------------------------------------------------------------------------------

    async def _do(self, call: str, run: Run, effect: Callable[[Guest], None] | None = None) -> Guest:
        """Carry a call about a living run out in its lane, as well or as badly as told."""
        async with self._lanes.turn(run.uuid):
            self.faults.arrive(run.uuid)
            guest = self._store.there.get(run.uuid)
            if guest is None or guest.incarnation < run.incarnation or guest.activity is Activity.ENDED:
                raise _absent(run)
            if guest.incarnation > run.incarnation:
                message = f"run {run.incarnation} of {guest.name} was followed by {guest.incarnation}"
                raise ManorError(Kind.STALE, message, hint="Ask for the domain's state.")
            how = await self.faults.obey(call, guest.name, guest.uuid, guest.told)

            def carried() -> None:
                now = self._store.there.get(run.uuid)
                same = now is not None and now.incarnation == run.incarnation
                if now is not None and same and now.activity is not Activity.ENDED:
                    if effect is not None:
                        effect(now)
                    self._store.put(now)

            await self.faults.carry(how, call, run.uuid, carried)
            return guest

    def _schedule(self, guest: Guest) -> None:
        told = self.faults.wish("end", guest.name, guest.told)
        if not isinstance(told, dict):
            return
        left = float(told.get("after_s", 0)) - (self._clock() - guest.up_since)
        reason, kept = EndReason(told.get("reason", EndReason.POWEROFF)), bool(told.get("kept"))
        run = Run(guest.uuid, guest.incarnation)
        self._timers[guest.uuid] = self._loop.call_later(
            max(left, 0), self._end, run, reason, "as told", kept
        )

    def _end(self, run: Run, reason: EndReason, detail: str, kept: bool) -> None:
        guest = self._store.there.get(run.uuid)
        if guest is None or guest.incarnation != run.incarnation or guest.activity is Activity.ENDED:
            return
        guest.ended, guest.detail, guest.lasted_s = reason, detail, self._clock() - guest.up_since
        if kept:
            guest.activity = Activity.ENDED
            self._store.put(guest)
        else:
            self._remove(guest)
        self.say(Changed(run.uuid))

    def _resize(self, guest: Guest, memory_mib: int, cpus: int) -> None:
        guest.resize(memory_mib, cpus)
        self.say(Changed(guest.uuid))

    def _remove(self, guest: Guest) -> None:
        if (timer := self._timers.pop(guest.uuid, None)) is not None:
            timer.cancel()
        if (console := self._consoles.pop(guest.uuid, None)) is not None:
            console.queue.put_nowait(b"")
        self._store.bury(guest)


def _absent(run: Run) -> ManorError:
    return not_found(f"run {run.incarnation} of {run.uuid} is not there", hint="Ask for the domain's state.")
