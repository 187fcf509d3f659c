"""The last events, for those who ask what happened before they came. Bounded in number and bytes. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from manor_bus.wire.messages.bus import RingEvent, RingListed
from manor_bus.wire.subjects import matches

EVENTS_MAX: Final = 10_000
BYTES_MAX: Final = 16_777_216
ANSWER_BYTES_MAX: Final = 786_432  # leaves room for the envelope within one frame


class Kept(msgspec.Struct, frozen=True, gc=False):
    """One event as it passed: `at` in seconds since 1970."""

    n: int
    at: float
    sender: str
    subject: str
    envelope: bytes


class Ring:
    """Numbered from 1 since the broker's start."""

    def __init__(self) -> None:
        self._kept: deque[Kept] = deque()
        self._bytes = 0
        self.last = 0

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, at: float, sender: str, subject: str, envelope: bytes) -> None:
        """Keep an event; the oldest make room."""
        self.last += 1
        self._kept.append(Kept(self.last, at, sender, subject, envelope))
        self._bytes += len(envelope)
        while len(self._kept) > EVENTS_MAX or self._bytes > BYTES_MAX:
            self._bytes -= len(self._kept.popleft().envelope)

    def read(self, pattern: str, since: int, limit: int) -> RingListed:
        """List events after number `since` whose subject matches, oldest first, within one frame."""
        found: list[RingEvent] = []
        size = 0
        for kept in self._kept:
            if kept.n <= since or not matches(pattern, kept.subject):
                continue
            envelope = kept.envelope if len(kept.envelope) < ANSWER_BYTES_MAX else b""  # too large to tell
            size += len(envelope) + 128
            if len(found) >= limit or size > ANSWER_BYTES_MAX + 128:
                break
            found.append(RingEvent(n=kept.n, at=kept.at, sender=kept.sender, envelope=envelope))
        first = self._kept[0].n if self._kept else self.last + 1
        return RingListed(events=tuple(found), first=first, last=self.last)
