"""Others are told of the last look of what changed, and of nothing twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from manor_bus.peer.aio import Peer
from manor_bus.wire.messages import Message
from manor_bus.wire.messages.documents import Domain, Metadata
from manor_bus.wire.messages.lifecycle import DomainStatus, Operation, OperationState, State
from manor_lifecycle import publishing as module
from manor_lifecycle.domain.values import Core, Place
from manor_lifecycle.hypervisors.seen import Activity, Run, Seen, SeenRun
from manor_lifecycle.owner import Owner
from manor_lifecycle.publishing import ENDED_KEPT_S, Publishing
from tests.testkit import virtual


@dataclass
class World:
    """Takes what is told, in place of the state stream."""

    facts: list[DomainStatus] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    stream: dict[str, Message] = field(default_factory=dict)

    def put(self, subject: str, value: Message) -> None:
        if isinstance(value, DomainStatus):
            if value not in self.facts[-1:]:  # as the state stream does
                self.facts.append(value)
        else:
            self.stream[subject] = value

    def drop(self, subject: str) -> None:
        self.dropped.append(subject)
        self.stream.pop(subject, None)


def on_air(scenario: Callable[[World, Publishing], Awaitable[None]]) -> None:
    async def run() -> None:
        world = World()
        await scenario(world, Publishing(cast(Peer, SimpleNamespace(state=world))))

    virtual.run(run())


def owner(name: str = "web", generation: int = 0, document: Domain | None = None) -> Any:
    """What is known of a domain, and what of it was told."""
    core = Core(f"uuid-of-{name}", Place("n1"), name, document or Domain(metadata=Metadata(name=name)))
    told: Any = SimpleNamespace(uuid=core.uuid, core=core, status=None, generation=generation, reserved=9)
    return told


def becomes(told: Any, state: State) -> None:
    """Its run stands or runs."""
    activity = {State.PAUSED: Activity.STANDS, State.RUNNING: Activity.RUNS}[state]
    run = SeenRun(Run(told.uuid, 1), 1, told.core.name, activity)
    told.core = replace(told.core, seen=Seen(told.uuid, 1, run))


def operation(id_: str = "op", state: OperationState = OperationState.RUNNING, **more: Any) -> Operation:
    return Operation(id=id_, kind="start", target="web", uuid="u1", state=state, **more)


def test_changes_of_one_turn_are_told_once_at_its_end_with_the_last_look() -> None:
    async def scenario(world: World, publishing: Publishing) -> None:
        web = owner()
        for state in (State.PAUSED, State.RUNNING):
            becomes(web, state)
            publishing.changed(web)
            publishing.told(operation(step=state.value))
        assert world.facts == []
        await asyncio.sleep(0)
        assert [fact.state for fact in world.facts] == [State.RUNNING]
        assert world.stream["operation.op"] == operation(step="RUNNING")

    on_air(scenario)


def test_every_new_look_has_a_higher_generation_and_the_same_look_is_not_told_again() -> None:
    async def scenario(world: World, publishing: Publishing) -> None:
        web = owner(generation=6)
        for state in (State.PAUSED, State.RUNNING, State.RUNNING):
            becomes(web, state)
            publishing.changed(web)
            await asyncio.sleep(0)
        assert [fact.generation for fact in world.facts] == [7, 8]

    on_air(scenario)


def test_whoever_asks_sees_the_look_that_is_told() -> None:
    async def scenario(world: World, publishing: Publishing) -> None:
        web = owner()
        seen = publishing.status(web)
        assert publishing.status(web) is seen
        await asyncio.sleep(0)
        assert world.facts == [seen]

    on_air(scenario)


def test_a_fact_carries_the_labels_of_the_document() -> None:
    async def scenario(world: World, publishing: Publishing) -> None:
        publishing.changed(owner(document=Domain(metadata=Metadata(name="web", labels={"tier": "1"}))))
        publishing.changed(owner("db"))
        await asyncio.sleep(0)
        assert {fact.name: fact.labels for fact in world.facts} == {"web": {"tier": "1"}, "db": {}}

    on_air(scenario)


def test_a_renamed_domain_is_the_same_object_under_a_new_name() -> None:
    async def scenario(world: World, publishing: Publishing) -> None:
        web = owner()
        publishing.changed(web)
        await asyncio.sleep(0)
        web.core = replace(web.core, name="www")
        publishing.changed(web)
        await asyncio.sleep(0)
        assert world.dropped == []  # the subject is its uuid
        assert [fact.name for fact in world.facts] == ["web", "www"]

    on_air(scenario)


def test_a_removed_domain_is_dropped_and_what_waited_is_not_told_any_more() -> None:
    async def scenario(world: World, publishing: Publishing) -> None:
        web, db = owner(), owner("db")
        publishing.changed(web)
        await asyncio.sleep(0)
        becomes(web, State.RUNNING)
        publishing.changed(web)
        publishing.changed(db)
        publishing.removed(web)
        publishing.removed(db)
        await asyncio.sleep(0)
        assert len(world.facts) == 1
        assert world.dropped == ["domain.uuid-of-web", "domain.uuid-of-db"]

    on_air(scenario)


def test_those_inside_hear_of_every_change_at_once() -> None:
    async def scenario(world: World, publishing: Publishing) -> None:
        web, looked, forgotten = owner(), list[Owner](), list[Owner]()
        publishing.look, publishing.forget = looked.append, forgotten.append
        publishing.changed(web)
        publishing.changed(web)
        publishing.removed(web)
        assert (looked, forgotten) == ([web, web], [web])
        publishing.close()

    on_air(scenario)


def test_an_ended_operation_stays_a_while_in_the_stream_and_an_open_one_stays() -> None:
    async def scenario(world: World, publishing: Publishing) -> None:
        publishing.told(operation("open"))
        publishing.told(operation("first", OperationState.DONE))
        await asyncio.sleep(ENDED_KEPT_S / 2)
        publishing.told(operation("second", OperationState.FAILED))
        await asyncio.sleep(ENDED_KEPT_S / 2 - 1)
        assert set(world.stream) == {"operation.open", "operation.first", "operation.second"}
        await asyncio.sleep(2)
        assert set(world.stream) == {"operation.open", "operation.second"}
        await asyncio.sleep(ENDED_KEPT_S)
        assert set(world.stream) == {"operation.open"}

    on_air(scenario)


def test_of_very_many_ended_operations_the_last_ones_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENDED_KEPT_MAX", 2)

    async def scenario(world: World, publishing: Publishing) -> None:
        for number in range(5):
            publishing.told(operation(str(number), OperationState.CANCELLED))
        await asyncio.sleep(0)
        assert set(world.stream) == {"operation.3", "operation.4"}
        publishing.close()

    on_air(scenario)


def test_closing_tells_what_is_left_and_then_nothing_more() -> None:
    async def scenario(world: World, publishing: Publishing) -> None:
        publishing.changed(owner())
        publishing.told(operation("op", OperationState.DONE))
        publishing.close()
        assert len(world.facts) == 1
        assert set(world.stream) == {"operation.op"}
        await asyncio.sleep(ENDED_KEPT_S * 2)
        assert set(world.stream) == {"operation.op"}

    on_air(scenario)
