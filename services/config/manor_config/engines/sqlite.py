"""The store in one SQLite data base, for one machine. Source: research page "Reliability", section 5.

One process owns the file (see `place`), one thread writes through the only connection that may write or
checkpoint (Debian's SQLite can corrupt a file that two connections checkpoint), everything else reads through
connections that cannot write. In memory there is no file and no thread: one connection does it all.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Final, TypeVar

from manor_bus.wire.messages.config import OWNED
from manor_config.engines import past, tables
from manor_config.engines.past import UuidOf
from manor_config.engines.place import Place
from manor_config.engines.writer import Inline, Writer, trouble
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
STAYING: Final = 1_000_000  # `sub` of what a restore leaves: no transaction has so many writes


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


def uuids_in(path: Path, prefix: str, uuid_of: UuidOf) -> frozenset[str]:
    """Return the uuids of the documents under a prefix of a checked backup."""
    with closing(connect(path, mode="copy")) as connection:
        return frozenset(uuid_of(row.value) for row in tables.rows_under(connection, prefix, ""))


class Engine:
    """A store of keys with revisions. Belongs to the event loop it was made in. Coroutines raise ManorError
    only; `unavailable` with `delivered=None` means that what was under way is unknown.
    """

    def __init__(self, connection: sqlite3.Connection, place: Place | None = None) -> None:
        self._place, self._file = place, place.file if place else None
        self._revision = tables.meta(connection).revision
        self._moved = asyncio.Event()
        self._reader = connect(self._file, mode="ro") if self._file else connection
        self._reading = ThreadPoolExecutor(max_workers=1, thread_name_prefix="config-reader")
        self._writer = (
            Writer(connection, self._advanced, place) if place else Inline(connection, self._advanced)
        )

    @property
    def revision(self) -> int:
        """The revision of the last acknowledged transaction."""
        return self._revision

    @property
    def failed(self) -> asyncio.Event:
        """Set once the storage failed: nothing is acknowledged any more, the process must start anew."""
        return self._writer.failed

    def _advanced(self, revision: int) -> None:
        if revision > self._revision:
            self._revision = revision
            self._moved.set()
            self._moved = asyncio.Event()

    async def _read(self, body: Callable[[sqlite3.Connection], T]) -> T:
        """Run a read in the reader's thread; it sees one state of the store."""
        if self._file is None:
            return self._snapshot(body)
        return await asyncio.get_running_loop().run_in_executor(self._reading, self._snapshot, body)

    def _snapshot(self, body: Callable[[sqlite3.Connection], T]) -> T:
        try:
            self._reader.execute("BEGIN")
            try:
                return body(self._reader)
            finally:
                self._reader.execute("COMMIT")
        except (sqlite3.Error, tables.Damaged) as error:
            told = trouble(error, self._place)
            if told.delivered is None:
                self._writer.fail(error)
            raise told from error

    async def txn(self, transaction: Transaction) -> Outcome:
        """Do a transaction atomically and durably; acknowledged means that it survives a power loss."""
        outcome: Outcome = await self._writer.ask(transaction)
        return outcome

    async def recall(self, op_id: str) -> Outcome | None:
        """Return what became of a transaction by its op id, while it is remembered."""
        return await self._read(lambda reader: tables.recall(reader, op_id))

    async def range(self, prefix: str, *, after: str = "", limit: int = PAGE_ROWS_MAX) -> Page:
        """Return the present keys under a prefix, in order, after a key."""

        def body(reader: sqlite3.Connection) -> Page:
            return page_of(tables.rows_under(reader, prefix, after), tables.meta(reader).revision, limit)

        return await self._read(body)

    async def at(self, key: str, revision: int) -> Entry | None:
        """Return the last entry of a key up to a revision; `stale` when that was compacted or is ahead."""

        def body(reader: sqlite3.Connection) -> Entry | None:
            meta = tables.meta(reader)
            if revision < meta.compacted:
                raise compacted(meta.compacted)
            if revision > meta.revision:
                raise ahead(revision, meta.revision)
            return tables.entry_at(reader, key, revision)

        return await self._read(body)

    async def past(self, key: str, limit: int, uuid_of: UuidOf) -> tuple[Past, ...]:
        """Return the kept entries of a document by its key, newest first, also those under other names."""
        return await self._read(lambda reader: tuple(past.of(reader, key, limit, uuid_of)))

    async def changes(self, prefix: str, since: int, limit: int = PAGE_ROWS_MAX) -> Feed:
        """Return whole revisions after `since`, in order, at once; `stale` when some were compacted."""

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
        """Return once the store's revision is above `since`."""
        while self._revision <= since:
            await self._moved.wait()

    async def compacted(self) -> int:
        """Return up to which revision history is gone."""
        return (await self._read(tables.meta)).compacted

    async def compact(self, upto: int) -> None:
        """Forget history up to a revision, but what is needed to read every key at it."""
        upto = min(upto, self._revision)
        while await self._writer.ask(lambda writer: tables.compact(writer, upto, COMPACT_ROWS)):
            pass

    async def backup(self, path: Path) -> int:
        """Write a consistent copy of everything to a new file, a SQLite data base; return its revision."""
        if self._file is None:
            return self._copy(self._reader, path)
        with closing(connect(self._file, mode="ro")) as connection:  # so that no reader waits for it
            return await asyncio.to_thread(self._copy, connection, path)

    def _copy(self, connection: sqlite3.Connection, path: Path) -> int:
        """Write the copy, without what is no wish, and check it."""
        try:
            connection.execute("VACUUM INTO ?", (str(path),))
            with closing(sqlite3.connect(path, isolation_level=None)) as copy:
                tables.forget(copy, OWNED)
            return check_copy(path).revision
        except (sqlite3.Error, tables.Damaged) as error:
            raise trouble(error) from error

    async def restore(self, path: Path, upload: str) -> int:
        """Replace everything by a checked copy, atomically; return the new revision, above all before it.

        `upload` names the restore and is remembered with it (see `restored`).
        """

        restored: int = await self._writer.ask(lambda writer: _replace(writer, path, upload))
        return restored

    async def restored(self) -> tuple[str, int]:
        """Return the name of the last restore and the revision it made; empty and 0 when there was none."""
        meta = await self._read(tables.meta)
        return meta.restored, meta.feed

    async def close(self) -> None:
        """Finish what was asked for and close the files."""
        self._reading.shutdown(wait=True)
        if self._file is not None:
            self._reader.close()
        await self._writer.close()


