"""The store in memory: the model that the other engines are compared with, and the store of short lives."""

from __future__ import annotations

import asyncio
import sqlite3
from bisect import bisect_left, bisect_right, insort
from contextlib import closing
from pathlib import Path

from manor_config.engines import tables
from manor_config.revision import (
    PAGE_ROWS_MAX,
    Entry,
    Feed,
    Outcome,
    Page,
    Past,
    Row,
    Transaction,
    ahead,
    compacted,
    decide,
    kept,
    page_of,
    prefix_end,
    whole_revisions,
)


class MemoryEngine:
    """Dictionaries and lists; gone with the process. See `Engine` for the contract."""

    def __init__(self) -> None:
        self._clear()
        self._moved = asyncio.Event()
        self.failed = asyncio.Event()

    def _clear(self) -> None:
        self._meta = tables.Meta(revision=0, compacted=0, feed=0, restored="")
        self._rows: dict[str, Row] = {}
        self._keys: list[str] = []
        self._entries: list[Entry] = []
        self._past: dict[str, list[Entry]] = {}
        self._transactions: dict[int, tuple[int, str | None, float, bytes]] = {}
        self._ops: dict[str, int] = {}

    @property
    def revision(self) -> int:
        """See Engine."""
        return self._meta.revision

    async def txn(self, transaction: Transaction) -> Outcome:
        """See Engine."""
        first = await self.recall(transaction.op_id)
        if first is not None:
            return first
        outcome, entries = decide(transaction, self.revision, self._rows.get)
        if entries:
            self._remember((outcome.revision, transaction.op_id or None, transaction.at, transaction.note))
            for entry in entries:
                self._write(entry)
            self._advance(outcome.revision)
        return outcome

    def _remember(self, transaction: tuple[int, str | None, float, bytes]) -> None:
        revision, op_id, _, _ = transaction
        self._transactions[revision] = transaction
        if op_id:
            self._ops[op_id] = revision

    def _write(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._past.setdefault(entry.key, []).append(entry)
        row = entry.row()
        if row is None:
            del self._rows[entry.key]
            del self._keys[bisect_left(self._keys, entry.key)]
            return
        if entry.key not in self._rows:
            insort(self._keys, entry.key)
        self._rows[entry.key] = row

    def _advance(self, revision: int) -> None:
        was = self._meta
        self._meta = tables.Meta(revision, was.compacted, was.feed, was.restored)
        self._moved.set()
        self._moved = asyncio.Event()

    async def recall(self, op_id: str) -> Outcome | None:
        """See Engine."""
        revision = self._ops.get(op_id)
        if revision is None:
            return None
        return Outcome(True, revision, repeated=True, note=self._transactions[revision][3])

    async def range(self, prefix: str, *, after: str = "", limit: int = PAGE_ROWS_MAX) -> Page:
        """See Engine."""
        start = max(bisect_left(self._keys, prefix), bisect_right(self._keys, after))
        end = prefix_end(prefix)
        keys = (self._keys[n] for n in range(start, len(self._keys)) if self._keys[n] < end)
        return page_of((self._rows[key] for key in keys), self.revision, limit)

    async def at(self, key: str, revision: int) -> Entry | None:
        """See Engine."""
        if revision < self._meta.compacted:
            raise compacted(self._meta.compacted)
        if revision > self.revision:
            raise ahead(revision, self.revision)
        past = self._past.get(key, [])
        count = bisect_right(past, revision, key=lambda entry: entry.revision)
        return past[count - 1] if count else None

    async def past(self, key: str, limit: int) -> tuple[Past, ...]:
        """See Engine."""
        newest = reversed(self._past.get(key, [])[-limit:])
        return tuple(Past(entry, self._note(entry.revision)) for entry in newest)

    def _note(self, revision: int) -> bytes:
        known = self._transactions.get(revision)
        return known[3] if known else b""

    async def changes(self, prefix: str, since: int, limit: int = PAGE_ROWS_MAX) -> Feed:
        """See Engine."""
        floor = max(self._meta.compacted, self._meta.feed)
        if since < floor:
            raise compacted(floor)
        if since > self.revision:
            raise ahead(since, self.revision)
        start = bisect_right(self._entries, since, key=lambda entry: entry.revision)
        rest = (self._entries[n] for n in range(start, len(self._entries)))
        matching = (entry for entry in rest if entry.key.startswith(prefix))
        return whole_revisions(matching, since, self.revision, limit)

    async def moved(self, since: int) -> None:
        """See Engine."""
        while self.revision <= since:
            await self._moved.wait()

    async def compacted(self) -> int:
        """See Engine."""
        return self._meta.compacted

    async def compact(self, upto: int) -> None:
        """See Engine."""
        upto = min(upto, self.revision)
        was = self._meta
        self._meta = tables.Meta(was.revision, max(was.compacted, upto), was.feed, was.restored)
        gone = {revision for revision in self._transactions if revision <= upto}
        self._ops = {op_id: revision for op_id, revision in self._ops.items() if revision not in gone}
        self._transactions = {rev: known for rev, known in self._transactions.items() if rev not in gone}
        for key, past in list(self._past.items()):
            count = bisect_right(past, upto, key=lambda entry: entry.revision)
            left = [*kept(past[:count]), *past[count:]]
            self._past[key] = left
            if not left:
                del self._past[key]
        self._entries = sorted(
            (entry for past in self._past.values() for entry in past),
            key=lambda entry: (entry.revision, entry.sub),
        )

    async def backup(self, path: Path) -> int:
        """See Engine."""
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            tables.create(connection)
            tables.fill(connection, tables.Copy(self._meta, self._entries, self._transactions.values()))
        return self.revision

    async def restore(self, path: Path, upload: str) -> int:
        """See Engine."""
        revision = self.revision
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            copy = tables.copy_of(connection)
            entries, transactions = list(copy.entries), list(copy.transactions)
        self._clear()
        for transaction in transactions:
            self._remember(transaction)
        for entry in entries:
            self._write(entry)
        revision = max(revision, copy.meta.revision) + 1
        self._meta = tables.Meta(revision, copy.meta.compacted, revision, upload)
        self._advance(revision)
        return revision

    async def restored(self) -> tuple[str, int]:
        """See Engine."""
        return self._meta.restored, self._meta.feed

    async def close(self) -> None:
        """See Engine."""
