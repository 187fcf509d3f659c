from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor_bus.wire.errors import ErrorBody, Kind, ManorError
from manor_bus.wire.messages.lifecycle import OperationState
from manor_lifecycle.ledger import Begun, Closed, Ledger, Lived, Record, Stepped, Turned, has_ended, replay

FAILURE = ErrorBody(kind=Kind.TIMEOUT, message="too late")


def begun(id_: str = "op1", *, uuid: str = "u1", kind: str = "start") -> Begun:
    return Begun(id=id_, kind=kind, target="web", uuid=uuid, created=1.0, generation=3)


def closed(id_: str = "op1", state: OperationState = OperationState.DONE) -> Closed:
    return Closed(
        id=id_, state=state, at=2.0, error=None if state == OperationState.DONE else FAILURE, generation=5
    )


def test_an_operation_is_found_open_and_ended() -> None:
    ledger = replay([begun(), Stepped(id="op1", index=0)], keep=10)
    assert ledger.active["op1"].steps == 1
    ledger.apply(closed())
    ended = ledger.get("op1")
    assert ended is not None
    assert has_ended(ended)
    assert (ended.state, ended.progress) == (OperationState.DONE, 1.0)
    assert ledger.active == {}


def test_only_so_many_ended_operations_are_kept() -> None:
    records: list[Record] = []
    for n in range(8):
        records += [begun(f"op{n}"), closed(f"op{n}")]
    ledger = replay(records, keep=3)
    assert [operation.id for operation in ledger.listed("", False, 10)] == ["op7", "op6", "op5"]


def test_the_same_id_is_the_same_operation_and_nothing_else() -> None:
    ledger = replay([begun()], keep=10)
    same = ledger.repeated("op1", "start", "u1")
    assert same is not None
    assert same.id == "op1"
    with pytest.raises(ManorError) as other:
        ledger.repeated("op1", "destroy", "u1")
    assert other.value.kind is Kind.CONFLICT


def test_a_list_is_narrowed_by_target_and_newest_first() -> None:
    ledger = replay([begun("a"), closed("a"), begun("b"), begun("c", uuid="u2")], keep=10)
    assert [operation.id for operation in ledger.listed("u1", False, 10)] == ["b", "a"]
    assert [operation.id for operation in ledger.listed("", True, 10)] == ["c", "b"]
    assert len(ledger.listed("", False, 1)) == 1


def test_records_about_the_unknown_change_nothing() -> None:
    ledger = replay([Stepped(id="x", index=1), Turned(id="x", error=FAILURE), closed("x")], keep=10)
    assert (ledger.active, len(ledger.ended), ledger.generations) == ({}, 0, {})


ids = st.sampled_from(["a", "b", "c"])
outcomes = st.sampled_from([OperationState.DONE, OperationState.FAILED, OperationState.CANCELLED])
records = st.one_of(
    st.builds(begun, ids),
    st.builds(lambda i, n: Stepped(id=i, index=n, incarnation=n), ids, st.integers(0, 5)),
    st.builds(lambda i: Turned(id=i, error=FAILURE), ids),
    st.builds(closed, ids, outcomes),
    st.builds(lambda u, live: Lived(uuid=u, incarnation=1, live=live), ids, st.booleans()),
)


@given(st.lists(records, max_size=40))
def test_compaction_loses_nothing(history: list[Record]) -> None:
    full = replay(history, keep=100)
    again = replay(list(full.records()), keep=100)
    assert again.generations == full.generations
    assert again.live == full.live
    assert again.ended == full.ended
    assert {i: (o.steps, o.turned, o.begun) for i, o in again.active.items()} == {
        i: (o.steps, o.turned, o.begun) for i, o in full.active.items()
    }


def test_a_deleted_domain_is_forgotten() -> None:
    ledger = Ledger()
    ledger.apply(begun())
    ledger.apply(Lived(uuid="u1", incarnation=1))
    ledger.forget("u1")
    assert (ledger.generations, ledger.live) == ({}, {})
