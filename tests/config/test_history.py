from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from manor_config import notes
from manor_config.documents import stored
from manor_config.history import entries_of
from manor_config.revision import Entry, Past
from tests.config.examples import document, domain


def past(revision: int, version: int, raw: Any) -> Past:
    value = None
    if raw is not None:
        typed = document(raw)
        metadata = replace(typed.metadata, modified=float(revision), modified_by="me", reason=f"r{revision}")
        value = stored(replace(typed, metadata=metadata))
    note = notes.encode(notes.Note(by="her", at=revision + 0.5, reason="gone"))
    return Past(Entry(revision, 0, "document/Domain/web", value, 1, version), note)


def test_the_past_is_told_newest_first_with_differences() -> None:
    entries = entries_of(
        [past(9, 1, domain()), past(7, 3, None), past(5, 2, domain(rng=False)), past(3, 1, domain())], 9
    )
    assert [(e.revision, e.action, e.by, e.at, e.reason) for e in entries] == [
        (9, "created", "me", 9.0, "r9"),
        (7, "deleted", "her", 7.5, "gone"),
        (5, "changed", "me", 5.0, "r5"),
        (3, "created", "me", 3.0, "r3"),
    ]
    assert [line.path for line in entries[2].diff] == ["spec.rng"]
    assert entries[0].diff == entries[3].diff == ()


def test_one_more_than_asked_for_gives_the_last_its_differences() -> None:
    [entry] = entries_of([past(5, 2, domain(rng=False)), past(3, 1, domain())], 1)
    assert [line.path for line in entry.diff] == ["spec.rng"]


def test_what_was_before_a_compaction_is_not_made_up() -> None:
    [entry] = entries_of([past(5, 2, domain(rng=False))], 9)
    assert (entry.action, entry.diff) == ("changed", ())
