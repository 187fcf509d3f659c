"""The past of one document, told newest first. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from manor_bus.wire.messages.config import HistoryEntry
from manor_bus.wire.messages.documents import AnyDocument
from manor_config import notes
from manor_config.diff import REPLY_BYTES_MAX, bounded, differences
from manor_config.documents import loaded
from manor_config.revision import Past


def entries_of(past: Sequence[Past], limit: int) -> tuple[HistoryEntry, ...]:
    """Return at most `limit` entries; `past` is newest first, one more than asked for when there is one."""
    told: list[HistoryEntry] = []
    room = REPLY_BYTES_MAX
    for number, known in enumerate(past[:limit]):
        entry, note, after = known.entry, notes.decode(known.note), _document(known)
        older = next((one for one in past[number + 1 :] if one.uuid == known.uuid), None)
        before = _document(older) if older else None
        diff, room = bounded(differences(before, after) if before and after else (), room)
        action: Literal["created", "changed", "deleted", "renamed"]
        action = "renamed" if known.renamed else "changed" if entry.version > 1 else "created"
        told.append(
            HistoryEntry(
                revision=entry.revision,
                at=after.metadata.modified if after else note.at,
                by=after.metadata.modified_by if after else note.by,
                reason=after.metadata.reason if after else note.reason,
                action=action if after else "deleted",
                diff=diff,
                name=entry.key.rpartition("/")[2],
                uuid=known.uuid,
            )
        )
    return tuple(told)


def state_at(past: Sequence[Past], uuid: str, revision: int) -> AnyDocument | None:
    """Return a document as it was at a revision, whatever its name was; None when it was not there."""
    known = next((one for one in past if one.uuid == uuid and one.entry.revision <= revision), None)
    return _document(known) if known else None


def _document(known: Past) -> AnyDocument | None:
    return loaded(known.entry.value, known.entry.revision) if known.entry.value is not None else None
