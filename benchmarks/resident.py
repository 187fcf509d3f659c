"""The memory of a node that does nothing: broker and four services."""

from __future__ import annotations

from typing import Final

from benchmarks.measure import memory, spread
from benchmarks.node import node
from benchmarks.report import Figure, Plan, Section, number

HEAD: Final = ("process", "RSS MiB", "PSS MiB")
NOTES: Final = (
    "RSS counts the pages of Python and its libraries for every process that maps them, PSS once for all.",
)


def run(plan: Plan) -> Section:
    """Read the memory of each process once everything is ready."""
    with node() as running:
        running.manor("list")
        used = {name: memory(pid) for name, pid in running.pids().items()}
    rss, pss = sum(one.rss for one in used.values()), sum(one.pss for one in used.values())
    rows: list[tuple[str, ...]] = [(name, number(one.rss), number(one.pss)) for name, one in used.items()]
    rows.append(("together", number(rss), number(pss)))
    figures = [
        Figure("idle node, every page counted once (sum of PSS)", spread([pss]), "MiB", 150),
        Figure("idle node, shared pages counted for each (sum of RSS)", spread([rss]), "MiB", 150),
    ]
    return Section("An idle node", HEAD, rows, figures, list(NOTES))
