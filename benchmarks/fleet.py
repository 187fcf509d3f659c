"""Many fake domains: from documents to RUNNING, what the services use for it, and how long a list takes."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.measure import Memory, cpu_us, memory, spread
from benchmarks.node import Node, node
from benchmarks.report import Figure, Plan, Section, cell, number
from benchmarks.startup import timed
from manor_bus.peer.events import Change
from manor_bus.wire.messages import config
from manor_bus.wire.messages.lifecycle import DomainStatus, State

AT_ONCE: Final = 500  # documents in one transaction
RUNNING_S: Final = 600.0
LISTS: Final = 5
HEAD: Final = (
    "domains",
    "all RUNNING after s",
    "domains/s",
    "manor list s",
    "process",
    "CPU s",
    "RSS MiB",
    "PSS MiB",
)
NOTES: Final = (
    "Documents with `run: always` are applied 500 at a time; the clock runs from the first transaction until "
    "the last domain is seen RUNNING by a watcher. Each start is a journalled operation with its steps.",
)


@dataclass
class Seen:
    """What a watcher has seen of the domains; it runs in a thread of its own."""

    node: Node
    wanted: int
    running: set[str] = field(default_factory=set)
    synced: threading.Event = field(default_factory=threading.Event)
    enough: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Follow all domains until enough of them run."""
        with self.node.client() as client:
            for change in client.watch("domain.*", timeout=RUNNING_S):
                if not isinstance(change, Change):
                    self.synced.set()
                    continue
                self._take(change.value)
                if len(self.running) >= self.wanted:
                    self.enough.set()
                    return

    def _take(self, value: Any) -> None:
        if isinstance(value, DomainStatus) and value.state == State.RUNNING:
            self.running.add(value.name)


@dataclass
class Outcome:
    """One fleet, measured."""

    domains: int
    seconds: float
    lists: list[float]
    cpu: dict[str, float]
    memory: dict[str, Memory]

    def rows(self) -> list[tuple[str, ...]]:
        """Its lines in the table."""
        first = (
            number(self.domains),
            number(self.seconds),
            number(self.domains / self.seconds),
            cell(spread(self.lists)),
        )
        lines = [
            (name, number(self.cpu[name] / 1e6), number(used.rss), number(used.pss))
            for name, used in self.memory.items()
        ]
        return [((first if index == 0 else ("", "", "", "")) + line) for index, line in enumerate(lines)]


def run(plan: Plan) -> Section:
    """Start fleets of growing size, each on a node of its own."""
    sizes = (200,) if plan.quick else (1_000, 10_000)
    outcomes = [_measure(size) for size in sizes]
    figures = []
    for one in outcomes:
        largest = one.domains == 10_000
        seconds = spread([one.seconds])
        figures.append(Figure(f"{one.domains} fake domains RUNNING", seconds, "s", 60.0 if largest else None))
        figures.append(Figure(f"manor list of {one.domains} domains", spread(one.lists), "s"))
    return Section("Fleets", HEAD, [row for one in outcomes for row in one.rows()], figures, list(NOTES))


def _measure(size: int) -> Outcome:
    with node() as running, running.client() as client:
        seen = Seen(running, size)
        watcher = threading.Thread(target=seen.watch, daemon=True)
        watcher.start()
        if not seen.synced.wait(30):
            raise RuntimeError("the watcher did not get its first picture")
        before = {name: cpu_us(pid) for name, pid in running.pids().items()}
        start = time.monotonic()
        for first in range(0, size, AT_ONCE):
            documents = tuple(_document(index) for index in range(first, min(first + AT_ONCE, size)))
            client.call(config.Apply(documents=documents, reason="make bench"), config.Applied, timeout=120)
            print(
                f"  {first + len(documents)} applied, {len(seen.running)} running",
                file=sys.stderr,
                flush=True,
            )
        if not seen.enough.wait(RUNNING_S):
            message = f"only {len(seen.running)} of {size} domains run after {RUNNING_S:.0f} s"
            raise RuntimeError(message)
        seconds = time.monotonic() - start
        pids = running.pids()
        cpu = {name: cpu_us(pid) - before[name] for name, pid in pids.items()}
        used = {name: memory(pid) for name, pid in pids.items()}
        lists = [timed(["manor", "list"], running.environment) for _ in range(LISTS)]
        return Outcome(size, seconds, lists, cpu, used)


def _document(index: int) -> dict[str, Any]:
    spec = {"run": "always", "cpu": {"count": 1}, "memory": {"size_mib": 128}}
    return {
        "kind": "Domain",
        "metadata": {"name": f"d{index:05}", "labels": {"tier": f"t{index % 10}"}},
        "spec": spec,
    }
