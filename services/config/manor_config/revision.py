"""Transactions of the store, decided without storage: guards, what a revision writes, pages of history.

The model is etcd's: one counter for the whole store, one revision per transaction that writes, several
writes of it told apart by `sub`. Every engine calls `decide` inside its own transaction, so that all of
them mean the same. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from manor_bus.wire.errors import Kind, ManorError, Problem, bad_request
from manor_bus.wire.messages.config import WRITES_MAX

PAGE_BYTES_MAX: Final = 960 * 1024  # fits a frame of 1 MiB
TRANSACTION_BYTES_MAX: Final = PAGE_BYTES_MAX  # a page of changes holds whole revisions
ROW_BYTES: Final = 64  # of a row or entry on the wire, beside its key and value
PAGE_ROWS_MAX: Final = 5_000


@dataclass(frozen=True, slots=True)
class Row:
    """A present key. `revision` is that of its last change, `version` counts its changes since creation."""

    key: str
    value: bytes
    revision: int
    created: int
    version: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One write of one revision; `value` is None when it deleted the key."""

    revision: int
    sub: int
    key: str
    value: bytes | None
    created: int
    version: int

    def row(self) -> Row | None:
        """Return the key as this entry left it."""
        if self.value is None:
            return None
        return Row(self.key, self.value, self.revision, self.created, self.version)


@dataclass(frozen=True, slots=True)
class Past:
    """One entry of a document's history and the note of its transaction (empty once compacted). `renamed`: it
    got the name of the entry's key in it."""

    entry: Entry
    note: bytes
    uuid: str = ""
    renamed: bool = False


@dataclass(frozen=True, slots=True)
class Guard:
    """A condition on one key: its modification revision (0 = absent), its exact value, or both."""

    key: str
    revision: int | None = None
    value: bytes | None = None


