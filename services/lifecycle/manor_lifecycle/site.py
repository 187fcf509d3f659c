"""What the service works with: the bus, the hypervisors, the owner records, the log, the clocks."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manor_bus.peer.aio import Peer
from manor_bus.wire.errors import bad_request
from manor_lifecycle.domain.values import Core, Now, Place
from manor_lifecycle.hypervisors import Description, Hypervisor
from manor_lifecycle.operations import Operations
from manor_lifecycle.records import Records, Uids


class Turns:
    """At most `limit` at a time, first come first served; the limit may change."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def taken(self) -> int:
        """How many are under way."""
        return self._taken

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and hold it."""
        while self._taken >= self.limit:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._queue.append(future)
            try:
                await future
            except asyncio.CancelledError:
                if future.done() and not future.cancelled():
                    self._next()
                raise
        self._taken += 1
        if self._taken < self.limit:  # it was raised while others wait
            self._next()
        try:
            yield
        finally:
            self._taken -= 1
            self._next()

    def _next(self) -> None:
        while self._queue:
            future = self._queue.popleft()
            if not future.done():
                future.set_result(None)
                return


async def at_once(work: Callable[[], Any]) -> Any:
    """Do it here: on virtual time no thread keeps time from passing."""
    return work()


@dataclass
class Site:
    """See the module. `starts` bounds how many guests are made at once, `calls` what is asked of devices."""

    peer: Peer
    place: Place
    directory: Path
    hypervisors: Mapping[str, Hypervisor]
    descriptions: Mapping[str, Description]
    records: Records
    operations: Operations
    wall: Callable[[], float]
    starts: Turns
    calls: Turns
    uids: Uids
    aside: Callable[[Callable[[], Any]], Awaitable[Any]] = asyncio.to_thread  # does what may block

    def now(self) -> Now:
        """Return the time, on both clocks."""
        return Now(asyncio.get_running_loop().time(), self.wall())

    def hypervisor(self, core: Core) -> Hypervisor:
        """Return the adapter that runs a domain; `bad_request` when this node has no such."""
        found = self.hypervisors.get(core.hypervisor)
        if found is None:
            there = ", ".join(sorted(self.hypervisors))
            message = f"this node has no hypervisor {core.hypervisor!r}; it has: {there}"
            raise bad_request(message, hint="Change spec.hypervisor, or start the service with that adapter.")
        return found

    def saved_path(self, uuid: str) -> Path:
        """Return where the saved state of a domain is kept."""
        return self.directory / "saved" / f"{uuid}.state"

    def dump_path(self, core: Core) -> Path:
        """Return where a core dump of the present run goes."""
        return self.directory / "dumps" / f"{core.name}-{core.key.incarnation}.core"
