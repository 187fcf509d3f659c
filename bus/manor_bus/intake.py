"""The calls of one instance: a window of those in flight, and a bounded queue behind it. Pure.

Both are shared fairly among principals: one has at most half of the window, those who wait take turns, and in
a full queue the one who has most in it gives way. So nobody keeps an instance from the others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Generic, TypeVar

QUEUED_BYTES_MAX: Final = 8_388_608

NOBODY: Final = ()

C = TypeVar("C")


class Intake(Generic[C]):
    """Calls by the principal that made them; each with the frame it came in."""

    def __init__(self, window: int, limit: int) -> None:
        self._window, self._limit = window, limit
        self._share = max(1, window // 2)
        self.in_flight: dict[C, str] = {}
        self._flying: dict[str, int] = {}
        self._queues: OrderedDict[str, OrderedDict[C, bytes]] = OrderedDict()  # in the order of their turns
        self.queued = self.queued_bytes = 0

    def __len__(self) -> int:
        return len(self.in_flight) + self.queued

    def take(self, call: C, label: str, frame: bytes) -> Sequence[C]:
        """Let a call in; returns those that must be refused for it, maybe itself.

        It is in flight now (see `in_flight`), or waits.
        """
        if not (self._queues and label in self._queues) and self._fits(label):
            self._fly(call, label)
            return NOBODY
        queue = self._queues.setdefault(label, OrderedDict())
        queue[call] = frame
        self.queued += 1
        self.queued_bytes += len(frame)
        refused: list[C] = []
        while self.queued > self._limit or self.queued_bytes > QUEUED_BYTES_MAX:
            refused.append(self._give_way(label))
        return refused

    def _give_way(self, label: str) -> C:
        """Take the newest call of who has most waiting; among equals of the one that came last."""
        most = max(len(queue) for queue in self._queues.values())
        giving = next(one for one in (label, *self._queues) if len(self._queues.get(one, ())) == most)
        call = next(reversed(self._queues[giving]))
        self._unqueue(giving, call)
        return call

    def leave(self, call: C, label: str, ready: Callable[[C], bool]) -> Iterator[tuple[C, bytes]]:
        """Forget a call; yields those that now fly. One that is not `ready` any more is forgotten, too."""
        if call not in self.in_flight:
            self._unqueue(label, call)
            return
        del self.in_flight[call]
        self._flying[label] -= 1
        while self._queues and (following := self._turn()) is not None:
            waiting, label, frame = following
            if ready(waiting):
                self._fly(waiting, label)
                yield waiting, frame

    def _turn(self) -> tuple[C, str, bytes] | None:
        for label in self._queues:
            if self._fits(label):
                call = next(iter(self._queues[label]))
                self._queues.move_to_end(label)
                return call, label, self._unqueue(label, call)
        return None

    def _fits(self, label: str) -> bool:
        return len(self.in_flight) < self._window and self._flying.get(label, 0) < self._share

    def _fly(self, call: C, label: str) -> None:
        self.in_flight[call] = label
        self._flying[label] = self._flying.get(label, 0) + 1

    def _unqueue(self, label: str, call: C) -> bytes:
        queue = self._queues.get(label)
        if queue is None or call not in queue:
            return b""
        frame = queue.pop(call)
        if not queue:
            del self._queues[label]
        self.queued -= 1
        self.queued_bytes -= len(frame)
        return frame

    def waiting(self) -> list[tuple[C, bytes]]:
        """List the calls that wait, each principal's in their order."""
        return [entry for queue in self._queues.values() for entry in queue.items()]

    def clear_queue(self) -> None:
        """Forget what waits."""
        self._queues.clear()
        self.queued = self.queued_bytes = 0