@dataclass(frozen=True, slots=True)
class Write:
    """Put a value under a key, or delete the key (None)."""

    key: str
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Transaction:
    """If all guards hold, do all writes. `op_id` names it for repetition, `note` is kept beside it."""

    guards: tuple[Guard, ...] = ()
    writes: tuple[Write, ...] = ()
    op_id: str = ""
    note: bytes = b""
    at: float = 0.0  # seconds since 1970


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a transaction.

    `found` are the present rows of the guarded keys when the guards did not hold. `repeated`: the op id was
    known, nothing was done now, `revision` and `note` are the first one's.
    """

    succeeded: bool
    revision: int
    found: tuple[Row, ...] = ()
    repeated: bool = False
    note: bytes = b""


@dataclass(frozen=True, slots=True)
class Page:
    """Present rows in key order, read at `revision`."""

    rows: tuple[Row, ...]
    revision: int
    more: bool


@dataclass(frozen=True, slots=True)
class Feed:
    """Whole revisions in order; ask again with `since=revision`. `more`: there is more to be had at once."""

    entries: tuple[Entry, ...]
    revision: int
    more: bool


def decide(
    transaction: Transaction, revision: int, look: Callable[[str], Row | None]
) -> tuple[Outcome, tuple[Entry, ...]]:
    """Return the outcome and what to write, `revision` being the store's present one.

    Deleting an absent key does nothing; a transaction that does nothing takes no revision.
    """
    if not all(_holds(guard, look(guard.key)) for guard in transaction.guards):
        rows = {guard.key: look(guard.key) for guard in transaction.guards}
        return Outcome(False, revision, tuple(row for row in rows.values() if row)), ()
    entries: list[Entry] = []
    for write in transaction.writes:
        row = look(write.key)
        if write.value is not None:
            created, version = (row.created, row.version + 1) if row else (revision + 1, 1)
            entries.append(Entry(revision + 1, len(entries), write.key, write.value, created, version))
        elif row is not None:
            entries.append(Entry(revision + 1, len(entries), write.key, None, row.created, row.version + 1))
    if not entries:
        return Outcome(True, revision), ()
    return Outcome(True, revision + 1, note=transaction.note), tuple(entries)


def _holds(guard: Guard, row: Row | None) -> bool:
    if guard.revision is not None and guard.revision != (row.revision if row else 0):
        return False
    return guard.value is None or (row is not None and row.value == guard.value)


def whole_revisions(entries: Iterable[Entry], since: int, latest: int, limit: int = PAGE_ROWS_MAX) -> Feed:
    """Cut ordered entries after `since` into a page that never splits a revision.

    `latest` is the store's revision at the time of reading: where to continue when nothing was cut off.
    """
    page: list[Entry] = []
    size = whole = 0  # whole: how many entries of the page belong to finished revisions
    for entry in entries:
        if page and entry.revision != page[-1].revision:
            whole = len(page)
        size += size_of(entry.key, entry.value)
        if whole and (len(page) >= limit or size > PAGE_BYTES_MAX):
            return Feed(tuple(page[:whole]), page[whole - 1].revision, True)
        page.append(entry)
    return Feed(tuple(page), max(latest, since), False)


def page_of(rows: Iterable[Row], revision: int, limit: int) -> Page:
    """Cut ordered rows into a page of at most `limit` rows that fits a frame; at least one row."""
    page: list[Row] = []
    size = 0
    for row in rows:
        size += size_of(row.key, row.value)
        if page and (len(page) >= limit or size > PAGE_BYTES_MAX):
            return Page(tuple(page), revision, True)
        page.append(row)
    return Page(tuple(page), revision, False)


def size_of(key: str, value: bytes | None) -> int:
    """Return how many bytes a key takes in a page."""
    return ROW_BYTES + len(key) + len(value or b"")


def compactable(
    samples: Sequence[tuple[float, int]], now: float, age_s: float, revision: int, keep: int
) -> int:
    """Return up to which revision history may go: older than `age_s` and not among the newest `keep`.

    `samples` are (time, revision the store had then), oldest first, on the same clock as `now`. 0 = none.
    """
    old = [past for at, past in samples if at <= now - age_s]
    return max(0, min(old[-1] if old else 0, revision - keep))


def prefix_end(prefix: str) -> str:
    """Return the first key after all keys with this prefix."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else "\U0010ffff"


def compacted(upto: int) -> ManorError:
    """Return the refusal of a revision whose history is gone."""
    return ManorError(
        Kind.STALE,
        f"history up to revision {upto} was compacted",
        hint="List everything again, then follow the changes from the revision of that list.",
    )


def ahead(asked: int, revision: int) -> ManorError:
    """Return the refusal of a revision that this store has not reached (it may have been restored)."""
    return ManorError(
        Kind.STALE,
        f"revision {asked} is ahead of the store, which is at {revision}",
        hint="List everything again, then follow the changes from the revision of that list.",
    )


def check_transaction(transaction: Transaction) -> None:
    """Refuse what means nothing or is too large; that keys and values are well-formed is seen before."""
    keys = [write.key for write in transaction.writes]
    size = sum(size_of(write.key, write.value) for write in transaction.writes)
    if len(keys) > WRITES_MAX:
        problem = Problem(path="writes", reason=f"{len(keys)} are too many", allowed=f"{WRITES_MAX}")
    elif len(set(keys)) < len(keys):
        problem = Problem(path="key", reason="written twice in one transaction")
    elif size > TRANSACTION_BYTES_MAX:
        allowed = f"{TRANSACTION_BYTES_MAX} bytes in one transaction"
        problem = Problem(path="writes", reason=f"{size} bytes are too many", allowed=allowed)
    elif any(guard.revision is None and guard.value is None for guard in transaction.guards):
        problem = Problem(path="compares", reason="one compares nothing", allowed="a revision or a value")
    else:
        return
    raise bad_request("the transaction is invalid", problem)
