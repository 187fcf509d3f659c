"""Find and end the processes of one state directory, by what the kernel says of them.

A process is ours when its command line is `python -m manor_<room>` and its environment names our directory,
or when it is a QEMU program that has a file of ours open or named. Pid files are for people; a number in a
file proves nothing. Signals go through pid descriptors, so that a number used again is never hit.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

PROGRAMS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "bus": "manor_bus",
        "config": "manor_config",
        "discovery": "manor_discovery",
        "lifecycle": "manor_lifecycle",
        "devices": "manor_devices",
    }
)
# The folder of whoever calls `manor up` is not where a daemon looks for modules.
PYTHON_FLAGS: Final = ("-P",)
_LET_IN: Final = frozenset(
    {"PATH", "PYTHONPATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "XDG_STATE_HOME", "TMPDIR"}
)
SUPERVISOR: Final = "manor_cli.supervise"
GUESTS: Final = ("qemu-system-", "qemu-storage-daemon")
PROC: Final = Path("/proc")


@dataclass(frozen=True)
class Process:
    """One process: its arguments and the environment it was started with."""

    pid: int
    arguments: tuple[str, ...]
    environment: Mapping[str, str]

    @property
    def module(self) -> str:
        """The module of a `python -m MODULE` command line, whatever flags; empty for anything else."""
        words = [word for word in self.arguments[1:] if word not in PYTHON_FLAGS]
        return words[1] if len(words) > 1 and words[0] == "-m" else ""


def daemon(module: str) -> tuple[str, ...]:
    """Return the command line that runs a module as a process of its own."""
    return (sys.executable, *PYTHON_FLAGS, "-m", module)


def outside(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what of a caller's environment reaches a daemon."""
    return {
        name: value for name, value in environment.items() if name.startswith("MANOR_") or name in _LET_IN
    }


def scan() -> Iterator[Process]:
    """Yield every process that we may look at."""
    for folder in PROC.iterdir():
        if folder.name.isdigit() and (process := look(int(folder.name))) is not None:
            yield process


def look(pid: int) -> Process | None:
    """Return one process, or None when it is gone, ended or not ours to look at."""
    try:
        arguments = _strings(PROC / str(pid) / "cmdline")
        pairs = (text.partition("=") for text in _strings(PROC / str(pid) / "environ"))
        environment = {name: value for name, _, value in pairs}
    except OSError:
        return None
    return Process(pid, tuple(arguments), environment) if arguments else None


def _strings(path: Path) -> list[str]:
    return path.read_bytes().decode(errors="replace").rstrip("\0").split("\0") if path.exists() else []


def services(directory: Path) -> dict[str, list[Process]]:
    """Return the services of a state directory that run, by name."""
    names = {module: name for name, module in PROGRAMS.items()}
    found: dict[str, list[Process]] = {}
    for process in scan():
        name = names.get(process.module)
        if name and process.environment.get("MANOR_DIR") == str(directory):
            found.setdefault(name, []).append(process)
    return found


def lock_of(run: Path) -> Path:
    """Return the supervisor's lock: beside the folder of sockets, which people and tmpfiles clean."""
    return run.parent / "supervisor.lock"


def supervisor(run: Path) -> int:
    """Return the pid of the supervisor, which holds a lock as long as it lives; 0 when there is none."""
    try:
        with lock_of(run).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(lock_of(run).read_text().strip() or "0")
    except FileNotFoundError:
        return 0
    return 0


def guests(directory: Path) -> list[int]:
    """Return the QEMU programs of our services: their sockets and logs lie in our services' folders.

    One that only uses a volume, or whose files lie in a folder that ends with the same names, is not ours.
    """
    folders = "|".join(re.escape(f"{directory}/{name}/") for name in ("lifecycle", "devices", "run"))
    ours = re.compile(rf"(?:^|[=,:])(?:{folders})")
    return [
        process.pid
        for process in scan()
        if Path(process.arguments[0]).name.startswith(GUESTS)
        and any(ours.search(text) for text in (*process.arguments[1:], *open_files(process.pid)))
    ]


def open_files(pid: int) -> list[str]:
    """Return what a process has open; nothing when it is gone or not ours to look at."""
    found = []
    with suppress(OSError):
        for entry in (PROC / str(pid) / "fd").iterdir():
            with suppress(OSError):
                found.append(os.readlink(entry))
    return found


def gone(pids: Iterable[int], timeout: float) -> list[int]:
    """Wait until all processes have ended; return those that have not."""
    poll, left = select.poll(), {}
    for pid in pids:
        with suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            left[descriptor] = pid
            poll.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + timeout
    try:
        while left:
            ended = poll.poll(max(0, int(1000 * (deadline - time.monotonic()))))
            if not ended:
                break
            for descriptor, _ in ended:
                poll.unregister(descriptor)
                os.close(descriptor)
                del left[descriptor]
        return list(left.values())
    finally:
        for descriptor in left:
            os.close(descriptor)


def end(pids: Iterable[int], grace: float) -> list[int]:
    """Ask processes to end, kill those that have not after `grace` seconds; return what survived that."""
    wanted = list(pids)
    for pid in wanted:
        tell(pid, signal.SIGTERM)
    stubborn = gone(wanted, grace)
    for pid in stubborn:
        tell(pid, signal.SIGKILL)
    return gone(stubborn, 5.0)


def tell(pid: int, number: signal.Signals) -> bool:
    """Send a signal; False when the process is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True
