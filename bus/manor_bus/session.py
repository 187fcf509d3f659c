"""The peer's core: greeting, calls with budgets and retries, subscriptions, liveness.

Pure: frames and time in, frames and events out. Shells: `peer.py` (asyncio) and `call.py` (blocking).

A call survives a restarting service or broker: `unavailable` is tried again with the same idempotency key
until the budget is over, at once when the broker says that the service is back.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from manor_bus import PROTOCOL, codec
from manor_bus.envelope import Down, Envelope, array_header
from manor_bus.envelope import Kind as Frame
from manor_bus.errors import ErrorBody, Kind, ManorError, Origin
from manor_bus.messages import bus as words

RETRY_FIRST_S: Final = 0.01
RETRY_MAX_S: Final = 0.25
SILENCE_BEATS: Final = 4  # heartbeats without any frame after which the link is taken as dead
GREET_AGAIN_S: Final = 0.5


@dataclass(frozen=True)
class Greeted:
    """The broker knows us; `welcome.address` is our name."""

    welcome: words.Welcome


@dataclass(frozen=True)
class Turned:
    """The broker refused the greeting."""

    error: ManorError


@dataclass(frozen=True)
class Replied:
    """A call ended: exactly one of reply and error."""

    token: int
    reply: Envelope | None
    error: ManorError | None


@dataclass(frozen=True)
class Parted:
    """A partial reply."""

    token: int
    part: Envelope


@dataclass(frozen=True)
class Asked:
    """Somebody calls us; `deadline` is on our clock."""

    sender: str
    request: Envelope
    deadline: float


@dataclass(frozen=True)
class Withdrawn:
    """The caller of `id` gave up."""

    sender: str
    id: str


@dataclass(frozen=True)
class Live:
    """A subscription is live (again): what came before is unknown."""

    sid: int
    owners: tuple[words.Owner, ...]


@dataclass(frozen=True)
class Arrived:
    """Items of a subscription; `credit` them with `consumed` when the application is done with them."""

    sid: int
    items: tuple[tuple[str, Envelope], ...]
    size: int


@dataclass(frozen=True)
class Missed:
    """Items of a subscription were dropped: ask the owners."""

    sid: int
    count: int


@dataclass(frozen=True)
class Barred:
    """A subscription was refused."""

    sid: int
    error: ManorError


@dataclass(frozen=True)
class Drained:
    """The broker sends us no more calls."""


@dataclass(frozen=True)
class Dead:
    """No frame for too long: the shell must open a new connection."""


Event = (
    Greeted
    | Turned
    | Replied
    | Parted
    | Asked
    | Withdrawn
    | Live
    | Arrived
    | Missed
    | Barred
    | Drained
    | Dead
)


@dataclass(slots=True)
class _Call:
    token: int
    wire: Envelope
    deadline: float
    retry: bool
    id: str = ""  # of the attempt under way
    tries: int = 0
    sent: bool = False
    maybe_ran: bool = False
    last: ManorError | None = None


@dataclass(slots=True)
class _Sub:
    pattern: str
    wish: words.Subscribe
    request: str = ""
    next: int | None = None
    messages: int = 0  # consumed
    size: int = 0
    told: int = 0


@dataclass
class Session:
    """One peer's side of the conversation with its broker."""

    instance: str
    version: str
    pid: int
    boot_id: str
    new_id: Callable[[], str]
    serves: tuple[str, ...] = ()
    owns: tuple[str, ...] = ()
    types: dict[str, str] = field(default_factory=dict)
    out: list[bytes] = field(default_factory=list)
    events: deque[Event] = field(default_factory=deque)
    greeted: bool = False
    address: str = ""
    broker_epoch: str = ""
    heartbeat_s: float = 1.0

    def __post_init__(self) -> None:
        self._calls: dict[int, _Call] = {}
        self._by_id: dict[str, _Call] = {}
        self._subs: dict[int, _Sub] = {}
        self._sub_by_request: dict[str, int] = {}
        self._timers: list[tuple[float, int]] = []
        self._count = 0
        self._up = False
        self._hello_id = ""
        self._greet_at = float("inf")
        self._heard = 0.0
        self._asked_at = 0.0
        self._same_clock = False

    # --- the connection -------------------------------------------------------------------------------

    def connected(self, now: float) -> None:
        """The transport is up: greet."""
        self._up, self._heard = True, now
        self._forget_broker()
        self.greet(now)

    def lost(self) -> None:
        """The transport is down: what was under way has an unknown outcome."""
        self._up = False
        self._greet_at = float("inf")
        self._forget_broker()

    def greet(self, now: float) -> None:
        """Say (again) who we are and what we serve."""
        self._hello_id = self.new_id()
        self._greet_at = now + GREET_AGAIN_S
        hello = words.Hello(
            protocol=(PROTOCOL, PROTOCOL), instance=self.instance, version=self.version, pid=self.pid,
            serves=self.serves, owns=self.owns, types=self.types,
        )  # fmt: skip
        self._send(Envelope(k=Frame.HELLO, id=self._hello_id, data=_raw(hello)))

    def drain(self) -> None:
        """Ask the broker to send no more calls."""
        self._send(Envelope(k=Frame.DRAIN))

    def _forget_broker(self) -> None:
        self.greeted = False
        self._by_id.clear()
        self._sub_by_request.clear()
        for call in self._calls.values():
            if call.id:
                call.id, call.maybe_ran = "", True
        for sub in self._subs.values():
            sub.next = None

    # --- what the application wants -------------------------------------------------------------------

    def call(self, wire: Envelope, timeout: float, now: float, *, retry: bool = True) -> int:
        """Start a call; `wire` holds to, type, data and maybe an idempotency key. Returns its token."""
        self._count += 1
        made = _Call(self._count, wire, now + timeout, retry)
        self._calls[made.token] = made
        heapq.heappush(self._timers, (made.deadline, made.token))
        if self.greeted:
            self._attempt(made, now)
        return made.token

    def cancel(self, token: int) -> None:
        """Withdraw a call: the callee is told, nothing more is heard of it here."""
        call = self._calls.pop(token, None)
        if call is not None and call.id:
            self._by_id.pop(call.id, None)
            self._send(Envelope(k=Frame.CANCEL, id=self.new_id(), re=call.id))

    def subscribe(self, pattern: str, wish: words.Subscribe) -> None:
        """Subscribe; it lives through reconnections until `unsubscribe`."""
        self._subs[wish.sid] = _Sub(pattern, wish)
        if self.greeted:
            self._subscribe(wish.sid)

    def unsubscribe(self, sid: int) -> None:
        """End a subscription."""
        if self._subs.pop(sid, None) is not None and self.greeted:
            data = _raw(words.Unsubscribe(sid=sid))
            self._send(Envelope(k=Frame.UNSUB, id=self.new_id(), data=data))

    def consumed(self, sid: int, messages: int, size: int) -> None:
        """Give credit back for items the application is done with."""
        sub = self._subs.get(sid)
        if sub is None or sub.next is None:
            return
        sub.messages += messages
        sub.size += size
        if sub.messages - sub.told >= max(1, sub.wish.window // 4) or size * 4 > sub.wish.window_bytes:
            sub.told = sub.messages
            credit = words.Credit(sid=sid, messages=sub.messages, size=sub.size)
            self._send(Envelope(k=Frame.CREDIT, data=_raw(credit)))

    def reply(
        self, sender: str, request: str, *, data: msgspec.Raw, err: ErrorBody | None, last: bool
    ) -> None:
        """Answer a call, partially or for good."""
        kind = Frame.REP if last else Frame.PART
        self._send(Envelope(k=kind, to=sender, re=request, last=last, err=err, data=data))

    def publish(self, wire: Envelope) -> bool:
        """Send an event; False while the broker does not know us (owners resend state when asked)."""
        if self.greeted:
            self._send(wire)
        return self.greeted

    # --- time -----------------------------------------------------------------------------------------

    def next_timer(self) -> float:
        """Return when `advance` wants to be called."""
        first = self._timers[0][0] if self._timers else float("inf")
        beat = (
            self._heard + self.heartbeat_s
            if self._asked_at <= self._heard
            else self._asked_at + self.heartbeat_s
        )
        return min(first, self._greet_at, beat if self._up else float("inf"))

    def advance(self, now: float) -> None:
        """Let time pass: end calls whose budget is over, try again, notice silence."""
        while self._timers and self._timers[0][0] <= now:
            _, token = heapq.heappop(self._timers)
            call = self._calls.get(token)
            if call is None:
                continue
            if now >= call.deadline:
                self._expire(call)
            elif self.greeted and not call.id:
                self._attempt(call, now)
        if self._up and now >= self._greet_at and not self.greeted:
            self.greet(now)
        if self._up and now - self._heard >= self.heartbeat_s * SILENCE_BEATS:
            self.events.append(Dead())
            self.lost()
        elif self._up and now - max(self._heard, self._asked_at) >= self.heartbeat_s:
            self._asked_at = now
            self._send(Envelope(k=Frame.PING, id=self.new_id()))

    def _expire(self, call: _Call) -> None:
        if call.id:
            self._by_id.pop(call.id, None)
            self._send(Envelope(k=Frame.CANCEL, id=self.new_id(), re=call.id))
        if call.last is not None and not call.maybe_ran and not call.id:
            error = call.last
        elif not call.sent:
            error = ManorError(
                Kind.UNAVAILABLE, "the bus cannot be reached", delivered=False, origin=Origin.LIBRARY,
                hint="Start it: manor up",
            )  # fmt: skip
        else:
            error = ManorError(
                Kind.TIMEOUT, f"{call.wire.to}: no reply in time", delivered=None, origin=Origin.LIBRARY,
                hint="The outcome is unknown: ask for the state before you try again.",
            )  # fmt: skip
        self._end(call, None, error)

    def _attempt(self, call: _Call, now: float) -> None:
        call.id, call.sent = self.new_id(), True
        call.tries += 1
        self._by_id[call.id] = call
        wire = call.wire
        key = wire.idempotencykey or call.id
        left = max(1, int((call.deadline - now) * 1000))
        call.wire = msgspec.structs.replace(wire, k=Frame.REQ, id=call.id, timeout=left, idempotencykey=key)
        self._send(call.wire)

    def _end(self, call: _Call, reply: Envelope | None, error: ManorError | None) -> None:
        del self._calls[call.token]
        self.events.append(Replied(call.token, reply, error))

    def _again(self, call: _Call, now: float) -> None:
        delay = min(RETRY_FIRST_S * 2 ** min(call.tries, 8), RETRY_MAX_S)
        heapq.heappush(self._timers, (min(now + delay, call.deadline), call.token))

    def _subscribe(self, sid: int) -> None:
        sub = self._subs[sid]
        sub.next, sub.messages, sub.size, sub.told = None, 0, 0, 0
        request = self.new_id()
        self._sub_by_request[request] = sid
        self._send(Envelope(k=Frame.SUB, id=request, to=sub.pattern, data=_raw(sub.wish)))

    def _send(self, wire: Envelope) -> None:
        self.out.append(codec.encode(wire))

    # --- what the broker sends ------------------------------------------------------------------------

    def receive(self, frame: bytes, now: float) -> None:
        """Take one frame from the broker."""
        self._heard = now
        down = codec.decode(frame, Down)
        if down.sid:
            self._items(down, len(frame))
            return
        for item in down.items:
            self._take(item.sender, item.envelope, down.n, now)

    def _items(self, down: Down, size: int) -> None:
        sub = self._subs.get(down.sid)
        if sub is None or sub.next is None:
            return  # ended here, or from before a reconnection
        if down.n != sub.next:
            self.events.append(Missed(down.sid, down.n - sub.next))
            sub.next = down.n
        if down.items:
            sub.next += len(down.items)
            size -= (
                1
                + len(codec.encode(down.sid))
                + len(codec.encode(down.n))
                + len(array_header(len(down.items)))
            )
            if down.superseded:
                size -= len(codec.encode(down.superseded))
            items = tuple((item.sender, item.envelope) for item in down.items)
            self.events.append(Arrived(down.sid, items, size))

    def _take(self, sender: str, wire: Envelope, n: int, now: float) -> None:
        kind = wire.k
        if kind == Frame.REP or kind == Frame.PART:
            self._reply(wire, now)
        elif kind == Frame.REQ:
            deadline = n / 1000 if self._same_clock and n else now + wire.timeout / 1000
            self.events.append(Asked(sender, wire, deadline))
        elif kind == Frame.CANCEL:
            self.events.append(Withdrawn(sender, wire.re))
        elif kind == Frame.WELCOME:
            self._welcome(wire, now)
        elif kind == Frame.RESET:
            self._forget_broker()
            self.greet(now)
        elif kind == Frame.DRAIN:
            self.events.append(Drained())
        elif kind == Frame.PUB:
            self._wake(now)

    def _welcome(self, wire: Envelope, now: float) -> None:
        if wire.re != self._hello_id:
            return
        self._greet_at = float("inf")
        if wire.err is not None:
            self.events.append(Turned(ManorError.from_body(wire.err)))
            return
        welcome = codec.decode(wire.data, words.Welcome)
        again = self.greeted and welcome.broker_epoch == self.broker_epoch
        self.greeted, self.address, self.broker_epoch = True, welcome.address, welcome.broker_epoch
        self.heartbeat_s = welcome.heartbeat_ms / 1000
        self._same_clock = bool(self.boot_id) and welcome.boot_id == self.boot_id
        self.events.append(Greeted(welcome))
        if not again:
            for sid in self._subs:
                self._subscribe(sid)
            self._wake(now)

    def _wake(self, now: float) -> None:
        for call in list(self._calls.values()):
            if not call.id:
                self._attempt(call, now)

    def _reply(self, wire: Envelope, now: float) -> None:
        sid = self._sub_by_request.pop(wire.re, None)
        if sid is not None:
            self._subscribed(sid, wire)
            return
        call = self._by_id.get(wire.re)
        if call is None:
            return
        if wire.k == Frame.PART:
            self.events.append(Parted(call.token, wire))
            return
        del self._by_id[wire.re]
        if wire.err is None:
            self._end(call, wire, None)
            return
        error = ManorError.from_body(wire.err)
        if error.kind is Kind.UNAVAILABLE and call.retry and error.origin is not Origin.SERVICE:
            call.id, call.last = "", error
            call.maybe_ran = call.maybe_ran or error.delivered is not False
            self._again(call, now)
        else:
            self._end(call, None, error)

    def _subscribed(self, sid: int, wire: Envelope) -> None:
        sub = self._subs.get(sid)
        if sub is None:
            return
        if wire.err is not None:
            del self._subs[sid]
            self.events.append(Barred(sid, ManorError.from_body(wire.err)))
            return
        done = codec.decode(wire.data, words.Subscribed)
        sub.next = done.seq
        self.events.append(Live(sid, done.owners))


def _raw(message: object) -> msgspec.Raw:
    return msgspec.Raw(codec.encode(message))
