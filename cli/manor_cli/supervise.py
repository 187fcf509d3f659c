"""Keep the services of one machine running: `python -m manor_cli.supervise`.

What to do is decided by `restarts.step`; here are processes, timers and files. Services are sessions of their
own and write their logs themselves: when this process dies they live on, and its successor finds them again.
What it knows is in $MANOR_DIR/run/supervisor.json; `control` asks it for things over run/supervisor.sock.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import click

from manor_bus.wire.errors import ManorError, conflict
from manor_cli import logs, processes, restarts
from manor_cli.restarts import Action, Child, Phase
from manor_cli.settings import Settings

GRACE_S: Final = 10.0
ROTATE_EVERY_S: Final = 5.0
REQUEST_BYTES_MAX: Final = 4_096
Report = Callable[[str], None]
_WISHES: Final[Mapping[str, restarts.Event]] = {
    "restart": restarts.Stop(GRACE_S, again=True),
    "end": restarts.Stop(GRACE_S),
    "release": restarts.Release(),
}


@dataclass(frozen=True)
class Program:
    """What to run. `wave`: all of a higher wave have ended before a lower one is stopped."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    wave: int = 1


def fleet(settings: Settings) -> tuple[Program, ...]:
    """Return the programs of one machine: the broker, which is stopped last, and the services."""
    environment = processes.outside(settings.environment)
    return tuple(
        Program(name, processes.daemon(module), environment, wave=0 if name == "bus" else 1)
        for name, module in processes.PROGRAMS.items()
    )


