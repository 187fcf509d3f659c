"""The memory of a node that does nothing: everything it runs, the runner behind `manor up` included."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from benchmarks.measure import memory, spread
from benchmarks.node import Node, node
from benchmarks.report import Figure, Plan, Section, number

HEAD: Final = ("process", "RSS MiB", "PSS MiB")
NOTES: Final = (
    "RSS counts the pages of Python and its libraries for every process that maps them, PSS once for all. "
    "The node was started once before: what compiles its modules keeps more.",
)


def processes(of: Node) -> dict[str, int]:
    """All processes that were started with this node's directory, by the module they run."""
    mark = f"MANOR_DIR={of.directory}".encode()
    found: dict[str, int] = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark not in (place / "environ").read_bytes().split(b"\0"):
                continue
            words = (place / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended, or is somebody else's
        module = words[words.index(b"-m") + 1].decode() if b"-m" in words else "runner"
        found[module] = int(place.name)
    return found


def run(plan: Plan) -> Section:
    """Read the memory of each process once everything is ready."""
    with node() as running:
        running.manor("down")
        running.manor("up", "--detach", "--hypervisor", "fake")
        running.manor("list")
        used = {name: memory(pid) for name, pid in sorted(processes(running).items())}
    rss, pss = sum(one.rss for one in used.values()), sum(one.pss for one in used.values())
    rows: list[tuple[str, ...]] = [(name, number(one.rss), number(one.pss)) for name, one in used.items()]
    rows.append(("together", number(rss), number(pss)))
    figures = [
        Figure("idle node with its runner, every page counted once (sum of PSS)", spread([pss]), "MiB", 90),
        Figure("idle node with its runner, shared pages counted for each (sum of RSS)", spread([rss]), "MiB"),
    ]
    return Section("An idle node", HEAD, rows, figures, list(NOTES))
