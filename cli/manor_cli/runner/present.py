"""What runs of one state directory, by what the kernel says of it.

Each service keeps the lock of its folder open, and so does a second one that waits for its turn: that is the
record of who serves this directory. It needs no disk, is gone with its process, follows the directory when it
is moved, and a copy of the directory has locks of its own. Guests and their daemons write to files in the
folders of the services that started them. Command lines and files with numbers prove nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from manor_cli.settings import lock_of
from manor_host import processes
from manor_host.processes import Identity

PROGRAMS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "bus": "manor_bus",
        "config": "manor_config",
        "discovery": "manor_discovery",
        "lifecycle": "manor_lifecycle",
        "devices": "manor_devices",
    }
)
GUESTS: Final = ("qemu-system-", "qemu-storage-daemon")
OWNERS: Final = ("lifecycle", "devices")  # who starts them
_LET_IN: Final = frozenset(
    {"PATH", "PYTHONPATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "XDG_STATE_HOME", "TMPDIR"}
)


def daemon(module: str) -> tuple[str, ...]:
    """Return the command line that runs a module as a process of its own.

    The folder of whoever calls `manor up` is not where a daemon looks for modules.
    """
    return (sys.executable, "-P", "-m", module)


def outside(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what of a caller's environment reaches a daemon."""
    return {
        name: value for name, value in environment.items() if name.startswith("MANOR_") or name in _LET_IN
    }


def services(directory: Path) -> dict[str, list[Identity]]:
    """Return the services of a state directory that run, by name; those that wait for their turn, too."""
    paths = {lock_of(directory, name): name for name in PROGRAMS}
    return {paths[path]: found for path, found in processes.writers(paths).items()}


def supervisor(directory: Path) -> Identity | None:
    """Return the supervisor, which holds a lock as long as it lives."""
    return next(iter(processes.writers([lock_of(directory)]).get(lock_of(directory), [])), None)


def guests(directory: Path) -> list[Identity]:
    """Return the QEMU programs that our services started. One that only uses a volume is not ours."""
    folders = tuple(f"{os.path.realpath(directory / name)}/" for name in OWNERS)
    return [
        identity
        for pid in processes.pids()
        if os.path.basename("".join(processes.command_line(pid)[:1])).startswith(GUESTS)
        and any(name.startswith(folders) for name in processes.open_files(pid, written=True))
        and (identity := Identity.of(pid)) is not None
    ]
