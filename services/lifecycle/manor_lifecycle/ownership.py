"""The durable record of who owns a domain and how its runs went: `owner/domain/<uuid>` in config. Pure.

A record never expires. It is written by compare-and-set only, at each start at the latest, so two nodes can
never run one domain, and counters of the loop guard survive a kill of this service.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Final

import msgspec

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.config import OWNED, Compare, KeyValue, OwnerRecord, Put, Remove, Txn
from manor_bus.wire.messages.documents import Domain

UNREADABLE: Final = "?"  # no node has this name


@dataclass(frozen=True, slots=True)
class Held:
    """A record with the store revision that the next compare-and-set must quote; 0 = not stored yet."""

    record: OwnerRecord
    revision: int = 0


def key(uuid: str) -> str:
    """Return the key of a domain's record."""
    return OWNED + uuid


def encode(record: OwnerRecord) -> bytes:
    """Return the stored form."""
    return msgspec.json.encode(record)


def decode(entry: KeyValue) -> tuple[str, Held]:
    """Return (uuid, record) of a stored entry. One that cannot be read is nobody's: its domain is left alone
    until somebody has looked; it is never guessed, and it never keeps the other domains from being served."""
    uuid = entry.key.removeprefix(OWNED)
    try:
        record = msgspec.json.decode(entry.value, type=OwnerRecord)
    except msgspec.MsgspecError as error:
        record = OwnerRecord(node=UNREADABLE, failed=f"the record {entry.key} cannot be read: {error}")
    return uuid, Held(record, entry.revision)


def is_mine(document: Domain | None, held: Held | None, node: str) -> bool:
    """Say whether this node is responsible: it owns the record, or nobody does and it may.

    A record that cannot be read is shown by whoever may: somebody must look.
    """
    if held is not None and held.revision and held.record.node != UNREADABLE:
        return held.record.node == node
    return document is not None and document.spec.placement.node in ("", node)


def txn(writes: Mapping[str, tuple[int, OwnerRecord | None]]) -> Txn:
    """Return one transaction for several domains: uuid -> (expected revision, record or None to remove)."""
    return Txn(
        compares=tuple(Compare(key=key(uuid), revision=revision) for uuid, (revision, _) in writes.items()),
        puts=tuple(
            Put(key=key(uuid), value=encode(record)) for uuid, (_, record) in writes.items() if record
        ),
        removes=tuple(Remove(key=key(uuid)) for uuid, (_, record) in writes.items() if not record),
    )


def moved(
    writes: Mapping[str, tuple[int, OwnerRecord | None]], found: Iterable[KeyValue]
) -> dict[str, Held | None]:
    """Return the domains of a refused transaction whose record is not as expected, with what is there."""
    present = dict(decode(entry) for entry in found)
    return {
        uuid: present.get(uuid)
        for uuid, (revision, _) in writes.items()
        if (present[uuid].revision if uuid in present else 0) != revision
    }


def free_uid(taken: Container[int], first: int, last: int, after: int = 0) -> int:
    """Return the first free number of a range after `after`, going round; `no_capacity` without one."""
    start = after + 1 if first <= after < last else first
    for uid in chain(range(start, last + 1), range(first, start)):
        if uid not in taken:
            return uid
    message = f"all unprivileged users {first} to {last} are in use by domains"
    raise ManorError(Kind.NO_CAPACITY, message, hint="Widen MANOR_LIFECYCLE_UIDS, or delete domains.")
