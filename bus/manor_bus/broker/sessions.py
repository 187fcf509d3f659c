"""Who is attached, who serves what, and which calls are under way. Pure.

Instances of one group share its calls: the least loaded gets the next one, the newest among equals, none that
drains. Each instance has a window of calls in flight, then a bounded queue while it lives.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from manor_bus.broker.admission import AdmissionQueue
from manor_bus.broker.fanout import Subscription
from manor_bus.wire.errors import Kind, ManorError, conflict
from manor_bus.wire.messages.bus import Hello
from manor_bus.wire.subjects import matches

ROUTES_MAX: Final = 65_536
INSTANCES_MAX: Final = 65_536
WAITS_MAX: Final = 64  # services one peer may wait to hear of
PEERS_MAX: Final = 512  # sessions of one principal
ENDED_MAX: Final = 4_096  # ended calls that may still wait for their budget among the deadlines


NOTHING: Final = Hello(protocol=(0, 0), instance="")


@dataclass(slots=True, eq=False)
class Peer:
    """One greeted connection."""

    conn: bytes
    label: str
    address: str
    packed: bytes  # the address as MessagePack, put before everything it sends
    where: str
    since: float
    queue: AdmissionQueue[Call]
    instance: str = ""
    version: str = ""
    pid: int = 0
    group: str = ""
    wishes: Hello = NOTHING
    serves: tuple[str, ...] = ()  # of its wishes, what was granted
    owns: tuple[str, ...] = ()
    draining: bool = False
    subs: dict[int, Subscription] = field(default_factory=dict)
    made: dict[Call, None] = field(default_factory=dict)  # under way, oldest first
    waits: set[str] = field(default_factory=set)
    received: int = 0
    sent: int = 0
    order: int = 0

    @property
    def calls_pending(self) -> int:
        """How many calls it has made that are under way."""
        return len(self.made)

    def may_take(self, subject: str) -> bool:
        """Whether new calls of a subject may go to it."""
        return not self.draining and any(matches(pattern, subject) for pattern in self.serves)


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


class Sessions:
    """Sessions and pending calls of one broker."""

    def __init__(self) -> None:
        self.by_conn: dict[bytes, Peer] = {}
        self.by_address: dict[str, Peer] = {}
        self.by_instance: dict[str, Peer] = {}
        self.pending: dict[tuple[str, str], Call] = {}
        self._principals: dict[str, str] = {}  # instance -> the principal that used it first
        self._counts: dict[str, int] = {}  # principal -> how many
        self._deadlines: list[tuple[float, int, Call]] = []
        self._routes: dict[str, tuple[Peer, ...]] = {}
        self._count = 0

    # --- sessions -------------------------------------------------------------------------------------

    def admit(self, label: str, instance: str, conn: bytes) -> None:
        """Raise when a principal may not greet with this instance; one that it used first stays its own.

        Otherwise it could get the calls that are addressed to another principal's instance.
        """
        if self._principals.get(instance, label) != label:
            raise conflict(
                f"instance {instance} belongs to another principal", hint="Greet with another one."
            )
        if self._counts.get(label, 0) >= PEERS_MAX and conn not in self.by_conn:
            raise ManorError(Kind.NO_CAPACITY, f"{label} has {PEERS_MAX} sessions already")

    def greet(self, peer: Peer, hello: Hello, serves: tuple[str, ...], owns: tuple[str, ...]) -> list[Peer]:
        """Take a peer in, or take its new wishes; return who was waiting for what it serves."""
        self._count += 1
        if peer.conn not in self.by_conn:
            self._counts[peer.label] = self._counts.get(peer.label, 0) + 1
        peer.wishes, peer.order = hello, self._count
        peer.instance, peer.version, peer.pid = hello.instance, hello.version[:64], hello.pid
        peer.group = peer.label
        self.by_conn[peer.conn] = self.by_address[peer.address] = self.by_instance[peer.instance] = peer
        self._remember(peer)
        return self.grant(peer, serves, owns)

    def grant(self, peer: Peer, serves: tuple[str, ...], owns: tuple[str, ...]) -> list[Peer]:
        """Let a peer serve and own this; return who was waiting for what it serves."""
        if serves or peer.serves:
            self._routes.clear()
        peer.serves, peer.owns = serves, owns
        woken = []
        for other in self.by_conn.values() if serves else ():
            served = {s for s in other.waits if any(matches(p, s) for p in serves)}
            if served:
                other.waits -= served
                woken.append(other)
        return woken

    def _remember(self, peer: Peer) -> None:
        self._principals[peer.instance] = peer.label
        if len(self._principals) > INSTANCES_MAX:
            absent = next(i for i in self._principals if i not in self.by_instance)
            del self._principals[absent]

    def may_be(self, address: str) -> bool:
        """Whether an instance of this address is not known to be somebody else's."""
        label, _, place = address.partition("@")
        return self._principals.get(place.partition("/")[2], label) == label

    def remove(self, peer: Peer) -> tuple[list[Call], list[Call]]:
        """Forget a peer; return the calls it can no longer answer, and those it made."""
        for index, key in ((self.by_address, peer.address), (self.by_instance, peer.instance)):
            if index.get(key) is peer:
                del index[key]
        if self.by_conn.pop(peer.conn, None) is not None:
            self._counts[peer.label] -= 1
            if not self._counts[peer.label]:
                del self._counts[peer.label]
        if peer.serves:
            self._routes.clear()
        peer.draining = True
        lost = [*peer.queue.in_flight, *(call for call, _ in peer.queue.waiting())]
        peer.queue.in_flight.clear()
        peer.queue.clear_queue()
        for call in lost:
            self._forget(call)
        return lost, [call for call in peer.made if not call.over]

    def remember_wait(self, peer: Peer, subject: str) -> None:
        """Note that a peer asked for a subject nobody serves."""
        if len(peer.waits) < WAITS_MAX:
            peer.waits.add(subject)

    # --- calls ----------------------------------------------------------------------------------------

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
            if not peer.draining and (best is None or len(peer.queue) < len(best.queue)):
                best = peer
        return best

    def enter(self, call: Call, raw: bytes) -> Sequence[Call]:
        """Note a call, and whether it waits; returns those that must be refused for it, maybe itself."""
        refused = call.callee.queue.take(call, call.caller.label, raw)
        if refused:
            for other in refused:
                if other is not call:
                    self._forget(other)
            if call in refused:
                return refused
        call.queued = call not in call.callee.queue.in_flight
        call.caller.made[call] = None
        self.pending[call.caller.address, call.id] = call
        self._count += 1
        heapq.heappush(self._deadlines, (call.deadline, self._count, call))
        if len(self._deadlines) > 2 * len(self.pending) + ENDED_MAX:
            self._deadlines = [entry for entry in self._deadlines if not entry[2].over]
            heapq.heapify(self._deadlines)
        return refused

    def leave(self, call: Call, now: float) -> Sequence[tuple[Call, bytes]]:
        """Forget a call; returns the calls that now move from the queue into the window.

        One whose budget is over is not among them: it ends by its budget, undelivered.
        """
        self._forget(call)
        moved = call.callee.queue.leave(call, call.caller.label, now)
        for following, _ in moved:
            following.queued = False
        return moved

    def _forget(self, call: Call) -> None:
        call.over = True
        call.caller.made.pop(call, None)
        self.pending.pop((call.caller.address, call.id), None)

    def overdue(self, now: float) -> list[Call]:
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
        waiting = peer.queue.waiting()
        peer.queue.clear_queue()
        for call, _ in waiting:
            self._forget(call)
        return waiting
