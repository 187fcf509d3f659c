"""The objects a peer owns and publishes: numbered, kept encoded, and handed out as snapshots."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from manor_bus.wire import codec
from manor_bus.wire.errors import bad_request
from manor_bus.wire.messages import Message
from manor_bus.wire.messages.catalogue import EVENT_BY_BODY
from manor_bus.wire.messages.node import SnapshotItem
from manor_bus.wire.subjects import matches

PART_BYTES: Final = 262_144
OBJECT_BYTES_MAX: Final = codec.FRAME_BYTES_MAX - 4_096  # leaves room for what is around it in a frame

Publish = Callable[[str, str, msgspec.Raw, str, int], None]


class State:
    """`epoch` grows with every start (nanoseconds since 1970 in hex), `rev` with every change."""

    def __init__(self, publish: Publish, epoch: str = "") -> None:
        self.epoch = epoch or f"{time.time_ns():016x}"
        self.rev = 0
        self._publish = publish
        self._objects: dict[str, tuple[int, str, msgspec.Raw]] = {}
        self._released = asyncio.Event()
        self._released.set()

    def __len__(self) -> int:
        return len(self._objects)

    def put(self, subject: str, body: Message) -> None:
        """Set an object's value; an unchanged value is not published again. Too large a one is refused."""
        data = msgspec.Raw(codec.encode(body))
        if len(data) > OBJECT_BYTES_MAX:
            raise bad_request(f"{subject} is larger than {OBJECT_BYTES_MAX} bytes")
        before = self._objects.get(subject)
        if before is not None and before[2] == data:
            return
        self.rev += 1
        type_name = EVENT_BY_BODY[type(body)].type_name
        self._objects[subject] = (self.rev, type_name, data)
        self._publish(subject, type_name, data, self.epoch, self.rev)

    def drop(self, subject: str) -> None:
        """Say that an object is gone."""
        before = self._objects.pop(subject, None)
        if before is not None:
            self.rev += 1
            self._publish(subject, before[1], codec.NIL, self.epoch, self.rev)

    def subjects(self) -> tuple[str, ...]:
        """List the subjects of the present objects."""
        return tuple(self._objects)

    def hold(self) -> None:
        """Answer no snapshot until `release`: the state is not complete yet."""
        self._released.clear()

    def release(self) -> None:
        """Answer snapshots (again)."""
        self._released.set()

    async def complete(self) -> None:
        """Wait until the state may be shown."""
        await self._released.wait()

    def snapshot(self, pattern: str) -> Iterator[tuple[SnapshotItem, ...]]:
        """Yield the present objects under a pattern in parts that fit a frame."""
        items: list[SnapshotItem] = []
        size = 0
        for subject, (rev, type_name, data) in self._objects.items():
            if matches(pattern, subject):
                if items and size + len(data) > PART_BYTES:
                    yield tuple(items)
                    items, size = [], 0
                items.append(SnapshotItem(subject=subject, rev=rev, type=type_name, value=data))
                size += len(data) + len(subject) + 128
        if items:
            yield tuple(items)
