"""A guest's process: started so that it outlives us and is known as ours, and found again."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from manor_bus.wire.errors import Kind, ManorError
from manor_host import births, processes
from manor_host.processes import Identity, Watched

VMSTAT: Final = Path("/proc/vmstat")
KVM: Final = Path("/dev/kvm")
STATE_ID: Final = "MANOR_STATE_ID"  # in the environment of each guest: the state directory it belongs to


async def launch(
    argv: Sequence[str], descriptors: Sequence[int], output: int, uid: int, state: str, place: str = ""
) -> Watched:
    """Start a process that outlives us, as user `uid` (0: ours). `output` takes what it says.

    `place`: it is born there, as the user of that place.
    """
    variables = {STATE_ID: state} if state else {}
    try:
        if place:
            return await births.ask(
                Path(place), argv, output=output, descriptors=descriptors, variables=variables
            )
        return processes.launch(
            argv, output=output, descriptors=descriptors, uid=uid, groups=kvm_groups(), variables=variables
        )
    except (OSError, subprocess.SubprocessError) as error:
        message = f"{argv[0]} cannot be started: {error}"
        raise ManorError(Kind.UNAVAILABLE, message, hint="Install QEMU, or set the option binary.") from error


def of_guest(uuid: str, log: Path) -> Watched | None:
    """Return the process of a guest whose output goes to that log; where that cannot be seen, as of another
    user's process, its uuid says enough: none that lives is taken for dead."""
    for pid in processes.pids():
        seen = processes.open_files(pid) if uuid in processes.command_line(pid) else [""]
        if not seen or str(log) in seen:
            identity = Identity.of(pid)
            return processes.adopt(identity) if identity else None
    return None


def belongs(pid: int, state: str) -> bool:
    """Say whether a process was started for this state directory, as far as can be seen."""
    told = processes.environment(pid).get(STATE_ID, "")
    return not (state and told) or told == state


def holder(path: str) -> str:
    """Return who has a file open, by number and name; empty when that cannot be seen."""
    names = (
        f"process {pid} ({processes.command_line(pid)[0].rpartition('/')[2]})"
        for pid in processes.pids()
        if pid != os.getpid() and path in processes.open_files(pid) and processes.command_line(pid)
    )
    return next(names, "")


def starvations() -> int:
    """Return how many processes the kernel has ended for want of memory since it started."""
    found = re.search(r"^oom_kill (\d+)$", VMSTAT.read_text(encoding="ascii"), re.MULTILINE)
    return int(found[1]) if found else 0


def kvm_groups() -> list[int]:
    """Return the groups that make /dev/kvm usable for a user."""
    try:
        there = KVM.stat()
    except OSError:
        return []
    return [there.st_gid] if there.st_gid and there.st_mode & 0o060 == 0o060 else []
