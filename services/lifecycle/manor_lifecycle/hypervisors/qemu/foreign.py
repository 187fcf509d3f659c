"""Virtual machines of QEMU on this node that somebody else started: seen, never touched."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

from manor_host import clock, processes
from manor_lifecycle.hypervisors import Changed
from manor_lifecycle.hypervisors.qemu.arguments import MONITOR
from manor_lifecycle.hypervisors.seen import Activity, Run, SeenRun

PROGRAM: Final = re.compile(r"(.*/)?(qemu-system-\w+|qemu-kvm)$")
NAMES: Final = uuid.UUID("6d1f5c1e-6a0c-4f1b-9a53-6f0f7f6d2f11")  # of guests whose command line has no uuid


def guests() -> dict[str, SeenRun]:
    """Return what runs, by uuid."""
    boot, found = clock.boot_id(), {}
    for pid in processes.pids():
        if argv := processes.command_line(pid):
            guest = read(argv, f"{boot}/{pid}")
            if guest is not None:
                found[guest.run.uuid] = guest
    return found


def read(argv: Sequence[str], origin: str) -> SeenRun | None:
    """Return what a command line says about a guest; None when it is none, or Manor's."""
    if not PROGRAM.match(argv[0]) or any(f"id={MONITOR}" in argument for argument in argv):
        return None
    options = {name.lstrip("-"): value for name, value in pairwise(argv)}
    name = options.get("name", "").partition(",")[0].removeprefix("guest=")
    memory = re.match(r"(?:size=)?(\d+)([MG]?)", options.get("m", ""))
    size = int(memory[1]) * (1024 if memory[2] == "G" else 1) if memory else 128
    cpus = re.search(r"(?:^|cpus=)(\d+)", options.get("smp", ""))
    return SeenRun(
        run=Run(_uuid(options, origin), 0),
        born=0,
        name=name or f"qemu-{origin.rpartition('/')[2]}",
        activity=Activity.RUNS,
        ours=False,
        cpus=int(cpus[1]) if cpus else 1,
        memory_mib=size,
    )


def _uuid(options: Mapping[str, str], origin: str) -> str:
    try:
        return str(uuid.UUID(options.get("uuid", "")))
    except ValueError:
        return str(uuid.uuid5(NAMES, origin))


def changes(before: Mapping[str, SeenRun], now: Mapping[str, SeenRun]) -> list[Changed]:
    """Return what is to be said of those that appeared, are different, or went away."""
    names = [uuid for uuid in {**before, **now} if before.get(uuid) != now.get(uuid)]
    return [Changed(uuid, foreign=now[uuid].name if uuid in now else "") for uuid in names]
