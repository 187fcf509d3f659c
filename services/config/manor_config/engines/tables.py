"""The store as tables of one SQLite data base: every statement of SQL is here.

Works on connections in autocommit mode (and of `apsw`, in the power-loss test).
Each entry carries a checksum of its own, because SQLite has none and a disk may lie.
Key and history live in `kv` and `hist`; `txns` remembers who did a revision, why, and under which op id.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from sqlite3 import Connection
from typing import Any, Final, TypeVar

from manor_bus.wire.errors import denied_state
from manor_config.revision import Entry, Outcome, Row, Transaction, decide, prefix_end

T = TypeVar("T")

APPLICATION_ID: Final = 0x4D616E72  # "Manr", in the file's header
LAST: Final = 2**62  # above every revision
FORMAT: Final = 1  # user_version: grows when the tables change
PRAGMAS: Final = (
    "PRAGMA page_size=4096",
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",  # acknowledged means on the disk; NORMAL loses acknowledged writes
    "PRAGMA foreign_keys=ON",
    "PRAGMA trusted_schema=OFF",
    "PRAGMA cell_size_check=ON",
    "PRAGMA mmap_size=0",
    "PRAGMA secure_delete=FAST",
    "PRAGMA wal_autocheckpoint=1000",
)
SCHEMA: Final = (
    "CREATE TABLE meta(id INTEGER PRIMARY KEY CHECK(id=1), rev INTEGER NOT NULL,"
    " compact_rev INTEGER NOT NULL, feed_rev INTEGER NOT NULL, restored TEXT NOT NULL) STRICT",
    "CREATE TABLE kv(key TEXT PRIMARY KEY, mod_rev INTEGER NOT NULL, create_rev INTEGER NOT NULL,"
    " version INTEGER NOT NULL, value BLOB NOT NULL, crc INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE hist(rev INTEGER NOT NULL, sub INTEGER NOT NULL, key TEXT NOT NULL,"
    " create_rev INTEGER NOT NULL, version INTEGER NOT NULL, value BLOB, crc INTEGER NOT NULL,"
    " PRIMARY KEY(rev, sub)) STRICT, WITHOUT ROWID",
    "CREATE INDEX hist_key ON hist(key, rev)",
    "CREATE TABLE txns(rev INTEGER PRIMARY KEY, op_id TEXT UNIQUE, at REAL NOT NULL,"
    " note BLOB NOT NULL) STRICT",
    "INSERT INTO meta VALUES(1, 0, 0, 0, '')",
)
_ENTRY: Final = "rev, sub, key, value, create_rev, version, crc"
_ROW: Final = "key, value, mod_rev, create_rev, version, crc"


class Damaged(Exception):
    """The file is not what was written. The reason names what was found."""


@dataclass(frozen=True, slots=True)
class Meta:
    """Counters of the store. Changes are told from `feed` on (the last restore); history from `compacted`."""

    revision: int
    compacted: int
    feed: int
    restored: str


def prepare(connection: Connection) -> None:
    """Set the connection up for writing."""
    for pragma in PRAGMAS:
        connection.execute(pragma).fetchall()


def create(connection: Connection) -> None:
    """Make the tables in an empty file."""

    def body() -> None:
        for statement in SCHEMA:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={FORMAT}")

    with_transaction(connection, body)


def with_transaction(connection: Connection, body: Callable[[], T]) -> T:
    """Run `body` in one write transaction; durable when this returns, undone when it raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = body()
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result


def check(connection: Connection) -> None:
    """Raise Damaged unless the whole file is sound: pages, checksums, counters.

    A sound file of another version is `denied_state`.
    """
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if application != APPLICATION_ID:
        reason = f"not a store of Manor (application id {application:#x})"
        raise Damaged(reason)
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != FORMAT:
        message = f"the store has format {version}, this version reads format {FORMAT}"
        raise denied_state(message, hint="Start the version of Manor that wrote it.")
    findings = [str(row[0]) for row in connection.execute("PRAGMA quick_check(5)")]
    if findings != ["ok"]:
        raise Damaged("; ".join(findings))
    revision = meta(connection).revision
    newest = 0
    for entry in entries_after(connection, "", 0):
        newest = max(newest, entry.revision)
    rows = sum(1 for _ in rows_under(connection, "", ""))
    matched = connection.execute(
        "SELECT count(*) FROM kv JOIN hist ON hist.key=kv.key AND hist.rev=kv.mod_rev AND hist.crc=kv.crc"
    ).fetchone()[0]
    if newest > revision or rows != matched:
        reason = f"counters disagree: revision {revision}, last {newest}, {rows} keys, {matched} in history"
        raise Damaged(reason)