class Supervisor:
    """The shell around `restarts`: one child per key, keys are never used again."""

    def __init__(self, programs: Sequence[Program], run: Path, log: Path, report: Report) -> None:
        self._programs = {program.name: program for program in programs}
        self._run, self._log, self._report = run, log, report
        self._loop = asyncio.get_running_loop()
        self._children: dict[int, Child] = {}
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._since: dict[int, float] = {}  # wall clock, for people
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self.stopping = asyncio.Event()

    # -- children --------------------------------------------------------------------------------------------

    def _start(self, adopted: Mapping[str, int]) -> None:
        """Begin to keep all programs running."""
        for name in self._programs:
            key = self._new(name)
            if name in adopted:
                self._report(f"{name} runs already (pid {adopted[name]})")
                self._since[key] = time.time()
                self._feed(key, restarts.Spawned(adopted[name]))
                self._watch(key, adopted[name])
            else:
                self._feed(key, restarts.Tick())

    def _new(self, name: str) -> int:
        key = max(self._children, default=0) + 1
        self._children[key] = Child(name)
        return key

    def _feed(self, key: int, event: restarts.Event) -> None:
        """Let something happen to a child and do what follows."""
        before = self._children[key]
        child, actions = restarts.step(before, event, self._loop.time())
        self._children[key] = child
        self._arm()  # before anything that a full disk refuses
        for action in actions:
            self._act(key, action)
        if isinstance(event, restarts.Ended):
            wait = max(0.0, child.due - self._loop.time())
            again = f"; again in {wait:.1f} s" if child.phase is Phase.WAITING else ""
            self._tell(f"{child.name} ended ({event.how}){again}")
        if child != before:
            self._changed.set()
            self._save()

    def _act(self, key: int, action: Action) -> None:
        child = self._children[key]
        if action is Action.SPAWN:
            self._spawn(key, self._programs[child.name])
        else:
            processes.tell(child.pid, signal.SIGTERM if action is Action.TERMINATE else signal.SIGKILL)

    def _spawn(self, key: int, program: Program) -> None:
        log = _log(self._log / f"{program.name}.log")
        try:
            process = subprocess.Popen(
                program.command, env=dict(program.environment), cwd="/", stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True, umask=0o077,
            )  # fmt: skip
        except OSError as error:
            self._feed(key, restarts.Ended(f"cannot be started: {error}"))
            return
        finally:
            os.close(log)
        self._processes[key], self._since[key] = process, time.time()
        self._watch(key, process.pid)
        self._feed(key, restarts.Spawned(process.pid))
        _write(self._run / f"{program.name}.pid", f"{process.pid}\n")
        self._tell(f"{program.name} started (pid {process.pid})")

    def _watch(self, key: int, pid: int) -> None:
        """Notice the end of a process, child of ours or not."""
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            self._feed(key, restarts.Ended("unnoticed"))
            return

        def ended() -> None:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)
            process = self._processes.pop(key, None)
            code = process.wait() if process is not None else None
            self._feed(key, restarts.Ended(_how(code), clean=code == 0))
            self._forget_pid(self._children[key].name, pid)

        self._loop.add_reader(descriptor, ended)

    def _forget_pid(self, name: str, pid: int) -> None:
        path = self._run / f"{name}.pid"
        with suppress(OSError):
            if path.read_text().strip() == str(pid):
                path.unlink()

    def _tell(self, line: str) -> None:
        """Say something to whoever reads; a full disk or a closed terminal keeps nothing from being done."""
        with suppress(OSError):
            self._report(line)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        due = restarts.next_due(tuple(self._children.values()))
        self._timer = None if due is None else self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        for key in list(self._children):
            self._feed(key, restarts.Tick())

    def _save(self) -> None:
        """Write down what there is, for `manor status` and for people."""
        _write(self._run / "supervisor.json", json.dumps(self.status(), indent=1) + "\n")

    def status(self) -> dict[str, Any]:
        """Return what there is: our pid and one entry for each child."""
        return {
            "pid": os.getpid(),
            "stopping": self.stopping.is_set(),
            "services": [
                {
                    "name": child.name,
                    "phase": child.phase.value,
                    "pid": child.pid,
                    "since": self._since.get(key, 0.0),
                    "restarts": child.restarts,
                    "last_end": child.last_end,
                    "log": str(self._log / f"{child.name}.log"),
                }
                for key, child in self._children.items()
                if child.phase is not Phase.ENDED
            ],
        }

    # -- wishes ----------------------------------------------------------------------------------------------

    def wish(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what was asked over the control socket: `status`, `stop`, or to a service (one `pid` of it):
        `restart`, `second` (start another instance), `release` (it may end for good), `end`.
        """
        what, name, pid = request.get("do"), str(request.get("service", "")), request.get("pid")
        if what == "status":
            return self.status()
        if what == "stop":
            self.stopping.set()
            return {}
        mine = {key: child for key, child in self._children.items() if child.name == name and child.wanted}
        keys = [key for key, child in mine.items() if pid in (None, child.pid)]
        if name not in self._programs or not keys:
            return {"error": f"no such instance of {name} is supervised here"}
        if what == "second":
            key = self._new(name)
            self._feed(key, restarts.Tick())
            return {"pid": self._children[key].pid, "before": [child.pid for child in mine.values()]}
        event = _WISHES.get(str(what))
        if event is None:
            return {"error": f"do what? {what!r}"}
        for key in keys:
            self._feed(key, event)
        return {}

    # -- the run ---------------------------------------------------------------------------------------------

    async def serve(self, adopted: Mapping[str, int]) -> None:
        """Keep all programs running until told to stop, then stop everything, wave by wave.

        `adopted` are pids of programs that run already, by name.
        """
        socket = self._run / "supervisor.sock"
        socket.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._answer, socket, limit=REQUEST_BYTES_MAX)
        socket.chmod(0o600)
        rotation = asyncio.create_task(self._rotate())
        try:
            self._start(adopted)
            await self.stopping.wait()
            for wave in sorted({program.wave for program in self._programs.values()}, reverse=True):
                await self._stop({name for name, program in self._programs.items() if program.wave == wave})
        finally:
            rotation.cancel()
            server.close()
            for name in ("supervisor.sock", "supervisor.json"):
                (self._run / name).unlink(missing_ok=True)

    async def _stop(self, names: set[str]) -> None:
        mine = [key for key, child in self._children.items() if child.name in names]
        for key in mine:
            self._feed(key, restarts.Stop(GRACE_S))
        while any(self._children[key].phase is not Phase.ENDED for key in mine):
            self._changed.clear()
            await self._changed.wait()

    async def _rotate(self) -> None:
        while True:
            await asyncio.sleep(ROTATE_EVERY_S)
            with suppress(OSError):  # a full disk: the next time
                for path in self._log.glob("*.log"):
                    logs.rotate(path)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one wish: a line of JSON each way."""
        try:
            async with asyncio.timeout(5.0):
                line = await reader.readline()
            request = json.loads(line)
            reply = self.wish(request if isinstance(request, dict) else {})
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
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def _write(path: Path, text: str) -> None:
    """Replace a file for people in one step, or leave it: nothing is decided by it."""
    temporary = path.with_name(f".{path.name}.new")
    with suppress(OSError):
        temporary.write_text(text)
        temporary.replace(path)


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


def adopt(settings: Settings) -> dict[str, int]:
    """Return the pids of services that run already, one each; further ones are ended."""
    adopted: dict[str, int] = {}
    surplus: list[int] = []
    for name, found in processes.services(settings.directory).items():
        same = [one for one in found if _same(one.environment, settings.environment)]
        adopted |= {name: same[0].pid} if same else {}
        surplus += [one.pid for one in found if one not in same[:1]]
    processes.end(surplus, GRACE_S)
    return adopted


def _same(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two environments mean the same to a service."""
    return all(one.get(name) == other.get(name) for name in {*one, *other} if name.startswith("MANOR_"))


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def supervise(settings: Settings, report: Report) -> None:
    """Run the fleet until SIGTERM, SIGINT, SIGHUP (unless ignored) or the wish to stop; one per directory."""
    prepare(settings)
    with processes.lock_of(settings.run).open("a+") as lock:
        if not _locked(lock):
            raise conflict(
                f"{settings.directory} is supervised already",
                hint="`manor status` shows it, `manor down` ends it",
            )
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        supervisor = Supervisor(fleet(settings), settings.run, settings.log, report)
        ends = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # the terminal of a foreground node
            ends.append(signal.SIGHUP)
        for number in ends:
            asyncio.get_running_loop().add_signal_handler(number, supervisor.stopping.set)
        await supervisor.serve(adopt(settings))


def main() -> int:
    """Supervise without a terminal; lines go to the log of `manor up --detach`."""
    settings = Settings.from_environment()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def report(line: str) -> None:
        click.echo(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {line}")

    try:
        asyncio.run(supervise(settings, report))
    except ManorError as error:
        report(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
