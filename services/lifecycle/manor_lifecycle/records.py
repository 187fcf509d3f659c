"""The owner records `owner/domain/<uuid>` in config: read, and changed by guarded writes only.

A record never expires. It is written at each start at the latest, guarded by the revision that was read, so
two nodes can never run one domain, and the counters of the loop guard survive a kill of this service.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Container
from itertools import chain
from typing import Final

import msgspec

from manor_bus.peer.aio import Peer
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.config import (
    OWNED,
    Compare,
    KeyValue,
    OwnerRecord,
    Put,
    Range,
    Ranged,
    Remove,
    Txn,
    TxnDone,
)
from manor_bus.wire.messages.documents import Domain
from manor_lifecycle.domain.events import KeptIs
from manor_lifecycle.domain.values import UNREADABLE

PAGE: Final = 1000
TIMEOUT_S: Final = 20.0
NOBODYS: Final = KeptIs(None, 0)
log = logging.getLogger(__name__)


def decode(entry: KeyValue) -> KeptIs:
    """Return a stored record. One that cannot be read is nobody's: its domain is left alone until somebody
    has looked; it is never guessed, and it never keeps the other domains from being served."""
    try:
        record = msgspec.json.decode(entry.value, type=OwnerRecord)
    except msgspec.MsgspecError as error:
        log.error("domain %s is left alone: %s", entry.key, error)  # noqa: TRY400 - the entry is the cause
        record = OwnerRecord(node=UNREADABLE, failed=f"the record {entry.key} cannot be read: {error}")
    return KeptIs(record, entry.revision)


def is_mine(document: Domain | None, kept: KeptIs | None, node: str) -> bool:
    """Say whether this node is responsible: it owns the record, or nobody does and it may.

    A record that cannot be read is shown by whoever may: somebody must look.
    """
    if kept is not None and kept.record is not None and kept.record.node != UNREADABLE:
        return kept.record.node == node
    return document is not None and document.spec.placement.node in ("", node)


class Records:
    """The records of all domains as last known, and the only way to change them."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.known: dict[str, KeptIs] = {}

    async def load(self, timeout: float) -> None:
        """Read all records from config."""
        after = ""
        while True:
            request = Range(prefix=OWNED, limit=PAGE, after=after)
            page = await self._peer.call(request, Ranged, timeout=timeout)
            for entry in page.entries:
                self.known[entry.key.removeprefix(OWNED)] = decode(entry)
            if not page.more:
                return
            after = page.entries[-1].key

    async def read(self, uuid: str) -> KeptIs:
        """Read one record anew."""
        page = await self._peer.call(Range(prefix=OWNED + uuid, limit=2), Ranged, timeout=TIMEOUT_S)
        found = next((decode(entry) for entry in page.entries if entry.key == OWNED + uuid), NOBODYS)
        self._learn(uuid, found)
        return found

    async def write(
        self, uuid: str, revision: int, record: OwnerRecord | None, *, on_behalf_of: str = ""
    ) -> KeptIs:
        """Replace the record of that revision (0: none) by `record` (None removes it); `stale` when somebody
        else changed it meanwhile."""
        key = OWNED + uuid
        request = Txn(
            compares=(Compare(key=key, revision=revision),),
            puts=(Put(key=key, value=msgspec.json.encode(record)),) if record is not None else (),
            removes=(Remove(key=key),) if record is None else (),
        )
        done = await self._peer.call(
            request, TxnDone, timeout=TIMEOUT_S, key=secrets.token_hex(12), on_behalf_of=on_behalf_of
        )
        if not done.succeeded:
            message = f"the owner record of {uuid} was changed by somebody else"
            raise ManorError(Kind.STALE, message, hint="Look at the domain and try again.")
        found = KeptIs(record, done.revision if record is not None else 0)
        self._learn(uuid, found)
        return found

    def _learn(self, uuid: str, found: KeptIs) -> None:
        if found.record is None:
            self.known.pop(uuid, None)
        else:
            self.known[uuid] = found


def free_uid(taken: Container[int], first: int, last: int, after: int = 0) -> int:
    """Return the first free number of a range after `after`, going round; `no_capacity` without one."""
    start = after + 1 if first <= after < last else first
    for uid in chain(range(start, last + 1), range(first, start)):
        if uid not in taken:
            return uid
    message = f"all unprivileged users {first} to {last} are in use by domains"
    raise ManorError(Kind.NO_CAPACITY, message, hint="Widen MANOR_LIFECYCLE_UIDS, or delete domains.")


class Uids:
    """The unprivileged users of domains: the one it had, or a free one; 0 without a range. What was given is
    taken until the next start of the service, whether or not it was used."""

    def __init__(self, records: Records, uids: tuple[int, int] | None) -> None:
        self._records, self._range = records, uids
        self._given: dict[str, int] = {}
        self._taken: set[int] = set()
        self._last = 0

    def of(self, uuid: str) -> int:
        """Return the user of a domain."""
        known = self._records.known.get(uuid)
        mine = (known.record.uid if known and known.record else 0) or self._given.get(uuid, 0)
        if self._range is None or mine:
            return mine
        if not self._taken:
            self._taken = {one.record.uid for one in self._records.known.values() if one.record}
        uid = free_uid(self._taken, *self._range, after=self._last)
        self._taken.add(uid)
        self._given[uuid] = self._last = uid
        return uid
