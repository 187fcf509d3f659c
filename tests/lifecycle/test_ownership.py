from __future__ import annotations

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.config import KeyValue, OwnerRecord
from manor_bus.wire.messages.documents import Domain, DomainSpec, Metadata, Placement
from manor_lifecycle.ownership import (
    UNREADABLE,
    Held,
    decode,
    encode,
    free_uid,
    is_mine,
    key,
    moved,
    txn,
)

MINE = OwnerRecord(node="n1", incarnation=3)


def stored(record: OwnerRecord, revision: int = 7) -> KeyValue:
    return KeyValue(key=key("u1"), value=encode(record), revision=revision, created=1)


def test_a_record_survives_its_storage() -> None:
    assert decode(stored(MINE)) == ("u1", Held(MINE, 7))


def test_a_record_that_cannot_be_read_is_never_guessed() -> None:
    uuid, held = decode(KeyValue(key=key("u1"), value=b"{", revision=1, created=1))
    assert (uuid, held.revision, held.record.node) == ("u1", 1, UNREADABLE)
    assert "owner/domain/u1" in held.record.failed


def test_the_owner_in_the_store_is_responsible_and_nobody_else() -> None:
    here = Domain(metadata=Metadata(name="web"), spec=DomainSpec(placement=Placement(node="n2")))
    assert is_mine(here, Held(MINE, 7), "n1")
    assert not is_mine(here, Held(MINE, 7), "n2")
    assert not is_mine(here, None, "n1")
    assert is_mine(Domain(metadata=Metadata(name="web")), None, "n1")
    assert not is_mine(None, None, "n1")


def test_a_transaction_guards_every_record_it_writes() -> None:
    made = txn({"u1": (7, MINE), "u2": (2, None)})
    assert [(c.key, c.revision) for c in made.compares] == [(key("u1"), 7), (key("u2"), 2)]
    assert [put.key for put in made.puts] == [key("u1")]
    assert [remove.key for remove in made.removes] == [key("u2")]


def test_only_the_records_that_moved_are_refused() -> None:
    writes = {"u1": (6, MINE), "u2": (0, MINE)}
    assert moved(writes, [stored(MINE, 7)]) == {"u1": Held(MINE, 7)}


def test_a_free_user_is_the_next_one_and_the_range_is_bounded() -> None:
    assert free_uid([10, 11, 13], 10, 13) == 12
    assert free_uid([10], 10, 13, after=11) == 12
    assert free_uid([12, 13], 10, 13, after=13) == 10
    assert free_uid([11, 12, 13], 10, 13, after=11) == 10
    with pytest.raises(ManorError) as full:
        free_uid([10, 11], 10, 11)
    assert full.value.kind is Kind.NO_CAPACITY
