"""The store in one SQLite file, for one machine. Source: research page "Reliability", section 5.

One process owns the file (see `place`), one thread writes through the only connection that may write or
checkpoint (Debian's SQLite can corrupt a file that two connections checkpoint), everything else reads through
connections that cannot write.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Final, TypeVar

from manor_config.engines import tables
from manor_config.engines.place import Place
from manor_config.engines.writer import Writer, trouble
from manor_config.revision import (
    PAGE_ROWS_MAX,
    Entry,
    Feed,
    Outcome,
    Page,
    Past,
    Transaction,
    ahead,
    compacted,
    page_of,
    whole_revisions,
)

T = TypeVar("T")

COMPACT_ROWS: Final = 2_000  # history rows forgotten in one go, so that writers wait little
BUSY_S: Final = 5.0


def connect(path: Path, *, mode: str = "rwc") -> sqlite3.Connection:
    """Open a connection in autocommit mode that any thread may use; `ro`, `rwc`, or `copy` (at rest)."""
    query = "mode=ro&immutable=1" if mode == "copy" else f"mode={mode}"
    uri = f"{path.absolute().as_uri()}?{query}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY_S)
    if mode != "rwc":
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA wal_autocheckpoint=0")
    return connection


def open_checked(path: Path) -> sqlite3.Connection:
    """Open the store for writing and check all of it. Raises Damaged or ManorError."""
    connection = connect(path)
    try:
        tables.check(connection)
        tables.prepare(connection)
    except sqlite3.DatabaseError as error:
        connection.close()
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise tables.Damaged(str(error)) from error
        raise trouble(error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def check_copy(path: Path) -> tables.Meta:
    """Check all of a backup, more thoroughly than at a start; raise Damaged with what was found."""
    try:
        with closing(connect(path, mode="copy")) as connection:
            tables.check(connection)
            findings = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(5)")]
            counters = tables.meta(connection)
    except sqlite3.DatabaseError as error:
        raise tables.Damaged(str(error)) from error
    if findings != ["ok"]:
        raise tables.Damaged("; ".join(findings))
    return counters


class SqliteEngine:
    """See `Engine` for the contract. Belongs to the event loop it was made in."""

    def __init__(self, place: Place, connection: sqlite3.Connection) -> None:
        self._place = place
        self._revision = tables.meta(connection).revision
        self._moved = asyncio.Event()
        self._reader = connect(place.file, mode="ro")
        self._reading = ThreadPoolExecutor(max_workers=1, thread_name_prefix="config-reader")
        self._writer = Writer(connection, self._advanced)

    @property
    def revision(self) -> int:
        """See Engine."""
        return self._revision

    @property
    def failed(self) -> asyncio.Event:
        """See Engine."""
        return self._writer.failed

    def _advanced(self, revision: int) -> None:
        if revision > self._revision:
            self._revision = revision
            self._moved.set()
            self._moved = asyncio.Event()

    async def _read(self, body: Callable[[sqlite3.Connection], T]) -> T:
        """Run a read in the reader's thread; it sees one state of the store."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, self._snapshot, body)

    def _snapshot(self, body: Callable[[sqlite3.Connection], T]) -> T:
        try:
            self._reader.execute("BEGIN")
            try:
                return body(self._reader)
            finally:
                self._reader.execute("COMMIT")
        except (sqlite3.Error, tables.Damaged) as error:
            self._writer.fail(error)
            raise trouble(error) from error

    async def txn(self, transaction: Transaction) -> Outcome:
        """See Engine."""
        outcome: Outcome = await self._writer.ask(transaction)
        return outcome

    async def recall(self, op_id: str) -> Outcome | None:
        """See Engine."""
        return await self._read(lambda reader: tables.recall(reader, op_id))

    async def range(self, prefix: str, *, after: str = "", limit: int = PAGE_ROWS_MAX) -> Page:
        """See Engine."""

        def body(reader: sqlite3.Connection) -> Page:
            return page_of(tables.rows_under(reader, prefix, after), tables.meta(reader).revision, limit)

        return await self._read(body)

    async def at(self, key: str, revision: int) -> Entry | None:
        """See Engine."""

        def body(reader: sqlite3.Connection) -> Entry | None:
            meta = tables.meta(reader)
            if revision < meta.compacted:
                raise compacted(meta.compacted)
            if revision > meta.revision:
                raise ahead(revision, meta.revision)
            return tables.entry_at(reader, key, revision)

        return await self._read(body)

    async def past(self, key: str, limit: int) -> tuple[Past, ...]:
        """See Engine."""
        found = await self._read(lambda reader: tables.past_of(reader, key, limit))
        return tuple(Past(entry, note) for entry, note in found)

    async def changes(self, prefix: str, since: int, limit: int = PAGE_ROWS_MAX) -> Feed:
        """See Engine."""

        def body(reader: sqlite3.Connection) -> Feed:
            meta = tables.meta(reader)
            floor = max(meta.compacted, meta.feed)
            if since < floor:
                raise compacted(floor)
            if since > meta.revision:
                raise ahead(since, meta.revision)
            entries = tables.entries_after(reader, prefix, since)
            return whole_revisions(entries, since, meta.revision, limit)

        return await self._read(body)

    async def moved(self, since: int) -> None:
        """See Engine."""
        while self._revision <= since:
            await self._moved.wait()

    async def compacted(self) -> int:
        """See Engine."""
        return (await self._read(tables.meta)).compacted

    async def compact(self, upto: int) -> None:
        """See Engine."""
        upto = min(upto, self._revision)
        while await self._writer.ask(lambda writer: tables.compact(writer, upto, COMPACT_ROWS)):
            pass

    async def backup(self, path: Path) -> int:
        """See Engine."""
        return await asyncio.to_thread(self._copy, path)

    def _copy(self, path: Path) -> int:
        """Write and check the copy; it has a connection of its own, so that no reader waits for it."""
        try:
            with closing(connect(self._place.file, mode="ro")) as connection:
                connection.execute("VACUUM INTO ?", (str(path),))
            return check_copy(path).revision
        except (sqlite3.Error, tables.Damaged) as error:
            raise trouble(error) from error

    async def restore(self, path: Path, upload: str) -> int:
        """See Engine."""

        restored: int = await self._writer.ask(lambda writer: _replace(writer, path, upload))
        return restored

    async def restored(self) -> tuple[str, int]:
        """See Engine."""
        meta = await self._read(tables.meta)
        return meta.restored, meta.feed

    async def close(self) -> None:
        """See Engine."""
        self._reading.shutdown(wait=True)
        self._reader.close()
        await self._writer.close()