def meta(connection: Connection) -> Meta:
    """Read the counters."""
    row = connection.execute("SELECT rev, compact_rev, feed_rev, restored FROM meta").fetchone()
    if row is None:
        raise Damaged("the counters are missing")
    return Meta(*row)


def advance(connection: Connection, revision: int) -> None:
    """Let the store be at a revision at least: what others know of those up to it is void."""
    sql = "UPDATE meta SET rev=?1, compact_rev=?1, feed_rev=?1 WHERE rev<?1"
    with_transaction(connection, lambda: connection.execute(sql, (revision,)))


def commit(connection: Connection, transactions: Sequence[Transaction]) -> list[Outcome]:
    """Do transactions in order, each by its own guards, in one durable commit of the data base."""

    def body() -> list[Outcome]:
        before = revision = meta(connection).revision
        outcomes = []
        for transaction in transactions:
            outcome = _one(connection, transaction, revision)
            outcomes.append(outcome)
            revision = max(revision, outcome.revision)
        if revision != before:
            connection.execute("UPDATE meta SET rev=?", (revision,))
        return outcomes

    return with_transaction(connection, body)


def _one(connection: Connection, transaction: Transaction, revision: int) -> Outcome:
    first = recall(connection, transaction.op_id)
    if first is not None:
        return first
    outcome, entries = decide(transaction, revision, lambda key: look(connection, key))
    if entries:
        values = (outcome.revision, transaction.op_id or None, transaction.at, transaction.note)
        connection.execute("INSERT INTO txns VALUES(?,?,?,?)", values)
        _write(connection, entries)
    return outcome


def _write(connection: Connection, entries: Iterable[Entry]) -> None:
    for entry in entries:
        crc = _checksum(entry.key, entry.value, entry.revision, entry.created, entry.version)
        connection.execute(
            "INSERT INTO hist VALUES(?,?,?,?,?,?,?)",
            (entry.revision, entry.sub, entry.key, entry.created, entry.version, entry.value, crc),
        )
        if entry.value is None:
            connection.execute("DELETE FROM kv WHERE key=?", (entry.key,))
        else:
            connection.execute(
                "INSERT OR REPLACE INTO kv VALUES(?,?,?,?,?,?)",
                (entry.key, entry.revision, entry.created, entry.version, entry.value, crc),
            )


def recall(connection: Connection, op_id: str) -> Outcome | None:
    """Return the first outcome of an op id, if it is remembered."""
    if not op_id:
        return None
    row = connection.execute("SELECT rev, note FROM txns WHERE op_id=?", (op_id,)).fetchone()
    return Outcome(True, row[0], repeated=True, note=row[1]) if row else None


def look(connection: Connection, key: str) -> Row | None:
    """Return a present key."""
    row = connection.execute(f"SELECT {_ROW} FROM kv WHERE key=?", (key,)).fetchone()
    return _row(row) if row else None


def rows_under(connection: Connection, prefix: str, after: str) -> Iterator[Row]:
    """Yield the present keys under a prefix that come after a key, in order."""
    sql = f"SELECT {_ROW} FROM kv WHERE key>=? AND key<? AND key>? ORDER BY key"
    for row in connection.execute(sql, (prefix, prefix_end(prefix), after)):
        yield _row(row)


def entries_after(connection: Connection, prefix: str, since: int) -> Iterator[Entry]:
    """Yield what changed under a prefix after a revision, in order."""
    sql = f"SELECT {_ENTRY} FROM hist WHERE rev>? AND key>=? AND key<? ORDER BY rev, sub"
    for row in connection.execute(sql, (since, prefix, prefix_end(prefix))):
        yield _entry(row)


def entry_at(connection: Connection, key: str, revision: int) -> Entry | None:
    """Return the last entry of a key up to a revision."""
    sql = f"SELECT {_ENTRY} FROM hist WHERE key=? AND rev<=? ORDER BY rev DESC LIMIT 1"
    row = connection.execute(sql, (key, revision)).fetchone()
    return _entry(row) if row else None


