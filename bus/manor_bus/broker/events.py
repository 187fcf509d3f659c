"""The broker's events: publishing, subscriptions, credit, slow subscribers, news of peers and owners. Pure.

How events are collected, numbered and sent is in `fanout`.
"""

from __future__ import annotations

from typing import Final

from manor_bus.broker.fanout import Fanout
from manor_bus.broker.outbox import Outbox, problem, raw
from manor_bus.broker.policy import Decisions
from manor_bus.broker.ring import Ring
from manor_bus.broker.services import PATTERN, TYPE, Services
from manor_bus.broker.sessions import Peer, Sessions
from manor_bus.wire import codec, envelope
from manor_bus.wire.envelope import Envelope
from manor_bus.wire.envelope import Kind as Frame
from manor_bus.wire.errors import Kind, ManorError, bad_request
from manor_bus.wire.messages import Done, Message
from manor_bus.wire.messages.bus import (
    Credit,
    Limits,
    Owner,
    OwnerChanged,
    PeerChanged,
    SlowPeer,
    Subscribe,
    Subscribed,
    Unsubscribe,
)
from manor_bus.wire.subjects import is_pattern, is_subject, overlap

WINDOW_MAX: Final = 16_384  # messages under way to one peer, all subscriptions together
WINDOW_BYTES_MAX: Final = 134_217_728
SLOW_S: Final = 1.0  # between two news of one slow subscription


