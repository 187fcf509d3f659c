"""The past of one document, over its renames.

A rename deletes one key and creates another in the same revision; both held the same uuid. A name may have
had several documents, one after the other: their uuids tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable
from sqlite3 import Connection

from manor_config.engines import tables
from manor_config.revision import Entry, Past

UuidOf = Callable[[bytes], str]


def of(connection: Connection, key: str, limit: int, uuid_of: UuidOf) -> list[Past]:
    """Return at most `limit` entries, newest first: all under the name, and those under earlier or later
    names of the documents that had it."""
    found: dict[tuple[int, str], Past] = {}
    ways, gone = [(key, tables.LAST, "")], set()
    while ways:
        way = ways.pop()
        if way in gone:
            continue
        gone.add(way)
        name, before, only = way
        rows = tables.entries_of(connection, name, before, limit + 1)
        for number, (entry, note) in enumerate(rows):
            previous = rows[number + 1][0] if number + 1 < len(rows) else None
            value = entry.value if entry.value is not None or previous is None else previous.value
            uuid = uuid_of(value) if value is not None else ""
            if only and uuid != only:
                continue
            half = _other_half(connection, entry, uuid, uuid_of)
            if half is not None and entry.value is None:  # it goes on under another name
                ways.append((half.key, tables.LAST, uuid))
                continue
            if half is not None:
                ways.append((half.key, entry.revision, uuid))
            found[entry.revision, name] = Past(entry, note, uuid, renamed=half is not None)
    return sorted(found.values(), key=lambda one: one.entry.revision, reverse=True)[:limit]


def _other_half(connection: Connection, entry: Entry, uuid: str, uuid_of: UuidOf) -> Entry | None:
    """Return what a rename wrote beside this entry: the end of the old name, or the begin of the new one."""
    if not uuid or (entry.value is not None and entry.version > 1):
        return None
    kind = entry.key.rpartition("/")[0]
    for other in tables.entries_in(connection, entry.revision):
        if other.key == entry.key or other.key.rpartition("/")[0] != kind:
            continue
        if (other.value is None) == (entry.value is None):
            continue
        before = (
            other if other.value is not None else tables.entry_at(connection, other.key, entry.revision - 1)
        )
        if before is not None and before.value is not None and uuid_of(before.value) == uuid:
            return other
    return None
