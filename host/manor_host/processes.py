"""Processes: known for certain, found again, watched to their end, and told things.

A process is its number *and* the time it started in this boot of the machine; a number alone may belong to
somebody else by now. Signals go through pid descriptors, so a number used again is never hit; a pid
descriptor also says at once when a process ends. Source: pidfd_open(2), proc_pid_stat(5).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from manor_host import clock

PROC: Final = Path("/proc")
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KILL_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Identity:
    """One process for ever: `ticks` is when it started, in clock ticks since the boot `boot`."""

    pid: int
    ticks: int
    boot: str

    @staticmethod
    def of(pid: int) -> Identity | None:
        """Return who has this number now; None when nobody, or only the remains of somebody."""
        ticks = started_ticks(pid)
        return Identity(pid, ticks, clock.boot_id()) if ticks else None

    def lives(self) -> bool:
        """Say whether it is still this process that has the number."""
        return bool(self.ticks) and self.boot == clock.boot_id() and started_ticks(self.pid) == self.ticks

    def open(self) -> int:
        """Return a pid descriptor of it, or -1 when it is no more. The caller closes it."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except OSError:
            return -1
        if self.lives():  # asked after the descriptor is there: now the number cannot change hands
            return descriptor
        os.close(descriptor)
        return -1


def started_ticks(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 when there is none, or only its remains."""
    try:
        stat = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


def up_for(ticks: int) -> float:
    """Return the seconds since a process started, on a clock that nobody sets."""
    return clock.since_boot() - ticks / os.sysconf("SC_CLK_TCK")


def command_line(pid: int) -> tuple[str, ...]:
    """Return what a process was started with; empty when it is gone or has replaced it."""
    return _strings(pid, "cmdline")


def environment(pid: int) -> dict[str, str]:
    """Return the environment a process was started with; empty when it is gone or not ours to look at."""
    pairs = (text.partition("=") for text in _strings(pid, "environ"))
    return {name: value for name, _, value in pairs}


def _strings(pid: int, name: str) -> tuple[str, ...]:
    try:
        content = (PROC / str(pid) / name).read_bytes()
    except OSError:
        return ()
    return tuple(part.decode(errors="replace") for part in content.split(b"\0")[:-1])


def pids() -> Iterator[int]:
    """Yield the number of every process."""
    return (int(folder.name) for folder in PROC.iterdir() if folder.name.isdigit())


def find(argv: Sequence[str]) -> int:
    """Return a process with exactly this command line, or 0."""
    return next((pid for pid in pids() if command_line(pid) == tuple(argv)), 0)


def open_files(pid: int, *, written: bool = False) -> list[str]:
    """Return what a process has open (`written`: open for writing), by its present name; nothing when it is
    gone or not ours to look at."""
    found = []
    with contextlib.suppress(OSError):
        for entry in (PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                if not written or entry.lstat().st_mode & 0o200:
                    found.append(os.readlink(entry))
    return found


def writers(paths: Iterable[Path]) -> dict[Path, list[Identity]]:
    """Return who has one of these files open for writing, as far as we may see: who holds a lock, or waits.

    It is the kernel that says so, of the file itself: one that was moved is known by its present name, a copy
    is another, and whoever only reads is not among them.
    """
    wanted = {os.path.realpath(path): path for path in paths}
    found: dict[Path, list[Identity]] = {}
    for pid in pids():
        for name in wanted.keys() & open_files(pid, written=True):
            if identity := Identity.of(pid):
                found.setdefault(wanted[name], []).append(identity)
    return found


# ---- tell and wait, for one thread -------------------------------------------------------------------------


def tell(process: Identity, number: signal.Signals) -> bool:
    """Send a signal; False when the process is gone."""
    descriptor = process.open()
    if descriptor < 0:
        return False
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def left(processes: Iterable[Identity], timeout: float) -> list[Identity]:
    """Wait until all processes have ended, at most `timeout` seconds; return those that have not."""
    poll, there = select.poll(), {}
    for process in processes:
        descriptor = process.open()
        if descriptor >= 0:
            there[descriptor] = process
            poll.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + timeout
    try:
        while there:
            ended = poll.poll(max(0, int(1000 * (deadline - time.monotonic()))))
            if not ended:
                break
            for descriptor, _ in ended:
                poll.unregister(descriptor)
                os.close(descriptor)
                del there[descriptor]
        return list(there.values())
    finally:
        for descriptor in there:
            os.close(descriptor)


def end(processes: Iterable[Identity], grace: float) -> list[Identity]:
    """Ask processes to end, kill those that have not after `grace` seconds; return what survived that."""
    wanted = list(processes)
    for process in wanted:
        tell(process, signal.SIGTERM)
    stubborn = left(wanted, grace)
    for process in stubborn:
        tell(process, signal.SIGKILL)
    return left(stubborn, KILL_S)


# ---- start and watch, on asyncio ---------------------------------------------------------------------------


class Watched:
    """One process, ours or found. `ended` is set when it is over; `status` is its exit status if known.

    `told`: where somebody else, whose child it is, says its status.
    """

    def __init__(self, identity: Identity, pidfd: int, told: socket.socket | None = None) -> None:
        self.identity = identity
        self.status: int | None = None
        self.ended = asyncio.Event()
        self._pidfd, self._told = pidfd, told
        asyncio.get_running_loop().add_reader(told or pidfd, self._over)

    def _over(self) -> None:
        if self._told is not None:
            with contextlib.suppress(OSError, ValueError):  # its parent is gone, and it too
                self.status = int(self._told.recv(16))
        with contextlib.suppress(ChildProcessError):  # not our child: its status is not for us
            result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
            if result is not None:
                self.status = result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
        self.ended.set()
        self.release()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal; harmless when it is over."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def release(self) -> None:
        """Stop watching; the process goes on."""
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._told or self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
            if self._told is not None:
                self._told.close()


def adopt(identity: Identity) -> Watched | None:
    """Watch a process that was found again; None when it is no more."""
    pidfd = identity.open()
    return Watched(identity, pidfd) if pidfd >= 0 else None


def launch(
    argv: Sequence[str], *, output: int, descriptors: Sequence[int] = (), uid: int = 0, groups:
    Sequence[int] = (), variables: Mapping[str, str] | None = None, ) -> Watched:  # fmt: skip
    """Start a process that outlives us, as user `uid` (0: ours). `output` takes what it says.

    Nothing of our surroundings reaches it: its environment is `variables` and a plain PATH, its folder is
    `/`, its session its own, its umask 077. Raises OSError, or subprocess.SubprocessError, when it cannot
    be started.
    """
    as_user = uid not in (0, os.geteuid())
    started = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        cwd="/",
        env={"PATH": PATH, "LANG": "C.UTF-8", **(variables or {})},
        pass_fds=descriptors,
        start_new_session=True,
        umask=0o077,
        user=uid if as_user else None,
        group=uid if as_user else None,
        extra_groups=groups if as_user else None,
    )
    pidfd = os.pidfd_open(started.pid)
    identity = Identity(started.pid, started_ticks(started.pid), clock.boot_id())
    started.returncode = 0  # it is watched through the pidfd, and shall not die with this object
    return Watched(identity, pidfd)
