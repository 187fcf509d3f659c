"""The past of one document, told newest first. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from manor_bus.wire.messages.config import HistoryEntry
from manor_config import notes
from manor_config.diff import REPLY_BYTES_MAX, bounded, differences
from manor_config.documents import loaded
from manor_config.revision import Past


def entries_of(past: Sequence[Past], limit: int) -> tuple[HistoryEntry, ...]:
    """Return at most `limit` entries; `past` is newest first, one more than asked for when there is one."""
    told: list[HistoryEntry] = []
    room = REPLY_BYTES_MAX
    for number, known in enumerate(past[:limit]):
        entry, note = known.entry, notes.decode(known.note)
        after = loaded(entry.value, entry.revision) if entry.value is not None else None
        older = past[number + 1].entry if number + 1 < len(past) else None
        before = loaded(older.value, older.revision) if older and older.value is not None else None
        diff, room = bounded(differences(before, after) if before and after else (), room)
        metadata = after.metadata if after else None
        action: Literal["created", "changed", "deleted"] = "changed" if entry.version > 1 else "created"
        told.append(
            HistoryEntry(
                revision=entry.revision,
                at=metadata.modified if metadata else note.at,
                by=metadata.modified_by if metadata else note.by,
                reason=metadata.reason if metadata else note.reason,
                action=action if after else "deleted",
                diff=diff,
            )
        )
    return tuple(told)
