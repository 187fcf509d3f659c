"""Requests and replies: latency of one at a time, rate with 200 under way, CPU of what stands between."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Final

from benchmarks import ground
from benchmarks.measure import cpu_us, ratios, spread
from benchmarks.processes import Child
from benchmarks.report import Figure, Plan, Section, cell

OUTSTANDING: Final = 200
SLICES: Final = 4  # of the latencies' time: cores that sleep or not make two worlds, each way must see both
ECHO: Final = "ROUTER that answers itself, CURVE"
PROXY: Final = "zmq.proxy in C, CURVE"
MANOR: Final = "manor broker, plain sockets"
LIBRARY: Final = "manor broker, asyncio library"
NATS: Final = "nats-server, nats-py, no encryption"
SECURE: Final = "nats-server, nats-py, TLS both ways"
NOTES: Final = (
    "Every way carries the same request and reply (about 300 bytes) over ipc, NATS over loopback tcp. "
    "Caller, service and what is between them share the machine's cores.",
)
HEAD: Final = (
    "way",
    "p50 us",
    "calls/s, 200 under way",
    "CPU us/call between, one",
    "CPU us/call between, 200",
)


@dataclass
class Way:
    """One way from a caller to a service and back."""

    name: str
    server: ground.Server
    caller: Child
    p50: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    cpu_one: list[float] = field(default_factory=list)
    cpu_many: list[float] = field(default_factory=list)

    def one(self, seconds: float) -> None:
        """Call one after the other."""
        found, cpu = self._measure(1, seconds)
        self.p50.append(found["p50_us"])
        self.cpu_one.append(cpu)

    def many(self, seconds: float) -> None:
        """Keep many calls under way."""
        found, cpu = self._measure(OUTSTANDING, seconds)
        self.rate.append(found["rate"])
        self.cpu_many.append(cpu)

    def _measure(self, outstanding: int, seconds: float) -> tuple[dict[str, float], float]:
        before = cpu_us(self.server.pid)
        found = self.caller.run(outstanding=outstanding, seconds=seconds)
        return found, (cpu_us(self.server.pid) - before) / found["calls"]

    def row(self) -> tuple[str, ...]:
        """Its line in the table."""
        return (self.name, *(cell(spread(one)) for one in (self.p50, self.rate, self.cpu_one, self.cpu_many)))


def run(plan: Plan) -> Section:
    """Measure every way in every round."""
    with contextlib.ExitStack() as stack:
        ways = _ways(stack)
        for way in ways:
            way.one(0.1)  # warm; not counted
            way.many(0.1)
            way.p50, way.rate, way.cpu_one, way.cpu_many = [], [], [], []
        for _ in range(plan.rounds):
            for _ in range(SLICES):
                for way in ways:
                    way.one(plan.seconds / SLICES)
            for way in ways:
                way.many(plan.seconds)
    return _section(ways)


def _ways(stack: contextlib.ExitStack) -> list[Way]:
    folder = stack.enter_context(ground.directory())

    def child(module: str, role: str, side: str, endpoint: str) -> Child:
        made = Child(f"benchmarks.{module}", role, side, str(folder / "keys"), endpoint)
        stack.callback(made.end)
        made.answer()
        return made

    echo = stack.enter_context(ground.forwarder(folder, "echo"))
    proxy = stack.enter_context(ground.forwarder(folder, "proxy"))
    raw = stack.enter_context(ground.broker(folder, "raw"))
    library = stack.enter_context(ground.broker(folder, "library"))
    child("raw", "service", "plain", proxy.behind)
    child("raw", "service", "manor", raw.behind)
    child("library", "service", "manor", library.behind)
    ways = [
        Way(ECHO, echo, child("raw", "caller", "plain", echo.endpoint)),
        Way(PROXY, proxy, child("raw", "caller", "plain", proxy.endpoint)),
        Way(MANOR, raw, child("raw", "caller", "manor", raw.endpoint)),
        Way(LIBRARY, library, child("library", "caller", "manor", library.endpoint)),
    ]
    if ground.nats_program() is not None:
        nats = stack.enter_context(ground.nats(folder))
        child("library", "service", "nats", nats.behind)
        ways.append(Way(NATS, nats, child("library", "caller", "nats", nats.endpoint)))
        secure = stack.enter_context(ground.nats(folder, secure=True))
        child("library", "service", "nats", secure.behind)
        ways.append(Way(SECURE, secure, child("library", "caller", "nats", secure.endpoint)))
    return ways


def _section(ways: list[Way]) -> Section:
    by_name = {one.name: one for one in ways}
    proxy, manor, library = by_name[PROXY], by_name[MANOR], by_name[LIBRARY]
    figures = [
        Figure("p50 of a call, broker / C zmq.proxy", ratios(manor.p50, proxy.p50), "x", 1.3),
        Figure(
            "calls per second, broker / C zmq.proxy", ratios(manor.rate, proxy.rate), "x", 0.4, "at least"
        ),
    ]
    for name, way in (("nats-py", NATS), ("nats-py with TLS", SECURE)):
        if way in by_name:
            other = by_name[way]
            rates = ratios(library.rate, other.rate)
            figures += [
                Figure(f"calls per second, library / {name}", rates, "x", 0.8, "at least"),
                Figure(f"calls per second, plain sockets / {name}", ratios(manor.rate, other.rate), "x"),
                Figure(f"p50 of a call, library / {name}", ratios(library.p50, other.p50), "x", 1.2),
            ]
    return Section("Requests and replies", HEAD, [way.row() for way in ways], figures, list(NOTES))
