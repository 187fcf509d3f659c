"""A guest's process: started in a session of its own, found again after a restart, watched to its end.

A process is known by its number *and* the time it started in this boot of the machine; a number alone may
belong to somebody else by now. A pidfd says at once when it ends, and signals never reach a successor.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from manor_bus.wire.errors import Kind, ManorError

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
VMSTAT: Final = Path("/proc/vmstat")
KVM: Final = Path("/dev/kvm")


def boot_id() -> str:
    """Return the name of this boot of the machine."""
    return BOOT_ID.read_text(encoding="ascii").strip()


def started_ticks(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 when there is none, or only its remains."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


def up_for(ticks: int) -> float:
    """Return the seconds since a process started, on a clock that nobody sets."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def starvations() -> int:
    """Return how many processes the kernel has ended for want of memory since it started."""
    found = re.search(r"^oom_kill (\d+)$", VMSTAT.read_text(encoding="ascii"), re.MULTILINE)
    return int(found[1]) if found else 0


def command_line(pid: int) -> tuple[str, ...]:
    """Return what a process was started with; empty when it is gone."""
    try:
        content = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ()
    return tuple(part.decode(errors="replace") for part in content.split(b"\0")[:-1])


def find(argv: Sequence[str]) -> int:
    """Return the process with exactly this command line, or 0."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and command_line(int(entry.name)) == tuple(argv):
            return int(entry.name)
    return 0


def of_guest(uuid: str, log: Path) -> Process | None:
    """Return the process of a guest whose output goes to that log."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and uuid in command_line(int(entry.name)):
            with contextlib.suppress(OSError):
                if Path(entry, "fd", "1").readlink() == log:
                    return adopt(int(entry.name), started_ticks(int(entry.name)))
    return None


class Process:
    """One process, ours or found. `ended` is set when it is over; `status` is its exit status if known."""

    def __init__(self, pid: int, ticks: int, pidfd: int) -> None:
        self.pid = pid
        self.ticks = ticks
        self.status: int | None = None
        self.ended = asyncio.Event()
        self._pidfd = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._over)

    def _over(self) -> None:
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
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1


def launch(argv: Sequence[str], descriptors: Sequence[int], output: int, uid: int) -> Process:
    """Start a process that outlives us, as user `uid` (0: ours). `output` takes what it says."""
    as_user = uid not in (0, os.geteuid())
    try:
        started = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            pass_fds=descriptors,
            start_new_session=True,
            user=uid if as_user else None,
            group=uid if as_user else None,
            extra_groups=kvm_groups() if as_user else None,
        )
    except (OSError, subprocess.SubprocessError) as error:
        message = f"{argv[0]} cannot be started: {error}"
        raise ManorError(Kind.UNAVAILABLE, message, hint="Install QEMU, or set the option binary.") from error
    pidfd = os.pidfd_open(started.pid)
    process = Process(started.pid, started_ticks(started.pid), pidfd)
    started.returncode = 0  # it is watched through the pidfd, and shall not die with this object
    return process


def adopt(pid: int, ticks: int) -> Process | None:
    """Return a process that is still the one that started then."""
    try:
        pidfd = os.pidfd_open(pid)
    except (ProcessLookupError, OSError):
        return None
    if not ticks or started_ticks(pid) != ticks:  # read after the pidfd: now the number cannot change hands
        os.close(pidfd)
        return None
    return Process(pid, ticks, pidfd)


def kvm_groups() -> list[int]:
    """Return the groups that make /dev/kvm usable for a user."""
    try:
        there = KVM.stat()
    except OSError:
        return []
    return [there.st_gid] if there.st_gid and there.st_mode & 0o060 == 0o060 else []