class Events:
    """Publishing and subscribing. `wall` is seconds since 1970 minus the monotonic clock."""

    def __init__(
        self, limits: Limits, wall: float, outbox: Outbox, sessions: Sessions, fanout: Fanout,
        decide: Decisions, services: Services,
    ) -> None:  # fmt: skip
        self._limits, self._wall, self._decide, self._services = limits, wall, decide, services
        self._outbox, self._sessions, self._fanout = outbox, sessions, fanout
        self.ring = Ring()
        self._count = 0

    # --- from peers -----------------------------------------------------------------------------------

    def publish(self, peer: Peer, wire: Envelope, sent: bytes, now: float) -> None:
        """Pass an event to its subscribers, exactly as it was sent; what policy denies is counted."""
        subject = wire.subject
        if not is_subject(subject) or not self._decide(peer.label, "publish", subject).allowed:
            self._outbox.counters["forbidden"] += 1
            return
        self._outbox.counters["events"] += 1
        self.ring.add(self._wall + now, peer.address, subject, sent)
        self._fanout.publish(subject, envelope.item(peer.packed, sent), self._outbox.out)

    def subscribe(self, peer: Peer, wire: Envelope, sent: bytes, now: float) -> None:
        """Make a subscription live, or refuse it."""
        try:
            wish = codec.read_body(wire.data, Subscribe)
            self._check(peer, wire.to, wish)
        except ManorError as error:
            self._outbox.refuse(peer, wire.id, error)
            return
        made = self._fanout.subscribe(peer.conn, peer.address, peer.label, wire.to, wish, self._outbox.out)
        peer.subs[wish.sid] = made
        owners = [
            Owner(address=other.address, owns=other.owns)
            for other in self._sessions.by_conn.values()
            if _concerns(wire.to, other.owns)
        ]
        if overlap(wire.to, PATTERN):
            owners.append(Owner(address=self._outbox.address, owns=(PATTERN,)))
        self._outbox.reply(peer, wire.id, Subscribed(sid=wish.sid, seq=made.next, owners=tuple(owners)))

    def _check(self, peer: Peer, pattern: str, wish: Subscribe) -> None:
        if not is_pattern(pattern):
            wrong = problem("to", pattern, "tokens, `*`, and `>` at the end")
            raise bad_request("`to` is not a pattern", wrong)
        if wish.sid <= 0 or wish.sid in peer.subs:
            raise bad_request("`sid` is taken", problem("sid", str(wish.sid), "a number above 0 of its own"))
        if wish.window <= 0 or wish.window_bytes <= 0:
            raise bad_request("the window is empty", problem("window", str(wish.window), "above 0"))
        if len(peer.subs) >= self._limits.subscriptions:
            raise ManorError(Kind.NO_CAPACITY, f"{len(peer.subs)} subscriptions are the limit")
        wishes = [wish, *(sub.wish for sub in peer.subs.values())]
        messages, size = sum(one.window for one in wishes), sum(one.window_bytes for one in wishes)
        if messages > WINDOW_MAX or size > WINDOW_BYTES_MAX:
            limit = f"{WINDOW_MAX} messages and {WINDOW_BYTES_MAX} bytes"
            raise ManorError(Kind.NO_CAPACITY, f"the windows of all your subscriptions exceed {limit}")
        verb = "tap" if wish.tap else "watch"
        decision = self._decide(peer.label, verb, pattern)
        if not decision.allowed:
            self._outbox.counters["forbidden"] += 1
            raise ManorError(Kind.FORBIDDEN, f"{peer.label} may not {verb} {pattern} ({decision.rule})")

    def unsubscribe(self, peer: Peer, wire: Envelope, sent: bytes, now: float) -> None:
        """End a subscription; raises ManorError when the body is invalid."""
        gone = peer.subs.pop(codec.read_body(wire.data, Unsubscribe).sid, None)
        if gone is not None:
            self._fanout.unsubscribe(gone)
        self._outbox.reply(peer, wire.id, Done())

    def credit(self, peer: Peer, wire: Envelope, sent: bytes, now: float) -> None:
        """Take credit; raises ManorError when there is more than what was sent."""
        credit = codec.read_body(wire.data, Credit)
        subscription = peer.subs.get(credit.sid)
        if subscription is not None and not self._fanout.credit(
            subscription, credit.messages, credit.size, self._outbox.out
        ):
            raise bad_request("credit beyond what was sent, or going back")

    # --- from the switch ------------------------------------------------------------------------------

    def leave(self, peer: Peer, reason: str, now: float) -> None:
        """A peer left: end its subscriptions and tell who follows its state."""
        for subscription in peer.subs.values():
            self._fanout.unsubscribe(subscription)
        peer.subs.clear()
        if peer.owns:
            self.owner_changed(peer, present=False, reason=reason)
        self.service_changed(peer, present=False, now=now)
        self.peer_changed(peer, present=False, reason=reason, now=now)

    def flush(self, now: float) -> list[bytes]:
        """End of a drain cycle: send what collected; returns the connections whose policy ends them."""
        fanout = self._fanout
        fanout.flush(self._outbox.out)
        if not fanout.slow and not fanout.kicked:
            return []
        slow, fanout.slow = fanout.slow, []
        kicked, fanout.kicked = fanout.kicked, []
        for late in slow:
            if now - late.told_slow_at >= SLOW_S:
                late.told_slow_at = now
                body = SlowPeer(
                    address=late.address, sid=late.sid, pattern=late.stream.pattern, policy=late.wish.policy,
                    dropped=late.dropped,
                )  # fmt: skip
                self._news("bus.slow", "bus.slow.v1", body, now)
        fanout.flush(self._outbox.out)  # that news, too; who falls behind by it is told of later
        return list(dict.fromkeys(kicked))

    def owner_changed(self, peer: Peer, *, present: bool, reason: str) -> None:
        """Tell every stream that the peer's state concerns."""
        owner = Owner(address=peer.address, owns=peer.owns)
        sent = self._own(
            "bus.owner", "bus.owner.v1", OwnerChanged(owner=owner, present=present, reason=reason)
        )
        packed = envelope.item(self._outbox.packed, sent)
        for stream in list(self._fanout.streams()):
            if not stream.tap and _concerns(stream.pattern, peer.owns):
                self._fanout.announce(stream, f"bus.owner.{peer.address}", packed, self._outbox.out)

    def peer_changed(self, peer: Peer, *, present: bool, reason: str, now: float) -> None:
        """Publish that a peer came or went."""
        subject = f"bus.peer.{peer.label.replace('/', '.')}.{peer.instance}"
        body = PeerChanged(address=peer.address, present=present, reason=reason)
        self._news(subject, "bus.peer.v1", body, now)

    def service_changed(self, peer: Peer, *, present: bool, now: float) -> None:
        """Publish what an attached service looks like now, if that is news."""
        news = self._services.look(peer, present=present)
        if news is not None:
            subject, status = news
            services = self._services
            self._tell(subject, self._own(subject, TYPE, status, services.epoch, services.rev), now)

    def _news(self, subject: str, type_name: str, body: Message, now: float) -> None:
        self._tell(subject, self._own(subject, type_name, body), now)

    def _tell(self, subject: str, sent: bytes, now: float) -> None:
        self.ring.add(self._wall + now, self._outbox.address, subject, sent)
        self._fanout.publish(subject, envelope.item(self._outbox.packed, sent), self._outbox.out)

    def _own(
        self, subject: str, type_name: str, body: Message | None, epoch: str = "", rev: int = 0
    ) -> bytes:
        self._count += 1
        wire = Envelope(
            k=Frame.PUB, id=f"{self._count}", subject=subject, type=type_name, epoch=epoch, rev=rev,
            data=codec.NIL if body is None else raw(body),
        )  # fmt: skip
        return codec.encode(wire)


def _concerns(pattern: str, owns: tuple[str, ...]) -> bool:
    return any(overlap(pattern, owned) for owned in owns)
