"""Keep the services of one machine running.

Services are sessions of their own and write their logs themselves: when this process dies they live on, and
its successor finds them again. Nothing that it does for one of them waits for a disk, a reader or another
one. `control` asks it for things over run/supervisor.sock.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from manor_bus.wire.errors import ManorError, conflict
from manor_cli.runner import logs, present, restarts
from manor_cli.settings import Settings, lock_of
from manor_host import locks, processes
from manor_host.processes import Identity, Watched

GRACE_S: Final = 10.0
SECOND_S: Final = 30.0  # for a second instance to stand ready
LOOK_S: Final = 2.0
POLL_S: Final = 0.05
REQUEST_BYTES_MAX: Final = 4_096
Report = Callable[[str], None]


@dataclass(eq=False)
class Kept:
    """One service that is kept running. `over` is set when it shall not be started again.

    `told`: it was asked to end. `since`: of its process, in seconds since 1970. `restarts`: how often it was
    started anew, `last_end` why.
    """

    name: str
    process: Watched | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)
    told: bool = False
    since: float = 0.0
    restarts: int = 0
    last_end: str = ""

    @property
    def pid(self) -> int:
        """The number of its process; 0 when it has none."""
        return self.process.identity.pid if self.process is not None else 0


class Supervisor:
    """The services of one state directory; `commands` by name, the broker is stopped last."""

    def __init__(self, settings: Settings, commands: Mapping[str, tuple[str, ...]], report: Report) -> None:
        self._settings, self._commands, self._report = settings, commands, report
        self._socket = settings.run / "supervisor.sock"
        self._environment = present.outside(settings.environment)
        self._kept: list[Kept] = []
        self._lock = -1
        self._tasks: set[asyncio.Task[None]] = set()
        self.stopping = asyncio.Event()

    async def serve(self, found: Mapping[str, Identity]) -> None:
        """Keep everything running until `stopping` is set, then stop it, the broker last.

        `found` run already, by name.
        """
        looking = asyncio.create_task(self._look_after())
        try:
            for name in self._commands:
                self._keep(name, processes.adopt(found[name]) if name in found else None)
            await self.stopping.wait()
            await self._end(one for one in self._kept if one.name != "bus")
            await self._end(self._kept)
            await asyncio.gather(*self._tasks)
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    # -- one service -----------------------------------------------------------------------------------------

    def _keep(self, name: str, running: Watched | None = None) -> Kept:
        kept = Kept(name, running, since=time.time())
        self._kept.append(kept)
        if running is not None:
            self._tell(f"{name} runs already (pid {kept.pid})")
        task = asyncio.create_task(self._until_over(kept))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return kept

    async def _until_over(self, kept: Kept) -> None:
        """Start it whenever it does not run."""
        failures = 0
        while not kept.over.is_set():
            began = time.monotonic()
            try:
                kept.process = kept.process or self._start(kept)
                await kept.process.ended.wait()
                how = _how(kept.process.status)
            except (OSError, subprocess.SubprocessError) as error:
                how = f"cannot be started: {error}"
            wished = kept.told or how == _how(0)
            failures, seconds = restarts.pause(failures, time.monotonic() - began, wished=wished)
            kept.process, kept.told, kept.last_end = None, False, how
            kept.restarts += 1
            again = "" if kept.over.is_set() else f"; again in {seconds:.1f} s"
            self._tell(f"{kept.name} ended ({how}){again}")
            with suppress(TimeoutError):
                await asyncio.wait_for(kept.over.wait(), seconds)
        self._kept.remove(kept)

    def _start(self, kept: Kept) -> Watched:
        log = _log(self._settings.log / f"{kept.name}.log")
        try:
            process = processes.launch(self._commands[kept.name], output=log, variables=self._environment)
        finally:
            os.close(log)
        kept.since = time.time()
        self._tell(f"{kept.name} started (pid {process.identity.pid})")
        return process

    async def _end(self, those: Iterable[Kept], *, again: bool = False) -> None:
        await asyncio.gather(*(self._end_one(kept, again=again) for kept in list(those)))

    async def _end_one(self, kept: Kept, *, again: bool) -> None:
        """Ask it to end, and make it end when its grace is over."""
        kept.told = True
        if not again:
            kept.over.set()
        if (process := kept.process) is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            process.kill(number)
            with suppress(TimeoutError):
                await asyncio.wait_for(process.ended.wait(), GRACE_S)
                return

    # -- wishes ----------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return what there is: our pid and one entry for each service."""
        rows = [
            {
                "name": kept.name,
                "phase": "waiting" if kept.process is None else "stopping" if kept.told else "running",
                "pid": kept.pid,
                "since": kept.since,
                "restarts": kept.restarts,
                "last_end": kept.last_end,
                "log": str(self._settings.log / f"{kept.name}.log"),
            }
            for kept in self._kept
        ]
        return {"pid": os.getpid(), "stopping": self.stopping.is_set(), "services": rows}

    async def wish(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what was asked over the control socket: `status`, or to a service `restart` or `replace`."""
        what, name = request.get("do"), request.get("service")
        if what == "status":
            return self.status()
        mine = [kept for kept in self._kept if kept.name == name and not kept.over.is_set()]
        if not mine or self.stopping.is_set():
            return {"error": f"no {name!r} is kept running here"}
        if what == "restart":
            await self._end(mine, again=True)
            return {}
        if what == "replace":
            return await self._replace(str(name), mine)
        return {"error": f"do what? {what!r}"}

    async def _replace(self, name: str, first: list[Kept]) -> dict[str, Any]:
        """Start a second instance; when it stands at the lock, ready to take over, end the first."""
        second = self._keep(name)
        for _ in range(int(SECOND_S / POLL_S)):
            if second.restarts or self._ready(second):
                break
            await asyncio.sleep(POLL_S)
        if not self._ready(second):
            await self._end([second])
            return {"error": f"the second instance of {name} did not come up; the first goes on"}
        pid = second.pid
        await self._end(first)
        return {"pid": pid}

    def _ready(self, second: Kept) -> bool:
        lock = os.path.realpath(lock_of(self._settings.directory, second.name))
        return lock in processes.open_files(second.pid, written=True)

    # -- what is around --------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Hold the lock of the state directory, anew where somebody cleaned it away; `conflict` when another
        supervisor has it."""
        path = lock_of(self._settings.directory)
        if self._lock >= 0 and path.exists() and os.path.samestat(os.fstat(self._lock), path.stat()):
            return
        fresh = locks.take(path)
        if fresh < 0:
            hint = "`manor status` shows it, `manor down` ends it"
            raise conflict(f"{self._settings.directory} is supervised already", hint=hint)
        self.release()
        self._lock = fresh

    def release(self) -> None:
        """Give the lock back."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _tell(self, line: str) -> None:
        """Say something to whoever reads; a full disk or a closed terminal keeps nothing from being done."""
        with suppress(OSError):
            self._report(line)

    async def _look_after(self) -> None:
        """Keep logs small, and the lock and the control socket where they are looked for."""
        server: asyncio.Server | None = None
        try:
            while True:
                with suppress(OSError):  # a full disk: the next time
                    self.hold()
                    if server is None or not self._socket.is_socket():
                        server = await self._listen(server)
                    for path in self._settings.log.glob("*.log"):
                        logs.rotate(path)
                await asyncio.sleep(LOOK_S)
        except ManorError as error:
            self._tell(f"{error}; this one ends")
            self.stopping.set()
        finally:
            if server is not None:
                server.close()
            self._socket.unlink(missing_ok=True)

    async def _listen(self, before: asyncio.Server | None) -> asyncio.Server:
        if before is not None:
            before.close()
        self._socket.parent.mkdir(mode=0o700, exist_ok=True)
        server = await asyncio.start_unix_server(self._answer, self._socket, limit=REQUEST_BYTES_MAX)
        self._socket.chmod(0o600)
        return server

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one wish: a line of JSON each way."""
        try:
            async with asyncio.timeout(5.0):
                line = await reader.readline()
            request = json.loads(line)
            reply = await self.wish(request if isinstance(request, dict) else {})
        except (ValueError, TimeoutError, ConnectionError) as error:
            reply = {"error": f"not understood: {error}"}
        with suppress(ConnectionError):
            writer.write(json.dumps(reply).encode() + b"\n")
            await writer.drain()
            writer.close()


def _how(code: int | None) -> str:
    """Say how a process ended."""
    if code is None:
        return "was not our child"
    names = {one.value: one.name for one in signal.Signals}
    return f"exit code {code}" if code >= 0 else names.get(-code, f"signal {-code}")


def _log(path: Path) -> int:
    """Open the log of a program; what cannot be logged is lost, and the program runs."""
    try:
        return logs.opened(path)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def prepare(settings: Settings) -> None:
    """Make the folders of a state directory. Nobody else looks into them; guests pass through to theirs."""
    settings.directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    if settings.directory.stat().st_uid == os.geteuid():
        settings.directory.chmod(settings.directory.stat().st_mode | 0o011)
    for folder in (settings.run, settings.log):
        folder.mkdir(mode=0o700, exist_ok=True)


def adopt(settings: Settings) -> dict[str, Identity]:
    """Return the services that run already, one each; further ones, and those told otherwise, are ended."""
    wanted = _told(settings.environment)
    adopted: dict[str, Identity] = {}
    surplus: list[Identity] = []
    for name, found in present.services(settings.directory).items():
        for one in found:
            if name in adopted or _told(processes.environment(one.pid)) != wanted:
                surplus.append(one)
            else:
                adopted[name] = one
    processes.end(surplus, GRACE_S)
    return adopted


def _told(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith("MANOR_")}


async def supervise(
    settings: Settings, report: Report, commands: Mapping[str, tuple[str, ...]] | None = None
) -> None:
    """Keep the services until SIGTERM, SIGINT, SIGHUP (unless ignored); one supervisor per directory."""
    prepare(settings)
    ours = {name: present.daemon(module) for name, module in present.PROGRAMS.items()}
    supervisor = Supervisor(settings, commands or ours, report)
    supervisor.hold()
    try:
        ends = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # the terminal of a foreground node
            ends.append(signal.SIGHUP)
        for number in ends:
            asyncio.get_running_loop().add_signal_handler(number, supervisor.stopping.set)
        await supervisor.serve(adopt(settings))
    finally:
        supervisor.release()
