"""Calls that may hang, outside the event loop: one lane per mount, each with a deadline.

A dead NFS server, a fuse process that stands, a device that does not answer: the call never returns, and no
thread can be ended. So each lane (a mount, see `paths.mount_of`) has a thread of its own, which is a daemon
and keeps nobody from leaving. A call that is late leaves its lane *stuck*: until it returns, whoever comes
next on that lane is told at once, and all others go on.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

LANES_MAX: Final = 64  # threads; more mounts than that in use at one time are told so
WAITING_MAX: Final = 1_000  # calls of one lane
IDLE_S: Final = 10.0  # after which a lane's thread ends
T = TypeVar("T")


class Stuck(TimeoutError):
    """A call did not return in time, or the lane's last one has not yet. Whether it had an effect is
    unknown."""


class _Lane:
    """One thread and what waits for it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.late: str = ""  # the call that did not return in time, while it has not
        self.ended = False
        self.jobs: queue.Queue[Callable[[], None]] = queue.Queue(WAITING_MAX)
        self.lock = threading.Lock()
        threading.Thread(target=self._work, name=f"lane {name}", daemon=True).start()

    def put(self, job: Callable[[], None]) -> bool:
        """Queue a job; False when the thread has just ended. Raises queue.Full."""
        with self.lock:
            if not self.ended:
                self.jobs.put_nowait(job)
            return not self.ended

    def _work(self) -> None:
        while True:
            try:
                job = self.jobs.get(timeout=IDLE_S)
            except queue.Empty:
                with self.lock:
                    if self.jobs.empty():
                        self.ended = True
                        return
                continue
            job()


class Lanes:
    """All lanes of a process. Used from one event loop."""

    def __init__(self) -> None:
        self._lanes: dict[str, _Lane] = {}

    async def call(self, lane: str, what: str, work: Callable[[], T], timeout: float) -> T:
        """Return what `work` returns, or raise what it raises. `what` names it for people.

        Raises Stuck after `timeout` seconds, or at once while an earlier call of the lane has not come
        back. A call that has not begun by then never begins.
        """
        there = self._lanes.get(lane)
        if there is not None and there.late:
            raise Stuck(f"{lane} does not answer: {there.late} has not returned yet")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def job() -> None:
            if future.done():
                return
            result, error = None, None
            try:
                result = work()
            except BaseException as raised:
                error = raised
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self._returned, lane, future, result, error)

        self._put(lane, job)
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(future)
        except TimeoutError:
            if future.done() and not future.cancelled():
                return future.result()
            late = self._lanes.get(lane)
            if late is not None and not late.late:
                late.late = what
            future.cancel()
            raise Stuck(f"{what}: no answer from {lane} within {timeout:g} s") from None
        except asyncio.CancelledError:
            future.cancel()
            raise

    def stuck(self) -> dict[str, str]:
        """Return the lanes that do not answer, and the call that each is stuck in."""
        return {name: lane.late for name, lane in self._lanes.items() if lane.late}

    def _put(self, name: str, job: Callable[[], None]) -> None:
        there = self._lanes.get(name)
        try:
            if there is not None and there.put(job):
                return
            for ended in [key for key, lane in self._lanes.items() if lane.ended]:
                del self._lanes[ended]
            if len(self._lanes) >= LANES_MAX:
                raise Stuck(f"{len(self._lanes)} mounts are in use at this moment")
            self._lanes[name] = lane = _Lane(name)
            lane.put(job)
        except queue.Full:
            raise Stuck(f"{WAITING_MAX} calls wait for {name} already") from None

    def _returned(
        self, name: str, future: asyncio.Future[Any], result: Any, error: BaseException | None
    ) -> None:
        lane = self._lanes.get(name)
        if lane is not None:
            lane.late = ""
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
