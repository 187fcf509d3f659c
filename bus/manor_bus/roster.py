"""Who is attached, who serves what, and which calls are under way. Pure.

Instances of one group share its calls: the least loaded gets the next one, the newest among equals, none that
drains. Each instance has a window of calls in flight, then a bounded queue while it lives.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from manor_bus.fanout import Subscription
from manor_bus.messages.bus import Hello, Limits
from manor_bus.subjects import matches

ROUTES_MAX: Final = 65_536
WAITS_MAX: Final = 64  # services one peer may wait to hear of


@dataclass(slots=True, eq=False)
class Peer:
    """One greeted connection."""

    conn: bytes
    label: str
    address: str
    packed: bytes  # the address as MessagePack, put before everything it sends
    where: str
    since: float
    instance: str = ""
    version: str = ""
    pid: int = 0
    group: str = ""
    serves: tuple[str, ...] = ()
    owns: tuple[str, ...] = ()
    draining: bool = False
    subs: dict[int, Subscription] = field(default_factory=dict)
    in_flight: set[Call] = field(default_factory=set)
    queue: deque[tuple[Call, bytes]] = field(default_factory=deque)
    made: set[Call] = field(default_factory=set)
    waits: set[str] = field(default_factory=set)
    received: int = 0
    sent: int = 0
    order: int = 0

    @property
    def calls_pending(self) -> int:
        """How many calls it has made that are under way."""
        return len(self.made)


@dataclass(slots=True, eq=False)
class Call:
    """One request under way. `deadline` and `since` are on the monotonic clock."""

    caller: Peer
    callee: Peer
    id: str
    to: str
    deadline: float
    since: float
    queued: bool = False
    over: bool = False


class Roster:
    """Sessions and pending calls of one broker."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.by_conn: dict[bytes, Peer] = {}
        self.by_address: dict[str, Peer] = {}
        self.by_instance: dict[str, Peer] = {}
        self.pending: dict[tuple[str, str], Call] = {}
        self._deadlines: list[tuple[float, int, Call]] = []
        self._routes: dict[str, tuple[Peer, ...]] = {}
        self._count = 0

    def greet(self, peer: Peer, hello: Hello, serves: tuple[str, ...], owns: tuple[str, ...]) -> list[Peer]:
        """Take a peer in, or take its new wishes; return who was waiting for what it serves."""
        self._count += 1
        peer.instance, peer.version, peer.pid = hello.instance, hello.version[:64], hello.pid
        peer.group = peer.label
        peer.serves, peer.owns, peer.order = serves, owns, self._count
        self.by_conn[peer.conn] = self.by_address[peer.address] = self.by_instance[peer.instance] = peer
        self._routes.clear()
        woken = []
        for other in self.by_conn.values():
            served = {s for s in other.waits if any(matches(p, s) for p in serves)}
            if served:
                other.waits -= served
                woken.append(other)
        return woken

    def remember_wait(self, peer: Peer, subject: str) -> None:
        """Note that a peer asked for a subject nobody serves."""
        if len(peer.waits) < WAITS_MAX:
            peer.waits.add(subject)

    def pick(self, subject: str) -> Peer | None:
        """Choose the instance that gets the next call."""
        serving = self._routes.get(subject)
        if serving is None:
            if len(self._routes) >= ROUTES_MAX:
                self._routes.clear()
            peers = (p for p in self.by_conn.values() if any(matches(s, subject) for s in p.serves))
            serving = self._routes[subject] = tuple(sorted(peers, key=lambda p: -p.order))
        best = None
        for peer in serving:
            if not peer.draining and (best is None or _load(peer) < _load(best)):
                best = peer
        return best

    def enter(self, call: Call, raw: bytes) -> bool:
        """Note a call; sets `queued` when the callee's window is full, False when its queue is, too."""
        callee = call.callee
        if len(callee.in_flight) >= self._limits.in_flight_per_callee:
            if len(callee.queue) >= self._limits.queued_per_callee:
                return False
            call.queued = True
            callee.queue.append((call, raw))
        else:
            callee.in_flight.add(call)
        call.caller.made.add(call)
        self.pending[call.caller.address, call.id] = call
        self._count += 1
        heapq.heappush(self._deadlines, (call.deadline, self._count, call))
        return True

    def leave(self, call: Call) -> Iterator[tuple[Call, bytes]]:
        """Forget a call; yields the calls that now move from the queue into the window."""
        self._forget(call)
        callee = call.callee
        if call.queued:
            callee.queue = deque(entry for entry in callee.queue if entry[0] is not call)
            return
        callee.in_flight.discard(call)
        while callee.queue and len(callee.in_flight) < self._limits.in_flight_per_callee:
            following, raw = callee.queue.popleft()
            following.queued = False
            callee.in_flight.add(following)
            yield following, raw

    def _forget(self, call: Call) -> None:
        call.over = True
        call.caller.made.discard(call)
        self.pending.pop((call.caller.address, call.id), None)

    def overdue(self, now: float) -> Iterable[Call]:
        """Take out the calls whose budget is over."""
        late = []
        while self._deadlines and (self._deadlines[0][0] <= now or self._deadlines[0][2].over):
            call = heapq.heappop(self._deadlines)[2]
            if not call.over:
                late.append(call)
        return late

    def next_deadline(self) -> float:
        """Return when the next call ends by its budget; infinity when none is under way."""
        while self._deadlines and self._deadlines[0][2].over:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else float("inf")

    def drain(self, peer: Peer) -> list[tuple[Call, bytes]]:
        """Send nothing more to a peer; return the calls that were waiting for it."""
        peer.draining = True
        waiting = list(peer.queue)
        peer.queue.clear()
        for call, _ in waiting:
            self._forget(call)
        return waiting

    def remove(self, peer: Peer) -> tuple[list[Call], list[Call]]:
        """Forget a peer; return the calls it can no longer answer, and those it made."""
        for index, key in ((self.by_address, peer.address), (self.by_instance, peer.instance)):
            if index.get(key) is peer:
                del index[key]
        self.by_conn.pop(peer.conn, None)
        self._routes.clear()
        peer.draining = True
        lost = [*peer.in_flight, *(call for call, _ in peer.queue)]
        peer.in_flight.clear()
        peer.queue.clear()
        for call in lost:
            self._forget(call)
        return lost, [call for call in peer.made if not call.over]


def _load(peer: Peer) -> int:
    return len(peer.in_flight) + len(peer.queue)
