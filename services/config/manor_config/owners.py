"""Who owns the runs of domains, as config heeds it: what may not happen to a document now. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from manor_bus.wire.errors import denied_state
from manor_bus.wire.messages.config import OWNED, Change, OwnerRecord
from manor_config.revision import Guard, Row

NAMES_SHOWN: Final = 8


@dataclass(frozen=True, slots=True)
class Owned:
    """An owner record and the revision of its key."""

    record: OwnerRecord
    revision: int

    @property
    def holds(self) -> str:
        """Say what would lose its document; an empty text when nothing would."""
        return "runs" if self.record.run else "has a saved state" if self.record.saved else ""


Owners = Mapping[str, Owned]


def read(row: Row) -> tuple[str, Owned]:
    """Return (uuid, record). One that cannot be read may stand for a run, so it counts as one."""
    try:
        record = msgspec.json.decode(row.value, type=OwnerRecord)
    except msgspec.MsgspecError:
        record = OwnerRecord(node="?", run=True)
    return row.key.removeprefix(OWNED), Owned(record, row.revision)


def permit(changes: Iterable[Change], owners: Owners, *, operation: str, force: bool) -> tuple[Guard, ...]:
    """Refuse what must not happen to documents of domains now; return the guards under which that is so.

    A document that an operation is about to delete is left alone by everybody else, even when nothing about
    it would change: whoever applies it wants it to be there. One whose run lives or whose state is saved is
    deleted by its owner, or when told so by `force`.
    """
    guards = []
    domains = [change for change in changes if change.kind == "Domain"]
    stay = {change.uuid for change in domains if change.action != "deleted"}
    for change in domains:
        owned = owners.get(change.uuid)
        if owned is not None and owned.record.deleting not in ("", operation):
            message = f"domain {change.name} is being deleted by operation {owned.record.deleting}"
            raise denied_state(message, hint=f"See how it goes: manor ops show {owned.record.deleting}")
        ends = change.action == "deleted" and change.uuid not in stay
        mine = owned is not None and operation != "" and owned.record.deleting == operation
        if ends and owned is not None and owned.holds and not (force or mine):
            message = f"domain {change.name} {owned.holds}"
            hint = f"`manor delete domain {change.name} --force` ends it first."
            raise denied_state(message, hint=hint)
        if change.action != "unchanged" and not (owned is None and change.action == "created"):
            guards.append(Guard(OWNED + change.uuid, owned.revision if owned else 0))
    return tuple({guard.key: guard for guard in guards}.values())


def permit_restore(names: Mapping[str, str], after: Collection[str], owners: Owners, *, force: bool) -> None:
    """Refuse documents in whose place domains would run, or be saved, without one, unless told.

    `names` are those of the present documents by uuid, `after` the uuids there would be.
    """
    deleting = sorted(names[uuid] for uuid in names if uuid in owners and owners[uuid].record.deleting)
    if deleting:
        message = f"these domains are being deleted: {_some(deleting)}"
        raise denied_state(message, hint="Wait for the end of that, then restore.")
    lost = sorted(names[uuid] for uuid in without(after, owners) if uuid in names)
    if lost and not force:
        message = f"these domains run or are saved, and the backup has no document of them: {_some(lost)}"
        raise denied_state(message, hint="Shut them down first, or leave them without a document by --force.")


def without(documented: Collection[str], owners: Owners) -> tuple[str, ...]:
    """Return the uuids of domains that run or are saved and are not among the documented ones."""
    return tuple(sorted(uuid for uuid, owned in owners.items() if owned.holds and uuid not in documented))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
