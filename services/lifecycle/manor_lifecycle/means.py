"""What the service works with: the bus, the hypervisors, the ownership records, the clocks, the journal."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from manor_bus.peer.aio import Peer
from manor_bus.wire.errors import Kind, ManorError, bad_request
from manor_bus.wire.messages.config import OwnerRecord
from manor_lifecycle import ownership
from manor_lifecycle.claims import Claims
from manor_lifecycle.hypervisors import Description, Hypervisor
from manor_lifecycle.journal import Journal
from manor_lifecycle.ledger import Ledger, Record
from manor_lifecycle.life import Life

UNWRITTEN: Final = frozenset({"destroy", "shutdown", "resume", "pause"})  # they go on with a full disk
Aside = Callable[[Callable[[], None]], Awaitable[None]]


async def at_once(work: Callable[[], None]) -> None:
    """Do it here: on virtual time no thread keeps time from passing."""
    work()


class Turns:
    """At most `limit` at a time, first come first served; the limit may change."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Wait for a turn; whoever got one gives it back."""
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

    def give_back(self) -> None:
        """Let the next one have it."""
        self._taken -= 1
        self._next()

    def _next(self) -> None:
        while self._queue:
            future = self._queue.popleft()
            if not future.done():
                future.set_result(None)
                return


@dataclass
class Means:
    """See the module. `wall` is seconds since 1970. `owed`: ended runs that devices could not be told of."""

    peer: Peer
    node: str
    boot_id: str
    directory: Path
    hypervisors: Mapping[str, Hypervisor]
    descriptions: Mapping[str, Description]
    default_hypervisor: str
    claims: Claims
    journal: Journal
    ledger: Ledger
    wall: Callable[[], float]
    starts: Turns
    uids: tuple[int, int] | None = None
    aside: Aside = asyncio.to_thread  # does what may block
    owed: dict[tuple[str, int], None] = field(default_factory=dict)
    _given: dict[str, int] = field(default_factory=dict)  # users, by the domains' uuids
    _taken: set[int] = field(default_factory=set)
    _last: int = 0

    def note(self, record: Record) -> None:
        """Write a record down; it is on disk soon, and surely after `journal.commit`."""
        self.ledger.apply(record)
        self.journal.append(record)

    async def commit(self, kind: str = "") -> None:
        """Wait until everything noted is on disk; `no_capacity` when the disk refuses, unless that is for a
        kind of operation that no full disk stops."""
        try:
            await self.journal.commit()
        except OSError as error:
            if kind in UNWRITTEN:
                return
            message = f"the journal of the lifecycle service cannot be written: {error}"
            raise ManorError(Kind.NO_CAPACITY, message, hint="Free space on the disk, then retry.") from None

    def hypervisor(self, life: Life) -> Hypervisor:
        """Return the adapter that runs a domain; `bad_request` when this node has no such."""
        found = self.hypervisors.get(life.hypervisor)
        if found is None:
            there = ", ".join(sorted(self.hypervisors))
            message = f"this node has no hypervisor {life.hypervisor!r}; it has: {there}"
            raise bad_request(message, hint="Change spec.hypervisor, or start the service with that adapter.")
        return found

    def record(self, uuid: str) -> OwnerRecord:
        """Return the ownership record as known, or a new one. What replaces an unreadable one begins with an
        incarnation that is surely larger than any before."""
        held = self.claims.held.get(uuid)
        if held is None:
            return OwnerRecord(node=self.node)
        if held.record.node == ownership.UNREADABLE:
            return OwnerRecord(node=self.node, incarnation=int(self.wall()))
        return held.record

    def saved_path(self, uuid: str) -> Path:
        """Return where the saved state of a domain is kept."""
        return self.directory / "saved" / f"{uuid}.state"

    def dump_path(self, life: Life) -> Path:
        """Return where a core dump of the present run goes."""
        return self.directory / "dumps" / f"{life.name}-{life.incarnation}.core"

    def uid_for(self, life: Life) -> int:
        """Return the unprivileged user of a domain: the one it had, or a free one; 0 without a range.

        What was given is taken until the next start of the service, whether or not it was used.
        """
        mine = self.record(life.uuid).uid or self._given.get(life.uuid, 0)
        if self.uids is None or mine:
            return mine
        if not self._taken:
            self._taken = {held.record.uid for held in self.claims.held.values()}
        uid = ownership.free_uid(self._taken, *self.uids, after=self._last)
        self._taken.add(uid)
        self._given[life.uuid] = self._last = uid
        return uid
