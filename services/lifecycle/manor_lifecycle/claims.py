"""Writes ownership records: all changes of one moment travel in one guarded transaction.

While a transaction is under way the next ones gather, so a thousand starts at once cost a few dozen round
trips. When a guard of a shared transaction does not hold, only its domain is refused; the others go again.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass
from typing import Final

from manor_bus.peer.aio import Peer
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.config import OWNED, OwnerRecord, Range, Ranged, TxnDone
from manor_lifecycle import ownership
from manor_lifecycle.ownership import Held

BATCH_MAX: Final = 64
TIMEOUT_S: Final = 20.0
PAGE: Final = 1000
log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Write:
    uuid: str
    revision: int
    record: OwnerRecord | None
    done: asyncio.Future[Held]


class Claims:
    """The ownership records of all domains, as last seen, and the only way to change them."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.held: dict[str, Held] = {}
        self._waiting: list[_Write] = []
        self._task: asyncio.Task[None] | None = None

    async def load(self, timeout: float) -> None:
        """Read all records from config."""
        after = ""
        while True:
            request = Range(prefix=OWNED, limit=PAGE, after=after)
            page = await self._peer.call(request, Ranged, timeout=timeout)
            for uuid, held in map(ownership.decode, page.entries):
                self.held[uuid] = held
                if held.record.node == ownership.UNREADABLE:
                    log.error("domain %s is left alone: %s", uuid, held.record.failed)
            if not page.more:
                return
            after = page.entries[-1].key

    async def write(self, uuid: str, record: OwnerRecord | None) -> Held:
        """Replace the record that we know by `record` (None removes it).

        `stale` when somebody else changed it meanwhile; what is there now is known then.
        """
        known = self.held.get(uuid)
        future: asyncio.Future[Held] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Write(uuid, known.revision if known else 0, record, future))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._write_all())
        return await future

    async def close(self) -> None:
        """End what is under way; its outcome is found out at the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                await self._write_some()
        finally:
            self._task = None

    async def _write_some(self) -> None:
        batch: dict[str, _Write] = {}
        later: list[_Write] = []
        for write in self._waiting:
            fits = len(batch) < BATCH_MAX and write.uuid not in batch
            if fits and not write.done.done():
                batch[write.uuid] = write
            elif not write.done.done():
                later.append(write)
        self._waiting = later
        writes = {uuid: (write.revision, write.record) for uuid, write in batch.items()}
        if not writes:
            return
        try:
            done = await self._peer.call(
                ownership.txn(writes), TxnDone, timeout=TIMEOUT_S, key=secrets.token_hex(12)
            )
        except ManorError as error:
            for write in batch.values():
                _settle(write, error)
            return
        if done.succeeded:
            self._succeeded(batch, done.revision)
        else:
            self._refused(batch, ownership.moved(writes, done.found))

    def _succeeded(self, batch: dict[str, _Write], revision: int) -> None:
        for uuid, write in batch.items():
            if write.record is None:
                self.held.pop(uuid, None)
                _settle(write, Held(OwnerRecord(node="")))
            else:
                self.held[uuid] = held = Held(write.record, revision)
                _settle(write, held)

    def _refused(self, batch: dict[str, _Write], moved: dict[str, Held | None]) -> None:
        for uuid, present in moved.items():
            if present is None:
                self.held.pop(uuid, None)
            else:
                self.held[uuid] = present
            owner = f"node {present.record.node}" if present else "nobody"
            message = f"the ownership record of {uuid} was changed by somebody else; owned by {owner} now"
            _settle(batch[uuid], ManorError(Kind.STALE, message, hint="Look at the domain and try again."))
        rest = [write for uuid, write in batch.items() if uuid not in moved]
        if not moved:  # config contradicts itself: do not go round for ever
            error = ManorError(Kind.CONFLICT, "config refused a transaction whose guards hold")
            for write in rest:
                _settle(write, error)
            return
        self._waiting = rest + self._waiting


def _settle(write: _Write, outcome: Held | ManorError) -> None:
    if write.done.done():
        return
    if isinstance(outcome, ManorError):
        write.done.set_exception(outcome)
    else:
        write.done.set_result(outcome)
