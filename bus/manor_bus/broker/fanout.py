"""Subscriptions: matching, batching, numbering, credit, and the three policies for slow subscribers. Pure.

Events collect in a Stream (one per pattern and label) during a drain cycle and leave as one blob shared by
its subscribers. Each subscription numbers its items from 0; what `gap` drops leaves a hole,
what `coalesce` replaces is counted in the frame. Source: design page "The bus", Events are state streams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from manor_bus.wire import envelope
from manor_bus.wire.messages.bus import Subscribe
from manor_bus.wire.subjects import is_subject, matches

BATCH_BYTES_MAX: Final = 262_144
BATCH_ITEMS_MAX: Final = 1_000
BEHIND_BYTES_MAX: Final = 16_777_216  # what `coalesce` keeps for one subscriber before it declares a gap
HELD_BYTES_MAX: Final = 536_870_912  # unconsumed and kept for all; beyond it, who holds most is ended
CACHE_SUBJECTS_MAX: Final = 65_536

Send = tuple[bytes, bytes]  # connection, frame
MayWatch = Callable[[str, str], bool]  # label, subject


@dataclass(slots=True, eq=False)
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
    sent_since_beat: bool = True

    @property
    def held(self) -> int:
        """Bytes on their way to it or kept for it."""
        return self.sent_bytes - self.acked_bytes + self.behind_bytes

    def room(self, count: int, size: int) -> bool:
        """Whether the subscriber is ready for this much; a single item always fits an empty window."""
        outstanding = self.sent_messages - self.acked_messages
        if outstanding == 0 and count == 1:
            return True
        within = outstanding + count <= self.wish.window
        return within and self.sent_bytes - self.acked_bytes + size <= self.wish.window_bytes


@dataclass(slots=True, eq=False)
class Stream:
    """What collects for one pattern in this drain cycle, and who wants it."""

    pattern: str
    label: str
    tap: bool = False
    items: list[tuple[str, bytes]] = field(default_factory=list)
    size: int = 0
    subscriptions: list[Subscription] = field(default_factory=list)


class Fanout:
    """All subscriptions of one broker. `may_watch` is asked again for every subject that is delivered."""

    def __init__(self, may_watch: MayWatch) -> None:
        self._may_watch = may_watch
        self._streams: dict[tuple[str, str, bool], Stream] = {}
        self._by_subject: dict[str, tuple[Stream, ...]] = {}
        self.dirty: dict[Stream, None] = {}
        self.taps: tuple[Stream, ...] = ()
        self.kicked: list[bytes] = []  # connections whose policy says so
        self.slow: list[Subscription] = []  # those that just fell behind
        self.dropped = 0
        self.held = 0

    def subscribe(
        self, conn: bytes, address: str, label: str, pattern: str, wish: Subscribe, out: list[Send]
    ) -> Subscription:
        """Make a subscription live from the next event on."""
        key = (pattern, label, wish.tap)
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = Stream(pattern, label, wish.tap)
            self._streams_changed()
        else:
            self._flush_stream(stream, out)  # what came before is not for the new one
        made = Subscription(conn, address, wish.sid, stream, wish)
        stream.subscriptions.append(made)
        return made

    def unsubscribe(self, gone: Subscription) -> None:
        """End a subscription."""
        stream = gone.stream
        stream.subscriptions.remove(gone)
        self.held -= gone.held
        if not stream.subscriptions:
            del self._streams[stream.pattern, stream.label, stream.tap]
            self.dirty.pop(stream, None)
            self._streams_changed()

    def _streams_changed(self) -> None:
        self.taps = tuple(stream for stream in self._streams.values() if stream.tap)
        self._by_subject.clear()

    def policy_changed(self) -> None:
        """Ask the policy again for every subject, also for what is kept for the slow."""
        self._by_subject.clear()
        for stream in self._streams.values():
            for late in stream.subscriptions:
                for subject in list(late.newest):
                    if is_subject(subject) and not self._may_watch(stream.label, subject):
                        self._kept(late, -len(late.newest.pop(subject)))

    def streams(self) -> Iterator[Stream]:
        """All streams."""
        return iter(self._streams.values())

    # --- events in ------------------------------------------------------------------------------------

    def publish(self, subject: str, packed: bytes, out: list[Send]) -> None:
        """Add one item (`[from, envelope]`, packed) to every stream whose pattern matches."""
        streams = self._by_subject.get(subject)
        if streams is None:
            streams = self._match(subject)
        for stream in streams:
            self.announce(stream, subject, packed, out)

    def _match(self, subject: str) -> tuple[Stream, ...]:
        if len(self._by_subject) >= CACHE_SUBJECTS_MAX:
            self._by_subject.clear()
        streams = tuple(
            stream
            for stream in self._streams.values()
            if matches(stream.pattern, subject) and self._may_watch(stream.label, subject)
        )
        self._by_subject[subject] = streams
        return streams

    def tapped(self, subject: str, packed: bytes, out: list[Send]) -> None:
        """Add a call or reply to the streams of taps."""
        for stream in self.taps:
            if matches(stream.pattern, subject):
                self.announce(stream, subject, packed, out)

    def announce(self, stream: Stream, subject: str, packed: bytes, out: list[Send]) -> None:
        """Add one item to one stream."""
        if stream.items and (
            stream.size + len(packed) > BATCH_BYTES_MAX or len(stream.items) >= BATCH_ITEMS_MAX
        ):
            self._flush_stream(stream, out)
        stream.items.append((subject, packed))
        stream.size += len(packed)
        self.dirty[stream] = None

    @property
    def waiting(self) -> bool:
        """Whether events have collected that `flush` would send."""
        return bool(self.dirty)

    # --- frames out -----------------------------------------------------------------------------------

    def flush(self, out: list[Send]) -> None:
        """Send what collected: the end of a drain cycle."""
        if self.dirty:
            for stream in self.dirty:
                self._flush_stream(stream, out)
            self.dirty.clear()
            if self.held > HELD_BYTES_MAX:
                every = (one for stream in self._streams.values() for one in stream.subscriptions)
                self.kicked.append(max(every, key=lambda one: one.held).conn)

    def flush_for(self, subscriptions: Iterable[Subscription], out: list[Send]) -> None:
        """Send what collected for one subscriber now, so that nothing overtakes it."""
        for subscription in subscriptions:
            if subscription.stream in self.dirty:
                self._flush_stream(subscription.stream, out)

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
        to.sent_since_beat = True
        self.held += size

    def _send_packed(self, to: Subscription, fitting: list[bytes], out: list[Send]) -> None:
        if fitting:
            tail = envelope.array_header(len(fitting)) + b"".join(fitting)
            self._send(to, len(fitting), sum(map(len, fitting)), tail, out)

    def _behind(self, late: Subscription, items: list[tuple[str, bytes]], out: list[Send]) -> None:
        """More came than the subscriber is ready for: send what fits, then do as its policy says."""
        if late.wish.policy == "coalesce":
            for subject, packed in items:
                self._keep_newest(late, subject, packed)
            self.drain(late, out)
            if late.behind_bytes > BEHIND_BYTES_MAX:
                self._drop(late, len(late.newest))
                late.newest.clear()
                self._kept(late, -late.behind_bytes)
            lost = len(late.newest)
        else:
            fits = self._fit(late, items)
            self._send_packed(late, [packed for _, packed in items[:fits]], out)
            lost = len(items) - fits
            self._drop(late, lost)
            if lost and late.wish.policy == "kick":
                self.kicked.append(late.conn)
        if lost:
            self.slow.append(late)

    def _drop(self, late: Subscription, count: int) -> None:
        late.next += count
        late.dropped += count
        self.dropped += count

    def _kept(self, late: Subscription, size: int) -> None:
        late.behind_bytes += size
        self.held += size

    def _keep_newest(self, late: Subscription, subject: str, packed: bytes) -> None:
        before = late.newest.pop(subject, None)
        if before is not None:
            self._kept(late, -len(before))
            late.coalesced += 1
            late.superseded += 1
        late.newest[subject] = packed
        self._kept(late, len(packed))

    @staticmethod
    def _fit(late: Subscription, items: list[tuple[str, bytes]]) -> int:
        """Return how many of the items fit its window and one frame."""
        count = size = 0
        for _, packed in items:
            size += len(packed)
            if not late.room(count + 1, size) or (count and size > BATCH_BYTES_MAX):
                break
            count += 1
        return count

    # --- credit and time ------------------------------------------------------------------------------

    def credit(self, of: Subscription, messages: int, size: int, out: list[Send]) -> bool:
        """Take absolute totals; False when they go back or beyond what was sent (a protocol violation)."""
        if not (
            of.acked_messages <= messages <= of.sent_messages and of.acked_bytes <= size <= of.sent_bytes
        ):
            return False
        self.held -= size - of.acked_bytes
        of.acked_messages, of.acked_bytes = messages, size
        self.drain(of, out)
        return True

    def drain(self, late: Subscription, out: list[Send]) -> None:
        """Send what a coalescing subscriber has room for again."""
        while late.newest:
            first = list(islice(late.newest.items(), BATCH_ITEMS_MAX))
            fits = self._fit(late, first)
            if not fits:
                return
            fitting = [late.newest.pop(subject) for subject, _ in first[:fits]]
            self._kept(late, -sum(map(len, fitting)))
            self._send_packed(late, fitting, out)

    def heartbeat(self, out: list[Send]) -> None:
        """Tell idle subscribers the number that comes next, so that a lost tail is noticed."""
        for stream in self._streams.values():
            for one in stream.subscriptions:
                self.drain(one, out)
                if not one.sent_since_beat:
                    out.append((one.conn, envelope.batch(one.sid, one.next, b"\x90")))
                one.sent_since_beat = False
