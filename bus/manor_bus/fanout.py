"""Subscriptions: matching, batching, numbering, credit, and the three policies for slow subscribers. Pure.

Events collect in a Stream (one per pattern and label) during a drain cycle and leave as one blob shared by
its subscribers. Each subscription numbers its items from 0; what `gap` drops leaves a hole,
what `coalesce` replaces is counted in the frame. Source: design page "The bus", Events are state streams.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from manor_bus import envelope
from manor_bus.messages.bus import Subscribe
from manor_bus.subjects import matches

BATCH_BYTES_MAX: Final = 262_144
BATCH_ITEMS_MAX: Final = 1_000
BEHIND_BYTES_MAX: Final = 16_777_216  # what `coalesce` keeps for one subscriber before it declares a gap
CACHE_SUBJECTS_MAX: Final = 65_536

Send = tuple[bytes, bytes]  # connection, frame


@dataclass(slots=True)
class Subscription:
    """One subscriber of one pattern. Totals are absolute; `acked_*` come from CREDIT."""

    conn: bytes
    address: str
    sid: int
    stream: Stream
    wish: Subscribe
    next: int = 0
    sent_messages: int = 0
    sent_bytes: int = 0
    acked_messages: int = 0
    acked_bytes: int = 0
    dropped: int = 0
    coalesced: int = 0
    superseded: int = 0  # replaced since the last frame
    newest: dict[str, bytes] = field(default_factory=dict)
    behind_bytes: int = 0
    told_slow_at: float = float("-inf")
    idle_since: float = 0.0

    def credit(self, messages: int, size: int) -> bool:
        """Take absolute totals; False when they go back or beyond what was sent (a protocol violation)."""
        if not self.acked_messages <= messages <= self.sent_messages or size > self.sent_bytes:
            return False
        self.acked_messages, self.acked_bytes = messages, max(self.acked_bytes, size)
        return True

    def room(self, count: int, size: int) -> bool:
        """Whether the subscriber is ready for this much; a single item always fits an empty window."""
        outstanding = self.sent_messages - self.acked_messages
        if outstanding == 0 and count == 1:
            return True
        within = outstanding + count <= self.wish.window
        return within and self.sent_bytes - self.acked_bytes + size <= self.wish.window_bytes


@dataclass(slots=True)
class Stream:
    """What collects for one pattern in this drain cycle, and who wants it."""

    pattern: str
    label: str
    items: list[tuple[str, bytes]] = field(default_factory=list)
    size: int = 0
    subscriptions: list[Subscription] = field(default_factory=list)
    tap: bool = False


class Fanout:
    """All subscriptions of one broker."""

    def __init__(self) -> None:
        self._streams: dict[tuple[str, str, bool], Stream] = {}
        self._by_subject: dict[str, tuple[Stream, ...]] = {}
        self._dirty: dict[int, Stream] = {}
        self.taps = 0
        self.kicked: list[bytes] = []  # connections whose policy says so
        self.slow: list[Subscription] = []  # those that just fell behind
        self.dropped = 0

    def subscribe(self, conn: bytes, address: str, label: str, pattern: str, wish: Subscribe) -> Subscription:
        """Make a subscription live from the next event on."""
        key = (pattern, label, wish.tap)
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = Stream(pattern, label, tap=wish.tap)
            self._by_subject.clear()
        else:
            self._flush_stream(stream, [])  # what came before is not for the new one
        made = Subscription(conn, address, wish.sid, stream, wish)
        stream.subscriptions.append(made)
        self.taps += wish.tap
        return made

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription."""
        stream = subscription.stream
        stream.subscriptions.remove(subscription)
        self.taps -= stream.tap
        if not stream.subscriptions:
            del self._streams[stream.pattern, stream.label, stream.tap]
            self._dirty.pop(id(stream), None)
            self._by_subject.clear()

    def publish(self, subject: str, packed: bytes, out: list[Send]) -> None:
        """Add one item (`[from, envelope]`, packed) to every stream whose pattern matches."""
        streams = self._by_subject.get(subject)
        if streams is None:
            if len(self._by_subject) >= CACHE_SUBJECTS_MAX:
                self._by_subject.clear()
            streams = tuple(s for s in self._streams.values() if not s.tap and matches(s.pattern, subject))
            self._by_subject[subject] = streams
        for stream in streams:
            self._add(stream, subject, packed, out)

    def tapped(self, subject: str, packed: bytes, out: list[Send]) -> None:
        """Add a call or reply to the streams of taps."""
        for stream in list(self._streams.values()):
            if stream.tap and (not subject or matches(stream.pattern, subject) or stream.pattern == ">"):
                self._add(stream, subject or "reply", packed, out)

    def announce(self, stream: Stream, subject: str, packed: bytes, out: list[Send]) -> None:
        """Add one item to one stream."""
        self._add(stream, subject, packed, out)

    def streams(self) -> Iterator[Stream]:
        """All streams."""
        return iter(self._streams.values())

    def _add(self, stream: Stream, subject: str, packed: bytes, out: list[Send]) -> None:
        if stream.items and (
            stream.size + len(packed) > BATCH_BYTES_MAX or len(stream.items) >= BATCH_ITEMS_MAX
        ):
            self._flush_stream(stream, out)
        stream.items.append((subject, packed))
        stream.size += len(packed)
        self._dirty[id(stream)] = stream

    def flush(self, out: list[Send]) -> None:
        """Send what collected: the end of a drain cycle."""
        if self._dirty:
            for stream in self._dirty.values():
                self._flush_stream(stream, out)
            self._dirty.clear()

    def _flush_stream(self, stream: Stream, out: list[Send]) -> None:
        items, size = stream.items, stream.size
        if not items:
            return
        stream.items, stream.size = [], 0
        count = len(items)
        tail = envelope.array_header(count) + b"".join([packed for _, packed in items])
        for subscription in stream.subscriptions:
            if not subscription.newest and subscription.room(count, size):
                self._send(subscription, count, size, tail, out)
            else:
                self._behind(subscription, items, out)

    def _send(self, to: Subscription, count: int, size: int, tail: bytes, out: list[Send]) -> None:
        out.append((to.conn, envelope.batch(to.sid, to.next, tail, to.superseded)))
        to.superseded = 0
        to.next += count
        to.sent_messages += count
        to.sent_bytes += size
        to.idle_since = float("inf")

    def _behind(self, late: Subscription, items: list[tuple[str, bytes]], out: list[Send]) -> None:
        """More came than the subscriber is ready for: send what fits, then do as its policy says."""
        if late.wish.policy == "coalesce":
            for subject, packed in items:
                self._keep_newest(late, subject, packed)
            self.drain(late, out)
            if late.behind_bytes > BEHIND_BYTES_MAX:
                self._drop(late, len(late.newest))
                late.newest.clear()
                late.behind_bytes = 0
        else:
            fitting = [packed for _, packed in items[: self._fit(late, items)]]
            if fitting:
                tail = envelope.array_header(len(fitting)) + b"".join(fitting)
                self._send(late, len(fitting), sum(map(len, fitting)), tail, out)
            lost = len(items) - len(fitting)
            if lost and late.wish.policy == "kick":
                self.kicked.append(late.conn)
            if lost:
                self._drop(late, lost)
        if late.newest or late.wish.policy != "coalesce":
            self.slow.append(late)

    def _drop(self, late: Subscription, count: int) -> None:
        late.next += count
        late.dropped += count
        self.dropped += count

    def _keep_newest(self, late: Subscription, subject: str, packed: bytes) -> None:
        before = late.newest.pop(subject, None)
        if before is not None:
            late.behind_bytes -= len(before)
            late.coalesced += 1
            late.superseded += 1
        late.newest[subject] = packed
        late.behind_bytes += len(packed)

    @staticmethod
    def _fit(late: Subscription, items: list[tuple[str, bytes]]) -> int:
        count = size = 0
        for _, packed in items:
            size += len(packed)
            if not late.room(count + 1, size):
                break
            count += 1
        return count

    def drain(self, late: Subscription, out: list[Send]) -> None:
        """Send what a coalescing subscriber has room for again."""
        items = list(late.newest.items())[:BATCH_ITEMS_MAX]
        fitting = items[: self._fit(late, items)]
        if fitting:
            for subject, packed in fitting:
                del late.newest[subject]
                late.behind_bytes -= len(packed)
            tail = envelope.array_header(len(fitting)) + b"".join([packed for _, packed in fitting])
            self._send(late, len(fitting), sum(len(packed) for _, packed in fitting), tail, out)

    def heartbeat(self, now: float, out: list[Send]) -> None:
        """Tell idle subscribers the number that comes next, so that a lost tail is noticed."""
        for stream in self._streams.values():
            for one in stream.subscriptions:
                if one.idle_since == float("inf"):
                    one.idle_since = now  # something was sent since the last beat
                else:
                    out.append((one.conn, envelope.batch(one.sid, one.next, b"\x90")))
