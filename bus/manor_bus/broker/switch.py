"""The broker's core: greetings and ends of sessions; the rest goes to `calls` and `events`. Pure.

Frames and a clock reading in, frames out. The shell (`broker.py`) feeds `frame`, `gone` and `advance`, sends
what is in `out` and cuts the connections in `cut`. Rules, each with its test in tests/bus:

1. Only HELLO is understood from an unknown connection; everything else is answered RESET.
2. What a frame says about its sender is ignored: the connection's key decides who it is.
3. A request is sent to one instance, once. It ends once: by the reply of that instance, by its budget, or by
   the end of that instance's session.
4. Nothing waits for the absent: no instance, no delivery, at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from manor_bus import PROTOCOL
from manor_bus.broker.admission import AdmissionQueue
from manor_bus.broker.calls import Calls
from manor_bus.broker.events import Events
from manor_bus.broker.fanout import Fanout
from manor_bus.broker.outbox import Outbox, Reason, raw, refusal
from manor_bus.broker.policy import Decide, Decisions
from manor_bus.broker.services import Services
from manor_bus.broker.sessions import Call, Peer, Sessions
from manor_bus.wire import codec, envelope
from manor_bus.wire.envelope import Envelope
from manor_bus.wire.envelope import Kind as Frame
from manor_bus.wire.errors import ErrorBody, Kind, ManorError, Origin, bad_request
from manor_bus.wire.messages import bus as words
from manor_bus.wire.subjects import is_pattern

HEARTBEAT_S: Final = 1.0
PATTERNS_MAX: Final = 64
_HELLO: Final = int(Frame.HELLO)
LIMITS: Final = words.Limits(
    frame_bytes=codec.FRAME_BYTES_MAX,
    depth=codec.DEPTH_MAX,
    subscriptions=256,
    pending_calls=4_096,
    in_flight_per_callee=128,
    queued_per_callee=2_048,
)


class Switch:
    """One node's message switch. `wall` is seconds since 1970 minus the monotonic clock, for time stamps.

    The shell sends what is in `outbox` and sets `calls.answers`.
    """

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
        self.node, self.epoch, self.boot_id, self.limits = node, epoch, boot_id, limits
        self.address = f"bus@{node}/{epoch}"
        self.decide = Decisions(decide)
        self.sessions = Sessions()
        self.fanout = Fanout(lambda label, subject: self.decide(label, "watch", subject).allowed)
        self.outbox = outbox = Outbox(self.address, epoch)
        services = Services(node, epoch)
        self.calls = calls = Calls(node, limits, outbox, self.sessions, self.fanout, self.decide, services)
        self.events = events = Events(limits, wall, outbox, self.sessions, self.fanout, self.decide, services)
        self.started = 0.0
        self._next_beat = 0.0
        self._by_kind: dict[int, Callable[[Peer, Envelope, bytes, float], None]] = {
            int(Frame.REQ): calls.request, int(Frame.REP): calls.reply, int(Frame.PART): calls.reply,
            int(Frame.CANCEL): calls.cancel, int(Frame.PUB): events.publish, int(Frame.SUB): events.subscribe,
            int(Frame.UNSUB): events.unsubscribe, int(Frame.CREDIT): events.credit,
            int(Frame.PING): self._ping, int(Frame.DRAIN): self._drain,
        }  # fmt: skip

    # --- what the shell calls -------------------------------------------------------------------------

    def frame(self, conn: bytes, label: str, where: str, untrusted: bytes, now: float) -> None:
        """Take one frame from a connection whose key belongs to `label`."""
        if not envelope.is_batch(untrusted):
            self._message(conn, label, where, untrusted, now)
            return
        try:
            messages = envelope.unbatch(untrusted)
        except (codec.Malformed, ManorError) as error:
            self._protocol_error(conn, str(error), now)
            return
        for message in messages:
            if conn in self.outbox.cut:
                return  # what came before has ended it
            self._message(conn, label, where, message, now)

    def _message(self, conn: bytes, label: str, where: str, untrusted: bytes, now: float) -> None:
        self.outbox.counters["frames"] += 1
        try:
            wire = envelope.read(untrusted)
        except (codec.Malformed, ManorError) as error:
            self._protocol_error(conn, str(error), now)
            return
        peer = self.sessions.by_conn.get(conn)
        if wire.k == _HELLO:
            self._hello(conn, label, where, wire, now)
        elif peer is None or peer.label != label:
            self.outbox.counters["reset_unknown"] += 1
            self.outbox.reset(conn, "unknown")
        else:
            peer.received += 1
            act = self._by_kind.get(wire.k)
            if act is None:
                self._protocol_error(conn, f"kind {wire.k} is not for the broker", now)
                return
            try:
                act(peer, wire, untrusted, now)
            except ManorError as error:
                self._protocol_error(conn, str(error), now)

    def gone(self, conn: bytes, reason: str, now: float) -> None:
        """A connection has ended: end its session, its calls, and what was called of it."""
        peer = self.sessions.by_conn.get(conn)
        if peer is not None:
            self._leave(peer, reason, now)

    def advance(self, now: float) -> None:
        """Let time pass: end calls whose budget is over, tell idle subscribers the next number."""
        self.calls.advance(now)
        if now >= self._next_beat:
            self._next_beat = now + HEARTBEAT_S
            self.fanout.heartbeat(self.outbox.out)

    def flush(self, now: float) -> None:
        """End of a drain cycle: send the collected events, apply policies to slow subscribers."""
        while kicked := self.events.flush(now):
            for conn in kicked:
                self.outbox.counters["kicked_slow"] += 1
                self._end(conn, "slow", now)

    def next_timer(self) -> float:
        """Return when `advance` wants to be called."""
        return min(self.sessions.next_deadline(), self._next_beat)

    def kick(self, address: str, reason: Reason, now: float) -> bool:
        """End one session; False when there is none at this address."""
        peer = self.sessions.by_address.get(address)
        if peer is not None:
            self._end(peer.conn, reason, now)
        return peer is not None

    def change_policy(self, decide: Decide, now: float) -> None:
        """Decide by another policy from now on: grants follow it, and who watches too much is ended."""
        self.fanout.flush(self.outbox.out)  # what was taken under the old policy goes under it
        self.decide.replace(decide)
        self.fanout.policy_changed()
        self.calls.policy_changed(now)
        for peer in list(self.sessions.by_conn.values()):
            subs = (("tap" if sub.wish.tap else "watch", sub.stream.pattern) for sub in peer.subs.values())
            if all(self.decide(peer.label, verb, pattern).allowed for verb, pattern in subs):
                self._grant_again(peer, now)
            else:
                self._end(peer.conn, "revoked", now)

    def _grant_again(self, peer: Peer, now: float) -> None:
        serves, _ = self._grant(peer.label, "serve", peer.wishes.serves)
        owns, _ = self._grant(peer.label, "publish", peer.wishes.owns)
        if owns != peer.owns and peer.owns:
            self.events.owner_changed(peer, present=False, reason="revoked")
        changed = owns != peer.owns
        self._tell_woken(peer, self.sessions.grant(peer, serves, owns))
        self.events.service_changed(peer, present=True, now=now)
        if changed and owns:
            self.events.owner_changed(peer, present=True, reason="")

    # --- sessions -------------------------------------------------------------------------------------

    def _hello(self, conn: bytes, label: str, where: str, wire: Envelope, now: float) -> None:
        try:
            hello = codec.read_body(wire.data, words.Hello)
            _check_hello(hello)
            self.sessions.admit(label, hello.instance, conn)
        except ManorError as error:
            self.outbox.send(conn, Envelope(k=Frame.WELCOME, re=wire.id, err=refusal(error)))
            return
        address = f"{label}@{self.node}/{hello.instance}"
        peer = self._replaced(conn, address, now)
        new = peer is None
        if peer is None:
            queue: AdmissionQueue[Call] = AdmissionQueue(
                self.limits.in_flight_per_callee, self.limits.queued_per_callee
            )
            peer = Peer(conn, label, address, envelope.pack_text(address), where, now, queue)
        serves, no_serves = self._grant(label, "serve", hello.serves)
        owns, no_owns = self._grant(label, "publish", hello.owns)
        woken = self.sessions.greet(peer, hello, serves, owns)
        welcome = words.Welcome(
            protocol=PROTOCOL, broker_epoch=self.epoch, address=address, boot_id=self.boot_id,
            heartbeat_ms=int(HEARTBEAT_S * 1000), limits=self.limits, serves=serves,
            denied=no_serves + no_owns, batches=True,
        )  # fmt: skip
        self.outbox.answer(peer, Envelope(k=Frame.WELCOME, re=wire.id, data=raw(welcome)))
        if hello.batches:
            self.outbox.batching.add(conn)
        self._tell_woken(peer, woken)
        if new:
            self.events.peer_changed(peer, present=True, reason="", now=now)
        self.events.service_changed(peer, present=True, now=now)
        if owns:
            self.events.owner_changed(peer, present=True, reason="")

    def _tell_woken(self, peer: Peer, woken: list[Peer]) -> None:
        serving = raw(words.Serving(group=peer.group))
        for waiting in woken:
            self.outbox.answer(waiting, Envelope(k=Frame.PUB, type="bus.serving.v1", data=serving))

    def _replaced(self, conn: bytes, address: str, now: float) -> Peer | None:
        """Return the session that greets again; end one that this greeting replaces."""
        known = self.sessions.by_address.get(address)
        if known is not None and known.conn == conn:
            return known
        for before in (known, self.sessions.by_conn.get(conn)):
            if before is not None:
                self._leave(before, "replaced", now)
                if before.conn != conn:
                    self.outbox.cut.append(before.conn)
        return None

    def _grant(
        self, label: str, verb: str, patterns: tuple[str, ...]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        decisions = {pattern: self.decide(label, verb, pattern) for pattern in patterns}
        granted = tuple(p for p, d in decisions.items() if d.allowed)
        return granted, tuple(f"{p}: {d.rule}" for p, d in decisions.items() if not d.allowed)

    def _ping(self, peer: Peer, wire: Envelope, sent: bytes, now: float) -> None:
        self.outbox.answer(peer, Envelope(k=Frame.PING, re=wire.id))

    def _drain(self, peer: Peer, wire: Envelope, sent: bytes, now: float) -> None:
        self.calls.drain(peer, now)
        self.events.service_changed(peer, present=True, now=now)

    def _leave(self, peer: Peer, reason: str, now: float) -> None:
        self.outbox.batching.discard(peer.conn)
        lost, made = self.sessions.remove(peer)
        self.calls.abandon(peer.address, reason, lost, made, now)
        self.events.leave(peer, reason, now)

    def _end(self, conn: bytes, reason: Reason, now: float) -> None:
        self.outbox.reset(conn, reason)
        self.gone(conn, reason, now)
        self.outbox.cut.append(conn)

    def _protocol_error(self, conn: bytes, reason: str, now: float) -> None:
        self.outbox.counters["protocol_errors"] += 1
        err = ErrorBody(kind=Kind.BAD_REQUEST, message=reason, origin=Origin.BROKER, delivered=False)
        self.outbox.reset(conn, "protocol", err)
        self.gone(conn, "protocol", now)
        self.outbox.cut.append(conn)


def _check_hello(hello: words.Hello) -> None:
    low, high = hello.protocol
    if not low <= PROTOCOL <= high:
        raise bad_request(f"this broker speaks protocol {PROTOCOL}, not {low} to {high}")
    if not (hello.instance.isascii() and hello.instance.isalnum() and len(hello.instance) <= 32):
        raise bad_request("instance must be 1 to 32 letters and digits")
    if len(hello.serves) + len(hello.owns) > PATTERNS_MAX:
        raise bad_request(f"serves and owns take at most {PATTERNS_MAX} subject patterns")
    if not all(map(is_pattern, hello.serves + hello.owns)):
        raise bad_request("serves and owns take subject patterns")
