"""What any lifecycle must do, seen from the bus alone. Beside it: our config and devices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from manor_bus.peer.aio import Change, Peer, Synced
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import config
from manor_bus.wire.messages import lifecycle as m
from manor_bus.wire.messages.lifecycle import DomainStatus, Operation, OperationState, State
from tests.contract.place import Place, collect, end, place

pytestmark = pytest.mark.system

IMPLEMENTATIONS = ("fake",)  # by the hypervisor they are told


@pytest.fixture(params=IMPLEMENTATIONS)
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """A bus with the lifecycle under test."""
    async with place(MANOR_HYPERVISOR=request.param) as made:
        for name in ("config", "devices", "lifecycle"):
            await made.serve(name)
        yield made


async def apply(peer: Peer, name: str = "web", **spec: Any) -> str:
    """Apply a document; returns the domain's uuid when lifecycle knows of it."""
    document = {"kind": "Domain", "metadata": {"name": name}, "spec": spec}
    done = await peer.call(config.Apply(documents=(document,)), config.Applied, timeout=10)
    change = done.changes[0]
    await until(peer, change.uuid, lambda status: status.revision >= change.revision)
    return change.uuid


async def until(peer: Peer, uuid: str, wanted: State | Callable[[DomainStatus], bool]) -> DomainStatus:
    """Watch a domain until it is as wanted."""
    async with asyncio.timeout(30):
        async for change in peer.watch(f"domain.{uuid}"):
            status = change.value if isinstance(change, Change) else None
            if status is not None and (wanted(status) if callable(wanted) else status.state is wanted):
                assert isinstance(status, DomainStatus)
                return status
    raise AssertionError("the watch ended")


async def do(peer: Peer, request: Any, key: str = "") -> Operation:
    """Post a verb and follow it to its end."""
    begun = await peer.call(request, Operation, timeout=10, key=key)
    return await peer.call(m.OperationFollow(id=begun.id), Operation, timeout=60)


async def refused(call: Any) -> ManorError:
    with pytest.raises(ManorError) as caught:
        await call
    return caught.value


async def test_a_document_is_a_domain_with_its_uuid_labels_and_what_is_allowed(bus: Place) -> None:
    peer = await bus.peer()
    uuid = await apply(peer)
    status = await until(peer, uuid, State.DEFINED)
    assert (status.name, status.uuid, status.node) == ("web", uuid, "n1")
    assert "start" in status.allowed
    assert "shutdown" not in status.allowed
    shown = await peer.call(m.DomainShow(name="web"), DomainStatus, timeout=10)
    assert shown.uuid == (await peer.call(m.DomainShow(name=uuid), DomainStatus, timeout=10)).uuid == uuid


async def test_a_domain_starts_pauses_resumes_and_is_shut_down(bus: Place) -> None:
    peer = await bus.peer()
    uuid = await apply(peer)
    for verb, state in (
        (m.DomainStart(name="web"), State.RUNNING), (m.DomainPause(name="web"), State.PAUSED),
        (m.DomainResume(name="web"), State.RUNNING), (m.DomainShutdown(name="web"), State.DEFINED),
        (m.DomainStart(name="web"), State.RUNNING), (m.DomainDestroy(name="web"), State.DEFINED),
    ):  # fmt: skip
        done = await do(peer, verb)
        assert (done.state, done.target, done.uuid) == (OperationState.DONE, "web", uuid), done
        assert done.who == "operator/admin"
        await until(peer, uuid, state)


async def test_every_new_run_has_a_higher_number_and_every_new_look_a_higher_generation(bus: Place) -> None:
    peer = await bus.peer()
    uuid = await apply(peer)
    seen: list[DomainStatus] = []

    async def follow() -> None:
        async for change in peer.watch(f"domain.{uuid}", policy="gap"):
            if isinstance(change, Change) and change.value is not None:
                seen.append(change.value)

    following = asyncio.create_task(follow())
    for _ in range(2):
        await do(peer, m.DomainStart(name="web"))
        await do(peer, m.DomainDestroy(name="web"))
    last = await peer.call(m.DomainShow(name="web"), DomainStatus, timeout=10)
    await until(peer, uuid, lambda status: status.generation >= last.generation)
    following.cancel()
    generations = [status.generation for status in seen]
    assert generations == sorted(set(generations))
    assert len({status.incarnation for status in seen if status.state is State.RUNNING}) == 2


