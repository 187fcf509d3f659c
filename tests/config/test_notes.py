from __future__ import annotations

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.config import Apply, Change, Delete, Reference, Txn
from manor_config import notes
from manor_config.revision import Outcome

REQUEST = Apply(documents=({"kind": "Domain"},))
MADE = Change(kind="Domain", name="web", uuid="u", action="created", revision=0)


def test_a_request_is_named_by_its_caller_its_type_and_its_key() -> None:
    delete = Delete(references=(Reference(kind="Domain", name="web"),))
    names = {
        notes.op_id("operator/a", REQUEST, "k"),
        notes.op_id("operator/b", REQUEST, "k"),
        notes.op_id("operator/a", REQUEST, "l"),
        notes.op_id("operator/a", delete, "k"),
    }
    assert len(names) == 4
    assert notes.op_id("operator/a", REQUEST, "") == ""


def test_the_first_answer_is_repeated_with_its_revision() -> None:
    note = notes.Note(by="operator/a", at=1.0, digest=notes.digest(REQUEST), changes=(MADE,))
    stored = notes.encode(note)
    assert notes.decode(stored) == note
    applied = notes.repeated(Outcome(True, 9, repeated=True, note=stored), REQUEST)
    assert (applied.revision, applied.changes[0].revision) == (9, 9)


def test_another_request_under_a_used_key_is_refused() -> None:
    stored = notes.encode(notes.Note(digest=notes.digest(REQUEST)))
    with pytest.raises(ManorError, match="used for another request") as refusal:
        notes.repeated(Outcome(True, 9, repeated=True, note=stored), Txn())
    assert refusal.value.kind is Kind.BAD_REQUEST


def test_a_note_that_was_forgotten_is_empty() -> None:
    assert notes.decode(b"") == notes.Note()