def entries_of(
    connection: Connection, key: str, before: int = LAST, limit: int = -1
) -> list[tuple[Entry, bytes]]:
    """Return the entries of a key before a revision, with their transactions' notes, newest first."""
    sql = (
        "SELECT h.rev, h.sub, h.key, h.value, h.create_rev, h.version, h.crc, t.note FROM hist h"
        " LEFT JOIN txns t ON t.rev=h.rev WHERE h.key=? AND h.rev<? ORDER BY h.rev DESC LIMIT ?"
    )
    return [(_entry(row[:7]), row[7] or b"") for row in connection.execute(sql, (key, before, limit))]


def entries_in(connection: Connection, revision: int) -> list[Entry]:
    """Return what one revision wrote, in order."""
    sql = f"SELECT {_ENTRY} FROM hist WHERE rev=? ORDER BY sub"
    return [_entry(row) for row in connection.execute(sql, (revision,))]


def forget(connection: Connection, prefix: str) -> None:
    """Take everything under a prefix out, as if it had never been."""
    for table in ("kv", "hist"):
        connection.execute(f"DELETE FROM {table} WHERE key>=? AND key<?", (prefix, prefix_end(prefix)))


def compact(connection: Connection, upto: int, rows_max: int) -> bool:
    """Forget some history up to a revision (see `revision.kept`); return whether more is left to forget."""
    forgettable = (
        "SELECT rev, sub FROM hist AS old WHERE rev<=? AND (value IS NULL OR EXISTS"
        " (SELECT 1 FROM hist WHERE key=old.key AND rev>old.rev AND rev<=?)) ORDER BY rev, sub LIMIT ?"
    )

    def body() -> bool:
        connection.execute("UPDATE meta SET compact_rev=max(compact_rev, ?)", (upto,))
        connection.execute("DELETE FROM txns WHERE rev<=?", (upto,))
        chunk = connection.execute(forgettable, (upto, upto, rows_max)).fetchall()
        connection.executemany("DELETE FROM hist WHERE rev=? AND sub=?", chunk)
        return len(chunk) == rows_max

    return with_transaction(connection, body)


@dataclass(frozen=True, slots=True)
class Copy:
    """Everything a store knows: how engines exchange their content through a file."""

    meta: Meta
    entries: Iterable[Entry]  # in order
    transactions: Iterable[tuple[int, str | None, float, bytes]]  # revision, op id, at, note


def copy_of(connection: Connection) -> Copy:
    """Read everything; the two iterables run once, while the connection is open."""
    transactions = connection.execute("SELECT rev, op_id, at, note FROM txns ORDER BY rev")
    return Copy(meta(connection), entries_after(connection, "", 0), transactions)


def fill(connection: Connection, copy: Copy) -> None:
    """Replace everything by a copy, atomically."""

    def body() -> None:
        for table in ("kv", "hist", "txns"):
            connection.execute(f"DELETE FROM {table}")
        _write(connection, copy.entries)
        connection.executemany("INSERT INTO txns VALUES(?,?,?,?)", copy.transactions)
        counters = copy.meta
        connection.execute(
            "UPDATE meta SET rev=?, compact_rev=?, feed_rev=?, restored=?",
            (counters.revision, counters.compacted, counters.feed, counters.restored),
        )

    with_transaction(connection, body)


def _checksum(key: str, value: bytes | None, revision: int, created: int, version: int) -> int:
    head = f"{key} {revision} {created} {version} {'-' if value is None else '+'}"
    return zlib.crc32(value or b"", zlib.crc32(head.encode()))


def _entry(row: Sequence[Any]) -> Entry:
    revision, sub, key, value, created, version, crc = row
    if _checksum(key, value, revision, created, version) != crc:
        reason = f"the checksum of {key!r} at revision {revision} is wrong"
        raise Damaged(reason)
    return Entry(revision, sub, key, value, created, version)


def _row(row: Sequence[Any]) -> Row:
    key, value, revision, created, version, crc = row
    if _checksum(key, value, revision, created, version) != crc:
        reason = f"the checksum of {key!r} is wrong"
        raise Damaged(reason)
    return Row(key, value, revision, created, version)