async def test_a_repeated_call_is_one_operation(bus: Place) -> None:
    peer = await bus.peer()
    await apply(peer)
    first = await do(peer, m.DomainStart(name="web"), key="once")
    again = await peer.call(m.DomainStart(name="web"), Operation, timeout=10, key="once")
    assert (first.id, first.state, again.id) == ("once", OperationState.DONE, "once")
    listed = await peer.call(m.OperationList(target="web"), m.OperationsListed, timeout=10)
    assert [one.id for one in listed.operations].count("once") == 1


async def test_what_cannot_be_is_refused_by_its_kind(bus: Place) -> None:
    peer = await bus.peer()
    await apply(peer)
    error = await refused(peer.call(m.DomainPause(name="web"), Operation, timeout=10))
    assert error.kind is Kind.DENIED_STATE
    error = await refused(peer.call(m.DomainStart(name="nobody"), Operation, timeout=10))
    assert error.kind is Kind.NOT_FOUND
    error = await refused(peer.call(m.OperationShow(id="never"), Operation, timeout=10))
    assert error.kind is Kind.NOT_FOUND


async def test_a_dry_run_lists_the_steps_and_begins_nothing(bus: Place) -> None:
    peer = await bus.peer()
    uuid = await apply(peer)
    planned = await peer.call(m.DomainStart(name="web", dry_run=True), Operation, timeout=10)
    assert planned.steps
    assert (await until(peer, uuid, State.DEFINED)).operation == ""


async def test_what_shall_always_run_starts_by_itself(bus: Place) -> None:
    peer = await bus.peer()
    await until(peer, await apply(peer, run="always"), State.RUNNING)


async def test_a_deleted_domain_leaves_the_stream(bus: Place) -> None:
    peer = await bus.peer()
    uuid = await apply(peer)
    assert (await do(peer, m.DomainDelete(name="web"))).state is OperationState.DONE
    async with asyncio.timeout(20):
        async for change in peer.watch("domain.*"):
            if isinstance(change, Synced):
                break
            if isinstance(change, Change) and change.subject == f"domain.{uuid}":
                assert change.value is None
    error = await refused(peer.call(m.DomainShow(name="web"), DomainStatus, timeout=10))
    assert error.kind is Kind.NOT_FOUND


async def test_a_rename_keeps_the_run(bus: Place) -> None:
    peer = await bus.peer()
    uuid = await apply(peer)
    await do(peer, m.DomainStart(name="web"))
    before = await until(peer, uuid, State.RUNNING)
    assert (await do(peer, m.DomainRename(name="web", new_name="www"))).state is OperationState.DONE
    after = await until(peer, uuid, lambda status: status.name == "www")
    assert (after.state, after.incarnation) == (State.RUNNING, before.incarnation)


async def test_after_a_kill_the_domains_are_there_and_operations_are_remembered(bus: Place) -> None:
    peer = await bus.peer()
    uuids = [await apply(peer, f"d{n}") for n in range(5)]
    done = await do(peer, m.DomainStart(name="d0"))
    await end(bus.begun[-1], kill=True)
    await bus.serve("lifecycle")
    listed = await collect(peer, m.DomainsList(), m.Done, "domains")
    assert sorted(status.uuid for status in listed if isinstance(status, DomainStatus)) == sorted(uuids)
    told = await peer.call(m.OperationShow(id=done.id), Operation, timeout=10)
    assert (told.state, told.kind) == (OperationState.DONE, "start")


async def test_the_node_says_what_it_has(bus: Place) -> None:
    peer = await bus.peer()
    async with asyncio.timeout(20):
        async for change in peer.watch("node.*"):
            if isinstance(change, Change) and isinstance(change.value, m.NodeStatus):
                assert (change.subject, change.value.name) == ("node.n1", "n1")
                assert change.value.cpus > 0
                assert change.value.memory_mib > 0
                return
