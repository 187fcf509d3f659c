"""Which node each domain belongs to: the records that lifecycle keeps in config, and taking over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Final, NamedTuple

import msgspec

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.config import OWNED, Compare, OwnerRecord, Put, Range, Ranged, Txn, TxnDone
from manor_cli import follow
from manor_cli.app import App
from manor_cli.render import clean

BATCH: Final = 500


class Owned(NamedTuple):
    """The record of one domain, and the revision that a change of it must quote."""

    key: str
    record: OwnerRecord
    revision: int


def records(app: App, uuid: str = "") -> list[Owned]:
    """Return the records of all domains, or of one; one that cannot be read is lifecycle's to tell."""
    found: list[Owned] = []
    page, after = None, ""
    while page is None or page.more:
        page = app.call(Range(prefix=OWNED + uuid, after=after), Ranged)
        for entry in page.entries:
            after = entry.key
            try:
                record = msgspec.json.decode(entry.value, type=OwnerRecord)
            except msgspec.MsgspecError:
                continue
            found.append(Owned(entry.key, record, entry.revision))
    return found


def domains(count: int) -> str:
    """Return `1 domain`, `2 domains`."""
    return f"{count} domain{'' if count == 1 else 's'}"


def elsewhere(app: App, here: Collection[str]) -> Counter[str]:
    """Return how many domains belong to nodes that are not among those that are here.

    That it cannot be known is told, and kept in the app.
    """
    try:
        found = records(app)
    except ManorError as error:
        app.note(f"note: which node owns which domain is not known: {clean(error.message)}")
        app.partial = True
        return Counter()
    return Counter(one.record.node for one in found if one.record.node not in {"", *here})


def take(app: App, nodes: Collection[str]) -> int:
    """Give what belongs to these nodes to this one; returns how many domains that were.

    Each record is guarded by its revision: `conflict` when somebody else changed one meanwhile.
    """
    wanted = [one for one in records(app) if one.record.node in nodes]
    for at in range(0, len(wanted), BATCH):
        batch = wanted[at : at + BATCH]
        request = Txn(
            compares=tuple(Compare(key=one.key, revision=one.revision) for one in batch),
            puts=tuple(Put(key=one.key, value=_taken(one.record, app.settings.bus.node)) for one in batch),
        )
        if not app.call(request, TxnDone, key=follow.new_id()).succeeded:
            message = "the owner of a domain changed meanwhile; some may be taken over already"
            raise ManorError(Kind.CONFLICT, message, hint="look with `manor list nodes`, then repeat it")
    return len(wanted)


def _taken(record: OwnerRecord, node: str) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(record, node=node, token=record.token + 1))
