"""The calls of one instance: a window of those in flight, and a bounded queue behind it. Pure.

Both are shared fairly among principals: one has at most half of the window, those who wait take turns, and in
a full queue the one who has most in it gives way. So nobody keeps an instance from the others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, Generic, Protocol, TypeVar

QUEUED_BYTES_MAX: Final = 8_388_608

NOBODY: Final = ()


class Timed(Protocol):
    """What has a budget: `deadline` is on the monotonic clock."""

    deadline: float


C = TypeVar("C", bound=Timed)


class AdmissionQueue(Generic[C]):
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
        flying = self._flying.get(label, 0)
        if len(self.in_flight) < self._window and flying < self._share and label not in self._queues:
            self.in_flight[call] = label
            self._flying[label] = flying + 1
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

    def leave(self, call: C, label: str, now: float) -> Sequence[tuple[C, bytes]]:
        """Forget a call; returns those that fly now. One whose budget is over by then is forgotten, too."""
        if self.in_flight.pop(call, None) is None:
            self._unqueue(label, call)
            return NOBODY
        self._flying[label] -= 1
        return self._launch(now) if self._queues else NOBODY

    def _launch(self, now: float) -> list[tuple[C, bytes]]:
        flown = []
        while (following := self._turn()) is not None:
            waiting, label, frame = following
            if waiting.deadline > now:
                self.in_flight[waiting] = label
                self._flying[label] = self._flying.get(label, 0) + 1
                flown.append((waiting, frame))
        return flown

    def _turn(self) -> tuple[C, str, bytes] | None:
        if len(self.in_flight) >= self._window:
            return None
        for label in self._queues:
            if self._flying.get(label, 0) < self._share:
                call = next(iter(self._queues[label]))
                self._queues.move_to_end(label)
                return call, label, self._unqueue(label, call)
        return None

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
