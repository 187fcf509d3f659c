"""One guest: its process, its monitor, its record, and the tasks that watch them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any, Final

import msgspec

from manor_bus.wire.errors import Kind, ManorError, denied_state, unavailable
from manor_host.processes import Watched, up_for
from manor_lifecycle.hypervisors import Changed
from manor_lifecycle.hypervisors.qemu import events, folder, frontends, screen
from manor_lifecycle.hypervisors.qemu.monitor import ANSWER_S, Monitor, Refusal
from manor_lifecycle.hypervisors.qemu.process import starvations
from manor_lifecycle.hypervisors.qemu.record import (
    Plugged,
    Record,
    Trouble,
    going_on,
    ids,
    of_node,
    over,
    removed,
    troubled,
)
from manor_lifecycle.hypervisors.qemu.site import Site
from manor_lifecycle.hypervisors.seen import Activity, Cause, CauseWord, IoStatus, Run, SeenDevice, SeenRun

AGAIN_S: Final = 1.0  # between attempts to reach a living QEMU
HANGS_UP_S: Final = 1.0
WAKE_S: Final = 10.0
WAKE_LOOK_S: Final = 0.05
RELEASE_TRIES: Final = 20  # QEMU closes a back end shortly after it says that the front end is gone
RELEASE_WAIT_S: Final = 0.05

_log = logging.getLogger(__name__)


def ended(record: Record, end: events.Over) -> Record:
    """Note how a run ended, now."""
    lasted_s = up_for(record.started_ticks)
    return msgspec.structs.replace(record, ended=end.reason, detail=end.detail, lasted_s=lasted_s)


class Guest:
    """See the module. `last`: what it did when it last said so. `doomed`: it is being destroyed, so that its
    end is no news.
    """

    def __init__(self, site: Site, record: Record, process: Watched) -> None:
        self.site = site
        self.record = record
        self.process = process
        self.monitor = Monitor(record.name)
        self.path = site.directory / record.uuid
        self.doomed = False
        self.unplugs: dict[int, asyncio.Future[bool]] = {}  # number -> did the guest let it go
        self._unwritten = False
        self.last = events.state("prelaunch")
        self.io: Mapping[str, IoStatus] = {}
        self._starved = starvations()
        self.answered = asyncio.get_running_loop().time()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def run(self) -> Run:
        """The run this is."""
        return Run(self.record.uuid, self.record.incarnation)

    @property
    def runs(self) -> bool:
        """Whether the virtual CPUs ran, or the guest slept, when it last said so."""
        return self.last[0] in (Activity.RUNS, Activity.SLEEPS)

    def seen(self) -> SeenRun:
        """Return it as it was when it last said so."""
        record, (activity, cause) = self.record, self.last
        run = replace(
            over(record),
            features=self.site.program.features(record.machine),
            silent_for_s=asyncio.get_running_loop().time() - self.answered,
        )
        if record.ended is not None:
            return run
        io = {**{one.device: one.io for one in record.troubles if one.device}, **self.io}
        return replace(
            run,
            activity=activity,
            cause=events.with_troubles(cause, record.troubles, io),
            devices=tuple(SeenDevice(one, io.get(one, "ok")) for one in ids(record)),
            uptime_s=up_for(record.started_ticks),
        )

    async def look(self) -> None:
        """Ask QEMU what it has and does; `seen` tells it. Raises ManorError when it does not say."""
        if not self.process.identity.lives():  # its descriptor says so in this very moment
            await self.process.ended.wait()
        if not self.process.ended.is_set() and self.record.ended is None:
            try:
                await self._inquire()
            except ManorError as error:
                if error.kind is not Kind.UNAVAILABLE or not await self._ends():
                    raise
        if self.process.ended.is_set():
            self._process_over()

    async def _inquire(self) -> None:
        if not self.monitor.connected:
            raise unavailable(f"QEMU of {self.record.name} is not reached", delivered=False)
        _, cause = await self.status()
        failed = cause.word is CauseWord.IO_ERROR  # QEMU forgets to reset this when the guest goes on
        self.io = frontends.io_status(self.record, await self.ask("query-block")) if failed else {}

    async def _ends(self) -> bool:
        """Say whether the process ends: its sockets are closed a moment before that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HANGS_UP_S):
                await self.process.ended.wait()
        return self.process.ended.is_set()

    async def status(self) -> tuple[Activity, Cause]:
        """Ask what it does, and notice its end."""
        said = await self.ask("query-status", wait_s=self.site.options.silence_s)
        self.last = events.state(said["status"])
        if self.last[0] is Activity.ENDED and self.record.ended is None:
            self._over(events.ended(said["status"], folder.last_words(self.path)))
        return self.last

    def remember(self, **changes: Any) -> None:
        """Note a change before it is made. Raises ManorError, and then it must not be made."""
        self.keep(msgspec.structs.replace(self.record, **changes))

    def keep(self, record: Record) -> None:
        """Put another record in place, on disk first."""
        try:
            folder.write_record(self.path, record, durable=self.site.durable)
        except OSError as error:
            raise folder.unwritable(self.path / folder.RECORD, error) from None
        self.record, self._unwritten = record, False

    def learn(self, record: Record) -> None:
        """Take a fact. It is written now or when the disk takes it: what happened is noticed in any case."""
        self.record = record
        try:
            self.keep(record)
        except ManorError as error:
            self._unwritten = True
            _log.warning("%s", error)

    async def ask(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        *,
        wait_s: float = ANSWER_S,
        lend: int | None = None,
    ) -> Any:
        """Ask QEMU, as `Monitor.ask`; what it refuses becomes `denied_state` in its own words."""
        try:
            answer = await self.monitor.ask(command, arguments, wait_s=wait_s, lend=lend)
        except Refusal as refusal:
            message = f"QEMU refused {command} for {self.record.name}: {refusal}"
            raise denied_state(message, hint="Look at the domain's state and log.") from None
        self.answered = asyncio.get_running_loop().time()
        return answer

    @contextlib.asynccontextmanager
    async def changing(self, **changes: Any) -> AsyncIterator[None]:
        """Ask for a change, which is noted before; what QEMU plainly refuses is not."""
        before = {name: getattr(self.record, name) for name in changes}
        self.remember(**changes)
        try:
            yield
        except ManorError as error:
            if error.kind is Kind.DENIED_STATE:
                self.learn(msgspec.structs.replace(self.record, **before))
            raise

    async def resume(self) -> None:
        """Let it run; one that sleeps is woken first. Raises `timeout` when it sleeps on."""
        activity, _ = await self.status()
        if activity is Activity.SLEEPS:
            await self.ask("system_wakeup")
        for _ in range(round(WAKE_S / WAKE_LOOK_S)):
            if activity is not Activity.SLEEPS:
                await self.ask("cont")
                return
            await asyncio.sleep(WAKE_LOOK_S)
            activity, _ = await self.status()
        message = f"{self.record.name} did not wake up within {WAKE_S:g} s"
        raise ManorError(Kind.TIMEOUT, message, hint="Reset it.")

    def demand_life(self) -> None:
        """Raise `denied_state` when the run is over."""
        if self.record.ended is not None or self.process.ended.is_set():
            message = f"the run of {self.record.name} is over ({self.record.ended or 'gone'})"
            raise denied_state(message, hint="Start the domain again.")

    # --- watching ---------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Begin to tell what happens; the monitor may be connected already, or not yet."""
        loop = asyncio.get_running_loop()
        works = [self._listen(), self._beat(), self._wait_for_end()]
        graphics = self.record.spec.graphics
        if graphics.type == "vnc" and graphics.port is None:
            works.append(screen.show(self))
        self._tasks = [loop.create_task(work) for work in works]

    async def leave(self) -> None:
        """Stop watching and hang up; the guest goes on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self.monitor.close()
        self.process.release()

    async def reach(self) -> None:
        """Connect to a QEMU that was found, and learn what it did meanwhile. Raises ManorError."""
        self.monitor = Monitor(self.record.name)
        await self.monitor.connect(self.path)
        found = await self.ask("query-uuid")
        if found["UUID"] != self.record.uuid:
            raise ManorError(Kind.STALE, f"the process of {self.record.name} runs another guest")
        await self.status()
        await self._account_for_devices()

    async def _account_for_devices(self) -> None:
        """Take away what the guest let go of while nobody listened."""
        there = {one["name"] for one in await self.ask("qom-list", {"path": "/machine/peripheral"})}
        for plugged in self.record.plugged:
            if frontends.front_end(plugged) not in there:
                await self._front_end_gone(plugged)

    async def _listen(self) -> None:
        while not self.process.ended.is_set():
            try:
                if not self.monitor.connected:
                    await self.reach()
                    self.site.say(Changed(self.record.uuid))
                async for event in self.monitor.events():
                    await self._happened(event)
            except ManorError as error:
                if self.process.ended.is_set() or self.doomed:
                    return
                _log.warning("%s: %s", self.record.name, error)
                await asyncio.sleep(AGAIN_S)
            await self.monitor.close()

    async def _happened(self, event: dict[str, Any]) -> None:
        meaning = events.meaning(event)
        match meaning:
            case events.Over():
                self._over(meaning)
            case events.Running():
                if any(not one.stays for one in self.record.troubles):
                    self.learn(going_on(self.record))
            case events.UnplugAnswered(name, gone):
                await self._unplug_answered(name, gone=gone)
            case events.Ballooned(memory_mib):
                self.learn(msgspec.structs.replace(self.record, memory_mib=memory_mib))
            case Trouble():
                name = of_node(self.record, meaning.device)
                trouble = msgspec.structs.replace(meaning, device=name)
                if trouble not in self.record.troubles:  # a disk may say so a thousand times in a second
                    self.learn(troubled(self.record, trouble))
            case events.Answered() | None:
                pass
        if not events.known(event["event"]):
            _log.warning("%s: QEMU says %s, which nobody here knows", self.record.name, event)
        self.site.say(Changed(self.record.uuid, answered=isinstance(meaning, events.Answered)))

    async def _unplug_answered(self, name: str, *, gone: bool) -> None:
        for plugged in [one for one in self.record.plugged if frontends.front_end(one) == name]:
            if gone:
                await self._front_end_gone(plugged)
            else:
                self._answer(plugged, gone=False)

    async def _front_end_gone(self, plugged: Plugged) -> None:
        await self.undo(frontends.release(plugged))
        self.learn(removed(self.record, plugged.number))
        self._answer(plugged, gone=True)

    def _answer(self, plugged: Plugged, *, gone: bool) -> None:
        waiting = self.unplugs.get(plugged.number)
        if waiting is not None and not waiting.done():
            waiting.set_result(gone)

    async def undo(self, commands: list[frontends.Command]) -> None:
        """Say commands that take things away; what is not there any more is fine."""
        for command, arguments in commands:
            for _ in range(RELEASE_TRIES):
                try:
                    await self.monitor.ask(command, arguments)
                except Refusal as refusal:
                    if "in use" in str(refusal):
                        await asyncio.sleep(RELEASE_WAIT_S)
                        continue
                    _log.debug("%s: %s %s: %s", self.record.name, command, arguments, refusal)
                break

    async def _beat(self) -> None:
        loop, silent = asyncio.get_running_loop(), False
        while not self.process.ended.is_set():
            earlier = starvations()
            await asyncio.sleep(self.site.options.heartbeat_s)
            self._starved = earlier  # a process takes its time to die of it
            with contextlib.suppress(OSError):
                folder.trim_logs(self.path)
            if self._unwritten:
                self.learn(self.record)
            with contextlib.suppress(ManorError):
                await self.status()
            if silent is not (loop.time() - self.answered >= self.site.options.silence_s):
                silent = not silent
                self.site.say(Changed(self.record.uuid))

    async def _wait_for_end(self) -> None:
        await self.process.ended.wait()
        self._process_over()

    def _process_over(self) -> None:
        starved = starvations() > self._starved
        words = folder.last_words(self.path)
        self._over(events.process_ended(self.process.status, words, starved=starved))

    def _over(self, end: events.Over) -> None:
        if self.record.ended is None and not self.doomed:
            self.learn(ended(self.record, end))
            self.site.say(Changed(self.record.uuid))
