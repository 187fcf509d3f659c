"""The seam to storage. Engines: `memory` (a model, for tests and short lives), `sqlite` (one machine).

All engines mean the same: `manor_config.revision` decides, one contract suite checks. There is no time to
live in here: owner records never expire, who is dead is judged by observers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from manor_config.revision import PAGE_ROWS_MAX, Entry, Feed, Outcome, Page, Past, Transaction


class Engine(Protocol):
    """A store of keys with revisions. Coroutines raise ManorError only.

    `unavailable` with `delivered=None` means that the engine failed: what was under way is unknown, and the
    process must start anew.
    """

    @property
    def revision(self) -> int:
        """The revision of the last acknowledged transaction."""
        ...

    @property
    def failed(self) -> asyncio.Event:
        """Set once the storage failed: nothing is acknowledged any more, the process must start anew."""
        ...

    async def txn(self, transaction: Transaction) -> Outcome:
        """Do a transaction atomically and durably; acknowledged means that it survives a power loss."""
        ...

    async def recall(self, op_id: str) -> Outcome | None:
        """Return what became of a transaction by its op id, while it is remembered."""
        ...

    async def range(self, prefix: str, *, after: str = "", limit: int = PAGE_ROWS_MAX) -> Page:
        """Return the present keys under a prefix, in order, after a key."""
        ...

    async def at(self, key: str, revision: int) -> Entry | None:
        """Return the last entry of a key up to a revision; `stale` when that was compacted or is ahead."""
        ...

    async def past(self, key: str, limit: int) -> tuple[Past, ...]:
        """Return the kept entries of a key, newest first."""
        ...

    async def changes(self, prefix: str, since: int, limit: int = PAGE_ROWS_MAX) -> Feed:
        """Return whole revisions after `since`, in order, at once; `stale` when some were compacted."""
        ...

    async def moved(self, since: int) -> None:
        """Return once the store's revision is above `since`."""
        ...

    async def compacted(self) -> int:
        """Return up to which revision history is gone."""
        ...

    async def compact(self, upto: int) -> None:
        """Forget history up to a revision, but what is needed to read every key at it."""
        ...

    async def backup(self, path: Path) -> int:
        """Write a consistent copy of everything to a new file, a SQLite data base; return its revision."""
        ...

    async def restore(self, path: Path, upload: str) -> int:
        """Replace everything by a checked copy, atomically; return the new revision, above all before it.

        `upload` names the restore and is remembered with it (see `restored`).
        """
        ...

    async def restored(self) -> tuple[str, int]:
        """Return the name of the last restore and the revision it made; empty and 0 when there was none."""
        ...

    async def close(self) -> None:
        """Finish what was asked for and close the files."""
        ...


async def watch(engine: Engine, prefix: str, since: int) -> AsyncIterator[Feed]:
    """Yield every change after `since` for ever: no gap, no duplicate, in order, a revision never split.

    Resume with the `revision` of the last feed seen. Ends only by `stale`: then read everything again.
    """
    while True:
        feed = await engine.changes(prefix, since)
        if feed.entries:
            yield feed
        since = feed.revision
        if not feed.more:
            await engine.moved(since)