def _replace(writer: sqlite3.Connection, path: Path, upload: str, least: int = 0) -> int:
    """Replace everything by a checked copy; the revision goes on from the higher one of both. Who owns which
    domain stays as it is: that is about what runs now."""
    with closing(connect(path, mode="copy")) as connection:
        copy = tables.copy_of(connection)
        revision = max(least, tables.meta(writer).revision, copy.meta.revision) + 1
        meta = tables.Meta(revision, copy.meta.compacted, revision, upload)
        owned = [
            Entry(row.revision, STAYING + number, row.key, row.value, row.created, row.version)
            for number, row in enumerate(tables.rows_under(writer, OWNED, ""))
        ]
        others = (entry for entry in copy.entries if not entry.key.startswith(OWNED))
        tables.fill(writer, tables.Copy(meta, chain(others, owned), copy.transactions))
    return revision


def create(place: Place, source: Path | None = None, upload: str = "") -> int:
    """Make the store of an owned folder, empty or from a checked backup; it appears when it is complete."""
    place.unfinished.unlink(missing_ok=True)
    known = place.acknowledged()
    with closing(connect(place.unfinished)) as connection:
        tables.prepare(connection)
        tables.create(connection)
        if source is not None:
            _replace(connection, source, upload, known)
        tables.advance(connection, known)
        revision = tables.meta(connection).revision
    if any(
        part.exists() for part in place.files
    ):  # a log that is left would be taken for that of the new file
        place.put_aside("another one takes its place")
    place.finished()
    return revision


def accept_loss(place: Place) -> None:
    """Let what is left be the store, at a revision above all that were acknowledged."""
    if place.file.exists():
        with closing(open_checked(place.file)) as connection:
            tables.advance(connection, place.acknowledged())
    else:
        create(place)


def open_engine(place: Place) -> Engine:
    """Open the store of an owned folder. A damaged file is put aside, and Damaged raised, saying where."""
    place.close_to_others()
    said = place.damage()
    if said:
        raise tables.Damaged(said)
    if not place.file.exists():
        create(place)
    place.keep_reserve()
    try:
        connection = open_checked(place.file)
    except tables.Damaged as damage:
        said = place.put_aside(str(damage))
        raise tables.Damaged(said) from damage
    behind = place.behind(tables.meta(connection).revision)
    if behind:
        connection.close()
        raise tables.Damaged(behind)
    place.sound()
    return Engine(connection, place)


def in_memory() -> Engine:
    """Return a store that is gone with the process."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    tables.prepare(connection)
    tables.create(connection)
    return Engine(connection)