def _replace(writer: sqlite3.Connection, path: Path, upload: str) -> int:
    """Replace everything by a checked copy; the revision goes on from the higher one of both."""
    with closing(connect(path, mode="copy")) as connection:
        copy = tables.copy_of(connection)
        revision = max(tables.meta(writer).revision, copy.meta.revision) + 1
        meta = tables.Meta(revision, copy.meta.compacted, revision, upload)
        tables.fill(writer, tables.Copy(meta, copy.entries, copy.transactions))
    return revision


def create(place: Place, source: Path | None = None, upload: str = "") -> int:
    """Make the store of an owned folder, empty or from a checked backup; it appears when it is complete."""
    place.unfinished.unlink(missing_ok=True)
    with closing(connect(place.unfinished)) as connection:
        tables.prepare(connection)
        tables.create(connection)
        revision = _replace(connection, source, upload) if source else 0
    place.finished()
    return revision


def open_engine(place: Place) -> SqliteEngine:
    """Open the store of an owned folder. A damaged file is put aside, and Damaged raised, saying where."""
    place.close_to_others()
    said = place.damage()
    if said:
        raise tables.Damaged(said)
    if not place.file.exists():
        create(place)
    try:
        connection = open_checked(place.file)
    except tables.Damaged as damage:
        said = place.put_aside(str(damage))
        raise tables.Damaged(said) from damage
    place.sound()
    return SqliteEngine(place, connection)
