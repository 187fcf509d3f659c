from __future__ import annotations

import asyncio

import msgspec
import pytest

from manor_bus.peer import state
from manor_bus.peer.state import State
from manor_bus.wire import codec
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.lifecycle import Operation, OperationState

Published = list[tuple[str, msgspec.Raw, int]]


def operation(name: str, **more: object) -> Operation:
    return Operation(id=name, kind="start", target="web", uuid="u", state=OperationState.RUNNING, **more)  # type: ignore[arg-type]


@pytest.fixture
async def owned() -> tuple[State, Published]:
    told: Published = []
    return State(lambda subject, _type, data, _epoch, rev: told.append((subject, data, rev))), told


async def test_every_change_has_a_number_of_its_own(owned: tuple[State, Published]) -> None:
    objects, told = owned
    objects.put("operation.a", operation("a"))
    objects.put("operation.b", operation("b"))
    objects.put("operation.a", operation("a", step="x"))
    assert [(subject, rev) for subject, _, rev in told] == [
        ("operation.a", 1),
        ("operation.b", 2),
        ("operation.a", 3),
    ]


async def test_an_unchanged_value_is_not_told_again(owned: tuple[State, Published]) -> None:
    objects, told = owned
    objects.put("operation.a", operation("a"))
    objects.put("operation.a", operation("a"))
    assert len(told) == 1


async def test_the_end_of_an_object_is_told_once(owned: tuple[State, Published]) -> None:
    objects, told = owned
    objects.put("operation.a", operation("a"))
    objects.drop("operation.a")
    objects.drop("operation.a")
    assert [data == codec.NIL for _, data, _ in told] == [False, True]
    assert len(objects) == 0


async def test_a_snapshot_has_what_is_there_under_a_pattern_in_parts(
    owned: tuple[State, Published], monkeypatch: pytest.MonkeyPatch
) -> None:
    objects, _ = owned
    for n in range(10):
        objects.put(f"operation.o{n}", operation(f"o{n}"))
    monkeypatch.setattr(state, "PART_BYTES", 500)
    parts = list(objects.snapshot("operation.*"))
    assert len(parts) > 1
    assert [item.subject for part in parts for item in part] == [f"operation.o{n}" for n in range(10)]
    assert list(objects.snapshot("domain.*")) == []


async def test_what_is_too_large_for_a_frame_is_refused_where_it_is_made(
    owned: tuple[State, Published],
) -> None:
    objects, told = owned
    with pytest.raises(ManorError) as refused:
        objects.put("operation.a", operation("a", step="x" * state.OBJECT_BYTES_MAX))
    assert refused.value.kind is Kind.BAD_REQUEST
    assert told == []


async def test_a_state_that_is_not_complete_is_not_shown(owned: tuple[State, Published]) -> None:
    objects, _ = owned
    objects.hold()
    waiting = asyncio.get_running_loop().create_task(objects.complete())
    await asyncio.sleep(0)
    assert not waiting.done()
    objects.release()
    await waiting


async def test_a_later_owner_has_a_later_epoch(owned: tuple[State, Published]) -> None:
    objects, _ = owned
    assert State(lambda *_: None).epoch > objects.epoch
