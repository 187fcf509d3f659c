"""The broker's core: sessions, routing, pending calls, policy. Frames and a clock reading in, frames out.

No socket, clock, thread or logger here. The shell (`broker.py`) feeds `frame`, `gone` and `advance`, sends
what is in `out` and cuts the connections in `cut`. Rules, each with its test in tests/bus:

1. Only HELLO is understood from an unknown connection; everything else is answered RESET.
2. What a frame says about its sender is ignored: the connection's key decides who it is.
3. A request is sent to one instance, once. It ends once: by the reply of that instance, by its budget, or by
   the end of that instance's session.
4. Nothing waits for the absent: no instance, no delivery, at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from manor_bus import PROTOCOL, codec, envelope
from manor_bus.envelope import Envelope, Route
from manor_bus.envelope import Kind as Frame
from manor_bus.errors import ErrorBody, Kind, ManorError, Origin, Problem, bad_request
from manor_bus.fanout import Fanout, Send, Stream
from manor_bus.messages import Done, Message
from manor_bus.messages import bus as words
from manor_bus.policy import Decision
from manor_bus.ring import Ring
from manor_bus.roster import Call, Peer, Roster
from manor_bus.subjects import is_pattern, is_subject, overlap

TIMEOUT_MS_MAX: Final = 86_400_000
HEARTBEAT_S: Final = 1.0
IDS_MAX: Final = 64
DECISIONS_MAX: Final = 65_536
LIMITS: Final = words.Limits(
    frame_bytes=codec.FRAME_BYTES_MAX,
    depth=codec.DEPTH_MAX,
    subscriptions=256,
    pending_calls=4_096,
    in_flight_per_callee=64,
    queued_per_callee=2_048,
)

Decide = Callable[[str, str, str], Decision]


class Switch:
    """One node's message switch. `wall` is seconds since 1970 minus the monotonic clock, for time stamps."""

    def __init__(
        self,
        *,
        node: str,
        epoch: str,
        boot_id: str,
        decide: Decide,
        wall: float = 0.0,
        limits: words.Limits = LIMITS,
    ) -> None:
        self.node, self.epoch, self.boot_id, self.wall, self.limits = node, epoch, boot_id, wall, limits
        self.address = f"bus@{node}/{epoch}"
        self._sender = envelope.pack_text(self.address)
        self._decide = decide
        self._decisions: dict[tuple[str, str, str], Decision] = {}
        self.roster = Roster(limits)
        self.fanout = Fanout()
        self.ring = Ring()
        self.counters: Counter[str] = Counter()
        self.out: list[Send] = []
        self.cut: list[bytes] = []  # connections the shell must end
        self.started = 0.0
        self._next_beat = 0.0
        self._id = 0
        self.answers: dict[str, Callable[[msgspec.Raw, float], Message]] = {}

    # --- what the shell calls -------------------------------------------------------------------------

    def frame(self, conn: bytes, label: str, where: str, untrusted: bytes, now: float) -> None:
        """Take one frame from a connection whose key belongs to `label`."""
        self.counters["frames"] += 1
        peer = self.roster.by_conn.get(conn)
        try:
            codec.check(untrusted)
            route = codec.decode(untrusted, Route)
        except (codec.Malformed, ManorError) as error:
            self._protocol_error(conn, peer, str(error), now)
            return
        if route.k == Frame.HELLO:
            self._hello(conn, label, where, route, untrusted, now)
        elif peer is None or peer.label != label:
            self.counters["reset_unknown"] += 1
            self._reset(conn, "unknown")
        else:
            peer.received += 1
            self._dispatch(peer, route, untrusted, now)

    def gone(self, conn: bytes, reason: str, now: float) -> None:
        """A connection has ended: end its session, its calls, and what was called of it."""
        peer = self.roster.by_conn.get(conn)
        if peer is not None:
            self._leave(peer, reason, now)

    def advance(self, now: float) -> None:
        """Let time pass: end calls whose budget is over, tell idle subscribers the next number."""
        for call in self.roster.overdue(now):
            waiting = call.queued
            self._finish(call)
            self.counters["timeouts"] += 1
            if not waiting:
                self._cancel(call)
            self._refuse_call(call, Kind.TIMEOUT, "no reply within the budget", delivered=not waiting)
        if now >= self._next_beat:
            self._next_beat = now + HEARTBEAT_S
            self.fanout.heartbeat(now, self.out)

    def flush(self, now: float) -> None:
        """End of a drain cycle: send the collected events, apply policies to slow subscribers."""
        self.fanout.flush(self.out)
        if self.fanout.slow or self.fanout.kicked:
            self._tell_slow(now)
            self.fanout.flush(self.out)

    def next_timer(self) -> float:
        """Return when `advance` wants to be called."""
        return min(self.roster.next_deadline(), self._next_beat)

    # --- frames ---------------------------------------------------------------------------------------

    def _dispatch(self, peer: Peer, route: Route, raw: bytes, now: float) -> None:
        kind = route.k
        if kind == Frame.REQ:
            self._request(peer, route, raw, now)
        elif kind in (Frame.REP, Frame.PART):
            self._reply(peer, route, raw, now)
        elif kind == Frame.PUB:
            self._publish(peer, route, raw, now)
        elif kind == Frame.CANCEL:
            call = self.roster.pending.get((peer.address, route.re))
            if call is not None:
                self._cancelled(call, raw)
        elif kind == Frame.SUB:
            self._subscribe(peer, route, raw, now)
        elif kind in (Frame.UNSUB, Frame.CREDIT):
            self._unsubscribe_or_credit(peer, route, raw, now)
        elif kind == Frame.PING:
            self._answer(peer, Envelope(k=Frame.PING, re=route.id))
        elif kind == Frame.DRAIN:
            self._drain(peer, now)
        else:
            self._protocol_error(peer.conn, peer, f"kind {kind} is not for the broker", now)

    def _hello(self, conn: bytes, label: str, where: str, route: Route, raw: bytes, now: float) -> None:
        try:
            hello = codec.decode(codec.decode(raw, Envelope).data, words.Hello)
            self._check_hello(hello)
        except ManorError as error:
            self._send(conn, Envelope(k=Frame.WELCOME, re=route.id, err=self._err(error)))
            return
        address = f"{label}@{self.node}/{hello.instance}"
        known = self.roster.by_address.get(address)
        if known is not None and known.conn != conn:
            self._leave(known, "replaced", now)
            self.cut.append(known.conn)
            known = None
        elif known is None and (before := self.roster.by_conn.get(conn)) is not None:
            self._leave(before, "replaced", now)
        granted, denied = self._grant(label, "serve", hello.serves)
        owns, no_owns = self._grant(label, "publish", hello.owns)
        denied += no_owns
        peer = known or Peer(conn, label, address, envelope.pack_text(address), where, since=now)
        woken = self.roster.greet(peer, hello, granted, owns)
        welcome = words.Welcome(
            protocol=PROTOCOL, broker_epoch=self.epoch, address=address, boot_id=self.boot_id,
            heartbeat_ms=int(HEARTBEAT_S * 1000), limits=self.limits, serves=granted, denied=denied,
        )  # fmt: skip
        self._send(conn, Envelope(k=Frame.WELCOME, re=route.id, data=_raw(welcome)))
        for waiting in woken:
            self._answer(
                waiting,
                Envelope(k=Frame.PUB, subject="bus.serving", data=_raw(words.Serving(group=peer.group))),
            )
        if known is None:
            self._news(peer, words.PeerChanged(address=address, present=True), now)
        if owns:
            self._owner_changed(peer, present=True, reason="")

    def _check_hello(self, hello: words.Hello) -> None:
        low, high = hello.protocol
        if not low <= PROTOCOL <= high:
            raise bad_request(f"this broker speaks protocol {PROTOCOL}, not {low} to {high}")
        if not (hello.instance.isalnum() and len(hello.instance) <= 32):
            raise bad_request("instance must be 1 to 32 letters and digits")
        if len(hello.serves) + len(hello.owns) > 64 or not all(map(is_pattern, hello.serves + hello.owns)):
            raise bad_request("serves and owns take at most 64 subject patterns")

    def _grant(
        self, label: str, verb: str, patterns: tuple[str, ...]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        decisions = {pattern: self.decide(label, verb, pattern) for pattern in patterns}
        granted = tuple(p for p, d in decisions.items() if d.allowed)
        return granted, tuple(f"{p}: {d.rule}" for p, d in decisions.items() if not d.allowed)

    # --- calls ----------------------------------------------------------------------------------------

    def _request(self, peer: Peer, route: Route, raw: bytes, now: float) -> None:
        subject, at, place = route.to.partition("@")
        try:
            self._check_request(peer, route, subject)
            if subject.startswith("bus."):
                self._introspect(peer, subject, route, raw, now)
                return
            callee = self._find(subject, at + place)
        except ManorError as error:
            if error.kind is Kind.UNAVAILABLE:
                self.roster.remember_wait(peer, subject)
            self.counters["refused_calls"] += 1
            self._answer(peer, Envelope(k=Frame.REP, re=route.id, last=True, err=self._err(error)))
            return
        deadline = now + route.timeout / 1000
        call = Call(peer, callee, route.id, route.to, deadline, now)
        if not self.roster.enter(call, raw):
            full = ManorError(
                Kind.NO_CAPACITY, f"{callee.address} has its queue full", delivered=False,
                hint="Try again later, or start a second instance of the service.",
            )  # fmt: skip
            self._answer(peer, Envelope(k=Frame.REP, re=route.id, last=True, err=self._err(full)))
        elif not call.queued:
            self._deliver(call, raw)

    def _check_request(self, peer: Peer, route: Route, subject: str) -> None:
        if not is_subject(subject):
            raise bad_request(
                "`to` is not a subject", _problem("to", route.to, "tokens of [A-Za-z0-9_-] and dots")
            )
        if not 0 < len(route.id) <= IDS_MAX:
            raise bad_request("`id` is missing", _problem("id", route.id, f"1 to {IDS_MAX} characters"))
        if not 0 < route.timeout <= TIMEOUT_MS_MAX:
            wrong = _problem("timeout", str(route.timeout), f"1 to {TIMEOUT_MS_MAX} ms")
            raise bad_request("a request needs a budget", wrong)
        if (peer.address, route.id) in self.roster.pending:
            raise bad_request("this id is under way already", _problem("id", route.id, "an id of its own"))
        if peer.calls_pending >= self.limits.pending_calls:
            raise ManorError(
                Kind.NO_CAPACITY, f"{peer.calls_pending} calls of yours are under way", delivered=False
            )
        decision = self.decide(peer.label, "call", subject)
        if not decision.allowed:
            self.counters["forbidden"] += 1
            hint = f"Ask the policy's owner, or see: manor bus explain {peer.label} call {subject}"
            raise ManorError(
                Kind.FORBIDDEN,
                f"{peer.label} may not call {subject} ({decision.rule})",
                delivered=False,
                hint=hint,
            )

    def _find(self, subject: str, place: str) -> Peer:
        node, _, instance = place.removeprefix("@").partition("/")
        if place and node != self.node:
            raise ManorError(
                Kind.UNAVAILABLE, f"no way to node {node}", delivered=False, hint="See: manor get node"
            )
        if instance:
            found = self.roster.by_instance.get(instance)
            missing = f"no instance {instance} on {self.node}"
        else:
            found = self.roster.pick(subject)
            missing = f"nobody serves {subject} now"
        if found is None:
            hint = "See which services run: manor service list"
            raise ManorError(Kind.UNAVAILABLE, missing, delivered=False, hint=hint)
        return found

    def _deliver(self, call: Call, raw: bytes) -> None:
        call.callee.sent += 1
        self.out.append(
            (call.callee.conn, envelope.single(call.caller.packed, raw, max(1, int(call.deadline * 1000))))
        )
        if self.fanout.taps:
            self.fanout.tapped(call.to.partition("@")[0], envelope.item(call.caller.packed, raw), self.out)

    def _reply(self, peer: Peer, route: Route, raw: bytes, now: float) -> None:
        call = self.roster.pending.get((route.to, route.re))
        if call is None or call.callee is not peer or call.queued:
            self.counters["replies_dropped"] += 1
            return
        call.caller.sent += 1
        self.out.append((call.caller.conn, envelope.single(peer.packed, raw)))
        if self.fanout.taps:
            self.fanout.tapped(call.to.partition("@")[0], envelope.item(peer.packed, raw), self.out)
        if route.k == Frame.REP:
            self._finish(call)

    def _finish(self, call: Call) -> None:
        """Forget a call; whoever waits for its place in the callee's window goes next."""
        for following, raw in self.roster.leave(call):
            self._deliver(following, raw)

    def _cancelled(self, call: Call, raw: bytes) -> None:
        if call.queued:
            self._finish(call)
            self._refuse_call(call, Kind.TIMEOUT, "cancelled before it was delivered", delivered=False)
        else:
            self.out.append((call.callee.conn, envelope.single(call.caller.packed, raw)))

    def _cancel(self, call: Call) -> None:
        wish = codec.encode(Envelope(k=Frame.CANCEL, re=call.id))
        self.out.append((call.callee.conn, envelope.single(call.caller.packed, wish)))

    def _refuse_call(self, call: Call, kind: Kind, message: str, *, delivered: bool) -> None:
        err = ErrorBody(kind=kind, message=f"{call.to}: {message}", origin=Origin.BROKER, delivered=delivered)
        self._answer(call.caller, Envelope(k=Frame.REP, re=call.id, last=True, err=err))

    def _drain(self, peer: Peer, now: float) -> None:
        """No new calls for this instance; what still waits for it goes to another one, or back."""
        for call, raw in self.roster.drain(peer):
            other = self.roster.pick(call.to.partition("@")[0])
            if other is not None:
                moved = Call(call.caller, other, call.id, call.to, call.deadline, now)
                if self.roster.enter(moved, raw):
                    if not moved.queued:
                        self._deliver(moved, raw)
                    continue
            self._refuse_call(call, Kind.UNAVAILABLE, "the instance is leaving", delivered=False)
        self._answer(peer, Envelope(k=Frame.DRAIN))

    # --- events ---------------------------------------------------------------------------------------

    def _publish(self, peer: Peer, route: Route, raw: bytes, now: float) -> None:
        subject = route.subject
        if not is_subject(subject) or not self.decide(peer.label, "publish", subject).allowed:
            self.counters["forbidden"] += 1
            return
        self.counters["events"] += 1
        self.ring.add(self.wall + now, peer.address, subject, raw)
        self.fanout.publish(subject, envelope.item(peer.packed, raw), self.out)

    def _subscribe(self, peer: Peer, route: Route, raw: bytes, now: float) -> None:
        try:
            wish = codec.decode(codec.decode(raw, Envelope).data, words.Subscribe)
            self._check_subscribe(peer, route.to, wish)
        except ManorError as error:
            self._answer(peer, Envelope(k=Frame.REP, re=route.id, last=True, err=self._err(error)))
            return
        made = self.fanout.subscribe(peer.conn, peer.address, peer.label, route.to, wish)
        peer.subs[wish.sid] = made
        owners = tuple(
            words.Owner(address=other.address, owns=other.owns)
            for other in self.roster.by_conn.values()
            if not other.draining and any(overlap(route.to, pattern) for pattern in other.owns)
        )
        done = words.Subscribed(sid=wish.sid, seq=made.next, owners=owners)
        self._answer(peer, Envelope(k=Frame.REP, re=route.id, last=True, data=_raw(done)))

    def _check_subscribe(self, peer: Peer, pattern: str, wish: words.Subscribe) -> None:
        if not is_pattern(pattern):
            raise bad_request(
                "`to` is not a pattern", _problem("to", pattern, "tokens, `*`, and `>` at the end")
            )
        if wish.sid <= 0 or wish.sid in peer.subs:
            raise bad_request("`sid` is taken", _problem("sid", str(wish.sid), "a number above 0 of its own"))
        if not (0 < wish.window <= 100_000 and 0 < wish.window_bytes <= 67_108_864):
            wrong = _problem("window", str(wish.window), "up to 100000 messages and 64 MiB")
            raise bad_request("the window is out of range", wrong)
        if len(peer.subs) >= self.limits.subscriptions:
            raise ManorError(Kind.NO_CAPACITY, f"{len(peer.subs)} subscriptions are the limit")
        verb = "tap" if wish.tap else "watch"
        decision = self.decide(peer.label, verb, pattern)
        if not decision.allowed:
            self.counters["forbidden"] += 1
            raise ManorError(Kind.FORBIDDEN, f"{peer.label} may not {verb} {pattern} ({decision.rule})")

    def _unsubscribe_or_credit(self, peer: Peer, route: Route, raw: bytes, now: float) -> None:
        try:
            body = codec.decode(raw, Envelope).data
            if route.k == Frame.UNSUB:
                gone = peer.subs.pop(codec.decode(body, words.Unsubscribe).sid, None)
                if gone is not None:
                    self.fanout.unsubscribe(gone)
                self._answer(peer, Envelope(k=Frame.REP, re=route.id, last=True, data=_raw(Done())))
                return
            credit = codec.decode(body, words.Credit)
        except ManorError as error:
            self._protocol_error(peer.conn, peer, str(error), now)
            return
        subscription = peer.subs.get(credit.sid)
        if subscription is not None:
            if not subscription.credit(credit.messages, credit.size):
                self._protocol_error(peer.conn, peer, "credit beyond what was sent", now)
            elif subscription.newest:
                self.fanout.drain(subscription, self.out)

    def _tell_slow(self, now: float) -> None:
        slow, self.fanout.slow = self.fanout.slow, []
        kicked, self.fanout.kicked = self.fanout.kicked, []
        for late in slow:
            if now - late.told_slow_at >= 1.0:
                late.told_slow_at = now
                body = words.SlowPeer(
                    address=late.address, sid=late.sid, pattern=late.stream.pattern, policy=late.wish.policy,
                    dropped=late.dropped,
                )  # fmt: skip
                self._event("bus.slow", "bus.slow.v1", body, now)
        for conn in dict.fromkeys(kicked):
            self.counters["kicked_slow"] += 1
            self._end(conn, "slow", now)

    def _owner_changed(self, peer: Peer, *, present: bool, reason: str) -> None:
        owner = words.Owner(address=peer.address, owns=peer.owns)
        body = words.OwnerChanged(owner=owner, present=present, reason=reason)
        self._id += 1
        raw = codec.encode(
            Envelope(k=Frame.PUB, id=f"{self._id}", subject="bus.owner", type="bus.owner.v1", data=_raw(body))
        )
        packed = envelope.item(self._sender, raw)
        for stream in list(self.fanout.streams()):
            if not stream.tap and self._concerns(stream, peer.owns):
                self.fanout.announce(stream, f"bus.owner.{peer.address}", packed, self.out)

    @staticmethod
    def _concerns(stream: Stream, owns: tuple[str, ...]) -> bool:
        return any(overlap(stream.pattern, pattern) for pattern in owns)

    def _news(self, peer: Peer, body: words.PeerChanged, now: float) -> None:
        subject = f"bus.peer.{peer.label.replace('/', '.')}.{peer.instance}"
        self._event(subject, "bus.peer.v1", body, now)

    def _event(self, subject: str, type_name: str, body: Message, now: float) -> None:
        self._id += 1
        wire = Envelope(k=Frame.PUB, id=f"{self._id}", subject=subject, type=type_name, data=_raw(body))
        raw = codec.encode(wire)
        self.ring.add(self.wall + now, self.address, subject, raw)
        self.fanout.publish(subject, envelope.item(self._sender, raw), self.out)

    # --- ends -----------------------------------------------------------------------------------------

    def _leave(self, peer: Peer, reason: str, now: float) -> None:
        for subscription in peer.subs.values():
            self.fanout.unsubscribe(subscription)
        lost, abandoned = self.roster.remove(peer)
        for call in lost:
            kind, message = Kind.UNAVAILABLE, f"{peer.address} left before it replied ({reason})"
            self._refuse_call(call, kind, message, delivered=not call.queued)
        for call in abandoned:
            waiting = call.queued
            self._finish(call)
            if not waiting:
                self._cancel(call)
        if peer.owns:
            self._owner_changed(peer, present=False, reason=reason)
        self._news(peer, words.PeerChanged(address=peer.address, present=False, reason=reason), now)

    def _end(self, conn: bytes, reason: str, now: float) -> None:
        self._reset(conn, reason)
        self.gone(conn, reason, now)
        self.cut.append(conn)

    def kick(self, address: str, reason: str, now: float) -> bool:
        """End one session; False when there is none at this address."""
        peer = self.roster.by_address.get(address)
        if peer is not None:
            self._end(peer.conn, reason, now)
        return peer is not None

    def _protocol_error(self, conn: bytes, peer: Peer | None, reason: str, now: float) -> None:
        self.counters["protocol_errors"] += 1
        err = ErrorBody(kind=Kind.BAD_REQUEST, message=reason, origin=Origin.BROKER, delivered=False)
        reset = words.Reset(broker_epoch=self.epoch, reason="protocol")
        self._send(conn, Envelope(k=Frame.RESET, err=err, data=_raw(reset)))
        self.gone(conn, "protocol", now)
        self.cut.append(conn)

    def _reset(self, conn: bytes, reason: str) -> None:
        body = words.Reset(broker_epoch=self.epoch, reason=reason)  # type: ignore[arg-type]
        self._send(conn, Envelope(k=Frame.RESET, data=_raw(body)))

    # --- small things ---------------------------------------------------------------------------------

    def decide(self, label: str, verb: str, subject: str) -> Decision:
        """Ask the policy, remembering the answer until `forget_decisions`."""
        key = (label, verb, subject)
        decision = self._decisions.get(key)
        if decision is None:
            if len(self._decisions) >= DECISIONS_MAX:
                self._decisions.clear()
            decision = self._decisions[key] = self._decide(label, verb, subject)
        return decision

    def _introspect(self, peer: Peer, subject: str, route: Route, raw: bytes, now: float) -> None:
        answer = self.answers.get(subject)
        if answer is None:
            raise ManorError(Kind.BAD_REQUEST, f"the broker does not answer {subject}", delivered=False)
        reply = answer(codec.decode(raw, Envelope).data, now)
        self._answer(peer, Envelope(k=Frame.REP, re=route.id, last=True, data=_raw(reply)))

    def _answer(self, peer: Peer, wire: Envelope) -> None:
        peer.sent += 1
        self._send(peer.conn, wire)

    def _send(self, conn: bytes, wire: Envelope) -> None:
        self.out.append((conn, envelope.single(self._sender, codec.encode(wire))))

    def _err(self, error: ManorError) -> ErrorBody:
        error.origin, error.delivered = Origin.BROKER, False
        return error.body()


def _raw(message: Message) -> msgspec.Raw:
    return msgspec.Raw(codec.encode(message))


def _problem(path: str, value: str, allowed: str) -> Problem:
    return Problem(path=path, value=value[:80], reason="not allowed", allowed=allowed)
