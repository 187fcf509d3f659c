"""A hypervisor without guests: in memory, with one small file per domain so that runs outlive the service.

For the first five minutes, for tests and for benchmarks. It does as it is told: see `faults`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from manor_bus.wire.errors import Kind, ManorError, conflict, not_found
from manor_lifecycle.hypervisors import (
    AdapterSettings,
    Attachment,
    ConsoleStream,
    Creation,
    Description,
    Ended,
    EndReason,
    Feature,
    GuestState,
    Hypervisor,
    HypervisorEvent,
    Progress,
    Resized,
    Run,
    RunningDomain,
    Unplugged,
)
from manor_lifecycle.hypervisors.faults import Faults

SHUTDOWN_S: Final = 0.05  # a guest takes so long to power off
SAVE_STEPS: Final = 4
PICTURE: Final = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c6360000000020001e221bc330000000049454e44ae426082"
)  # one black pixel


class Guest(msgspec.Struct, omit_defaults=True):
    """What the file of a domain holds. `devices`: id -> generation of the connected back end."""

    uuid: str
    name: str
    incarnation: int
    state: GuestState
    started: float
    cpus: int = 1
    memory_mib: int = 256
    ours: bool = True
    ended: EndReason | None = None
    devices: dict[str, int] = {}
    told: dict[str, Any] = {}


@dataclass(slots=True)
class EchoConsole:
    """A serial console that greets and repeats what is typed."""

    offset: int
    queue: asyncio.Queue[bytes]

    async def read(self) -> bytes:
        """Return what is there next."""
        content = await self.queue.get()
        self.offset += len(content)
        return content

    async def write(self, content: bytes) -> None:
        """Type; it is echoed."""
        self.queue.put_nowait(content.replace(b"\r", b"\r\n"))

    async def close(self) -> None:
        """End the reader."""
        self.queue.put_nowait(b"")


class FakeHypervisor:
    """See the module. `wall` gives seconds since 1970; timers run on the loop's clock."""

    def __init__(self, settings: AdapterSettings, wall: Callable[[], float] = time.time) -> None:
        self._directory = settings.directory
        self._faults = Faults(settings.directory, exits=bool(settings.options.get("exits")))
        self._wall = wall
        self._loop = asyncio.get_running_loop()
        self._guests: dict[str, Guest] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._consoles: dict[str, EchoConsole] = {}
        self._happened: asyncio.Queue[HypervisorEvent | None] = asyncio.Queue()
        self._read()

    # --- facts ----------------------------------------------------------------------------------------

    async def describe(self) -> Description:
        """Say what this is: everything is possible."""
        return Description(name="fake", version="1", accelerators=(), features=frozenset(Feature))

    async def domains(self) -> tuple[RunningDomain, ...]:
        """List the guests."""
        return tuple(_shown(guest) for guest in self._guests.values())

    async def events(self) -> AsyncIterator[HypervisorEvent]:
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

    async def restore(self, creation: Creation, path: Path) -> None:
        """Make a paused guest from a saved one."""
        if not os.access(path, os.R_OK):
            message = f"there is no saved state at {path}"
            raise not_found(message, hint="Discard the saved state.")
        await self._make("restore", creation)

    async def _make(self, call: str, creation: Creation) -> None:
        run, spec = creation.run, creation.spec
        there = self._guests.get(run.uuid)
        if there is not None and there.incarnation != run.incarnation:
            raise conflict(f"run {there.incarnation} of {creation.name} is still there")
        told = spec.extra.get("fake", {})
        await self._faults.obey(call, creation.name, run.uuid, told if isinstance(told, dict) else {})
        if there is not None:
            return
        guest = Guest(
            uuid=run.uuid,
            name=creation.name,
            incarnation=run.incarnation,
            state=GuestState.PAUSED,
            started=self._wall(),
            cpus=spec.cpu.count,
            memory_mib=spec.memory.size_mib,
            devices={a.device.id: a.descriptor.generation for a in creation.attachments},
            told=told if isinstance(told, dict) else {},
        )
        self._guests[run.uuid] = guest
        self._write(guest)

    async def resume(self, run: Run) -> None:
        """Let it run; a told end begins to count."""
        guest = await self._alive("resume", run)
        if guest.state is not GuestState.RUNNING:
            guest.state = GuestState.RUNNING
            self._write(guest)
            self._schedule(guest)

    async def pause(self, run: Run) -> None:
        """Stop it."""
        guest = await self._alive("pause", run)
        guest.state = GuestState.PAUSED
        self._write(guest)

    async def shutdown(self, run: Run) -> None:
        """Ask it to power off."""
        guest = await self._alive("shutdown", run)
        if self._faults.wish("shutdown", guest.name, guest.told) != "ignore":
            timer = self._loop.call_later(SHUTDOWN_S, self._end, run, EndReason.POWEROFF, "", False)
            self._timers[run.uuid] = timer

    async def reset(self, run: Run, incarnation: int) -> None:
        """Continue under a new incarnation."""
        guest = self._guests.get(run.uuid)
        if guest is None or guest.incarnation != incarnation:
            guest = await self._alive("reset", run)
            guest.incarnation = incarnation
            self._write(guest)

    async def destroy(self, run: Run) -> None:
        """End it."""
        guest = self._guests.get(run.uuid)
        if guest is None or guest.incarnation != run.incarnation or not guest.ours:
            return
        await self._faults.obey("destroy", guest.name, guest.uuid, guest.told)
        self._remove(guest)

    # --- changes of a run -----------------------------------------------------------------------------

    async def plug(self, run: Run, attachment: Attachment) -> None:
        """Attach a device."""
        guest = await self._alive("plug", run)
        guest.devices[attachment.device.id] = attachment.descriptor.generation
        self._write(guest)

    async def unplug(self, run: Run, device: str, *, force: bool, timeout_s: float) -> None:
        """Detach a device, if the guest agrees."""
        guest = await self._alive("force-unplug" if force else "unplug", run)
        told = self._faults.wish("unplug", guest.name, guest.told)
        if device in guest.devices and not force and told == "ignore":
            await asyncio.sleep(timeout_s)
            message = f"the guest did not let {device} go within {timeout_s:g} s"
            raise ManorError(Kind.TIMEOUT, message, hint="Try again, or force.")
        guest.devices.pop(device, None)
        self._write(guest)

    def let_go(self, uuid: str, device: str) -> None:
        """Tests: the guest lets a device go late, or by itself."""
        guest = self._guests[uuid]
        guest.devices.pop(device, None)
        self._write(guest)
        self._happened.put_nowait(Unplugged(Run(uuid, guest.incarnation), device))

    async def save(self, run: Run, path: Path, progress: Progress) -> None:
        """Write a file that stands for the memory."""
        guest = await self._alive("save", run)
        for step in range(SAVE_STEPS):
            progress(step / SAVE_STEPS)
            await asyncio.sleep(0)
        _write(path, msgspec.json.encode(guest))
        guest.state = GuestState.PAUSED
        self._write(guest)

    async def coredump(self, run: Run, path: Path) -> None:
        """Write a file that stands for the memory."""
        guest = self._guests.get(run.uuid)
        if guest is None:
            raise _absent(run)
        await self._faults.obey("coredump", guest.name, guest.uuid, guest.told)
        _write(path, b"fake core\n")

    async def set_memory(self, run: Run, memory_mib: int) -> None:
        """Balloon."""
        guest = await self._alive("set_memory", run)
        guest.memory_mib = memory_mib
        self._resized(guest)

    async def set_cpus(self, run: Run, count: int) -> None:
        """Plug or unplug virtual CPUs."""
        guest = await self._alive("set_cpus", run)
        guest.cpus = count
        self._resized(guest)

    async def rename(self, run: Run, name: str) -> None:
        """Show another name."""
        guest = await self._alive("rename", run)
        guest.name = name
        self._write(guest)

    async def nmi(self, run: Run) -> None:
        """Count nothing, send nothing."""
        await self._alive("nmi", run)

    async def screenshot(self, run: Run) -> bytes:
        """Return a very small picture."""
        await self._alive("screenshot", run)
        return PICTURE

    async def console(self, run: Run) -> ConsoleStream:
        """Open a console that greets and echoes."""
        guest = await self._alive("console", run)
        console = EchoConsole(0, asyncio.Queue(1024))
        console.queue.put_nowait(f"fake domain {guest.name}, run {guest.incarnation}\r\n".encode())
        self._consoles[run.uuid] = console
        return console

    def end(self, uuid: str, reason: EndReason, detail: str = "", *, kept: bool = False) -> None:
        """Tests: the run ends by itself, now."""
        self._end(Run(uuid, self._guests[uuid].incarnation), reason, detail, kept)

    def say(self, event: HypervisorEvent) -> None:
        """Tests: report something."""
        self._happened.put_nowait(event)

    # --- inside ---------------------------------------------------------------------------------------

    async def _alive(self, call: str, run: Run) -> Guest:
        guest = self._guests.get(run.uuid)
        if guest is None or guest.incarnation < run.incarnation or guest.state is GuestState.ENDED:
            raise _absent(run)
        if guest.incarnation > run.incarnation:
            message = f"run {run.incarnation} of {guest.name} was followed by {guest.incarnation}"
            raise ManorError(Kind.STALE, message, hint="Ask for the domain's state.")
        await self._faults.obey(call, guest.name, guest.uuid, guest.told)
        return guest

    def _schedule(self, guest: Guest) -> None:
        told = self._faults.wish("end", guest.name, guest.told)
        if not isinstance(told, dict):
            return
        left = float(told.get("after_s", 0)) - (self._wall() - guest.started)
        reason = EndReason(told.get("reason", EndReason.POWEROFF))
        run, kept = Run(guest.uuid, guest.incarnation), bool(told.get("kept"))
        self._timers[guest.uuid] = self._loop.call_later(
            max(left, 0), self._end, run, reason, "as told", kept
        )

    def _end(self, run: Run, reason: EndReason, detail: str, kept: bool) -> None:
        guest = self._guests.get(run.uuid)
        if guest is None or guest.incarnation != run.incarnation or guest.state is GuestState.ENDED:
            return
        if kept:
            guest.state, guest.ended = GuestState.ENDED, reason
            self._write(guest)
        else:
            self._remove(guest)
        self._happened.put_nowait(Ended(run, reason, detail, kept))

    def _resized(self, guest: Guest) -> None:
        self._write(guest)
        event = Resized(Run(guest.uuid, guest.incarnation), guest.memory_mib, guest.cpus)
        self._happened.put_nowait(event)

    def _remove(self, guest: Guest) -> None:
        if (timer := self._timers.pop(guest.uuid, None)) is not None:
            timer.cancel()
        if (console := self._consoles.pop(guest.uuid, None)) is not None:
            console.queue.put_nowait(b"")
        del self._guests[guest.uuid]
        self._path(guest.uuid).unlink(missing_ok=True)

    def _path(self, uuid: str) -> Path:
        return self._directory / f"{uuid}.guest"

    def _write(self, guest: Guest) -> None:
        """Write over what is there, in one system call: whatever a kill leaves, its first line is whole."""
        file = os.open(self._path(guest.uuid), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, msgspec.json.encode(guest) + b"\n")
        finally:
            os.close(file)

    def _read(self) -> None:
        for path in self._directory.glob("*.guest"):
            line, _, _ = path.read_bytes().partition(b"\n")
            if not line:
                continue  # a kill came before its first line: it was never created
            guest = msgspec.json.decode(line, type=Guest)
            self._guests[guest.uuid] = guest
            if guest.state is GuestState.RUNNING:
                self._schedule(guest)


def _shown(guest: Guest) -> RunningDomain:
    return RunningDomain(
        uuid=guest.uuid,
        name=guest.name,
        incarnation=guest.incarnation if guest.ours else 0,
        state=guest.state,
        ours=guest.ours,
        ended=guest.ended,
        cpus=guest.cpus,
        memory_mib=guest.memory_mib,
        started=guest.started,
        devices=tuple(guest.devices),
    )


def _write(path: Path, content: bytes) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_bytes(content)
    os.replace(fresh, path)


def _absent(run: Run) -> ManorError:
    return not_found(f"run {run.incarnation} of {run.uuid} is not there", hint="Ask for the domain's state.")


async def open_hypervisor(settings: AdapterSettings) -> Hypervisor:
    """Open the fake hypervisor on its directory."""
    return FakeHypervisor(settings)
