"""Events to 1, 10 and 50 subscribers: how many per second reach all of them, and at what cost between."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks import ground
from benchmarks.measure import cpu_us, ratios, spread
from benchmarks.processes import Child
from benchmarks.report import Figure, Plan, Section, cell

PROCESSES_MAX: Final = 10  # more subscribers than this share processes
PUBSUB: Final = "XSUB/XPUB zmq.proxy in C, CURVE"
MANOR: Final = "manor broker, plain sockets"
LIBRARY: Final = "manor broker, asyncio library"
NATS: Final = "nats-server, nats-py, no encryption"
SECURE: Final = "nats-server, nats-py, TLS both ways"
HEAD: Final = ("way", "subscribers", "events/s until all have them", "CPU us/event between")
NOTES: Final = (
    "One publisher floods events of about 300 bytes; every subscriber decodes each into its struct; nothing "
    "is lost anywhere. With plain sockets a subscriber is a blocking loop, with the library an `async for`.",
)


@dataclass
class Way:
    """One way from a publisher to its subscribers."""

    name: str
    server: ground.Server
    publisher: Child
    subscribers: list[Child]
    rate: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def round(self, count: int) -> None:
        """Publish so many events and wait until everybody has had all of them."""
        for one in self.subscribers:
            one.ask(count=count)
        before, start = cpu_us(self.server.pid), time.perf_counter()
        self.publisher.ask(count=count)
        for one in self.subscribers:
            one.answer()
        self.rate.append(count / (time.perf_counter() - start))
        self.publisher.answer()
        self.cpu.append((cpu_us(self.server.pid) - before) / count)


def run(plan: Plan) -> Section:
    """Measure each number of subscribers in turn; all ways in every round."""
    counts = (1, 10) if plan.quick else (1, 10, 50)
    rows: list[tuple[str, ...]] = []
    figures: list[Figure] = []
    for subscribers in counts:
        with contextlib.ExitStack() as stack:
            ways = _ways(stack, stack.enter_context(ground.directory()), subscribers)
            events = (1_000 if plan.quick else 8_000) // (4 if subscribers > 10 else 1)
            for one in ways:
                one.round(200)  # warm; not counted
                one.rate, one.cpu = [], []
            for _ in range(plan.rounds):
                for one in ways:
                    one.round(events)
        rows += [(one.name, str(subscribers), cell(spread(one.rate)), cell(spread(one.cpu))) for one in ways]
        figures += _figures(ways, subscribers)
    return Section("Events to many", HEAD, rows, figures, list(NOTES))


def _ways(stack: contextlib.ExitStack, folder: Path, count: int) -> list[Way]:
    def way(name: str, server: ground.Server, module: str, side: str) -> Way:
        def child(role: str, endpoint: str, *words: str) -> Child:
            made = Child(f"benchmarks.{module}", role, side, str(folder / "keys"), endpoint, *words)
            stack.callback(made.end)
            return made

        each, processes = max(1, count // PROCESSES_MAX), min(count, PROCESSES_MAX)
        subscribers = [
            child("subscriber", server.behind, str(index * each), str(each)) for index in range(processes)
        ]
        for one in subscribers:
            one.answer()
        publisher = child("publisher", server.endpoint)
        publisher.answer()
        return Way(name, server, publisher, subscribers)

    ways = [
        way(PUBSUB, stack.enter_context(ground.forwarder(folder, "pubsub")), "raw", "plain"),
        way(MANOR, stack.enter_context(ground.broker(folder, "raw")), "raw", "manor"),
        way(LIBRARY, stack.enter_context(ground.broker(folder, "library")), "library", "manor"),
    ]
    if ground.nats_program() is not None:
        ways.append(way(NATS, stack.enter_context(ground.nats(folder)), "library", "nats"))
        ways.append(way(SECURE, stack.enter_context(ground.nats(folder, secure=True)), "library", "nats"))
    return ways


def _figures(ways: list[Way], subscribers: int) -> list[Figure]:
    by_name = {one.name: one for one in ways}
    pubsub, manor, library = by_name[PUBSUB], by_name[MANOR], by_name[LIBRARY]
    to = f"to {subscribers}"
    found = [
        Figure(f"events per second {to}, broker / XSUB-XPUB zmq.proxy", ratios(manor.rate, pubsub.rate), "x"),
        Figure(f"CPU per event {to}, broker / XSUB-XPUB zmq.proxy", ratios(manor.cpu, pubsub.cpu), "x"),
    ]
    target = 1.2 if subscribers == 10 else None
    for name, other in (("nats-py", NATS), ("nats-py with TLS", SECURE)):
        if other in by_name:
            value = ratios(library.rate, by_name[other].rate)
            found.append(Figure(f"events per second {to}, library / {name}", value, "x", target, "at least"))
    return found
