"""What any config must do, seen from the bus alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from manor_bus.peer.aio import Change, Peer, Synced
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import config
from manor_bus.wire.messages.config import Applied, Got, HistoryListed, Listed, Ranged, TxnDone
from tests.contract.place import Place, end, place

pytestmark = pytest.mark.system

IMPLEMENTATIONS = ("sqlite", "memory")
DURABLE = ("sqlite",)


@pytest.fixture(params=IMPLEMENTATIONS)
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """A bus with the config under test."""
    async with place(MANOR_CONFIG_ENGINE=request.param) as made:
        await made.serve("config")
        yield made


def network(name: str = "lan", **metadata: Any) -> dict[str, Any]:
    return {"kind": "Network", "metadata": {"name": name, **metadata}, "spec": {}}


async def apply(peer: Peer, *documents: dict[str, Any], key: str = "", **more: Any) -> Applied:
    return await peer.call(config.Apply(documents=documents, **more), Applied, timeout=10, key=key)


async def refused(call: Any) -> ManorError:
    with pytest.raises(ManorError) as caught:
        await call
    return caught.value


async def test_what_was_applied_is_read_back_with_its_revision_and_uuid(bus: Place) -> None:
    peer = await bus.peer()
    done = await apply(peer, network(labels={"tier": "web"}))
    got = await peer.call(config.Get(kind="Network", name="lan"), Got, timeout=10)
    change = done.changes[0]
    assert (change.action, change.uuid) == ("created", got.document.metadata.uuid)
    assert (got.document.metadata.revision, got.revision) == (change.revision, done.revision)
    assert got.document.metadata.labels == {"tier": "web"}
    assert got.document.metadata.modified_by == "operator/admin"


async def test_the_same_again_changes_nothing(bus: Place) -> None:
    peer = await bus.peer()
    first = await apply(peer, network())
    again = await apply(peer, network())
    assert (again.changes[0].action, again.revision) == ("unchanged", first.revision)


async def test_a_call_that_is_repeated_has_one_effect_and_one_answer(bus: Place) -> None:
    peer = await bus.peer()
    first = await apply(peer, network(labels={"n": "1"}), key="once")
    await apply(peer, network(labels={"n": "2"}))
    assert await apply(peer, network(labels={"n": "1"}), key="once") == first
    got = await peer.call(config.Get(kind="Network", name="lan"), Got, timeout=10)
    assert got.document.metadata.labels == {"n": "2"}


async def test_a_guard_that_does_not_hold_is_a_conflict_and_nothing_changes(bus: Place) -> None:
    peer = await bus.peer()
    done = await apply(peer, network())
    for revision in (0, done.revision + 7):
        error = await refused(apply(peer, network("other"), network(revision=revision, labels={"a": "b"})))
        assert error.kind is Kind.CONFLICT
    assert (await peer.call(config.List(), Listed, timeout=10)).revision == done.revision


async def test_all_problems_of_all_documents_are_told_and_nothing_is_stored(bus: Place) -> None:
    peer = await bus.peer()
    wrong = {"kind": "Network", "metadata": {"name": "b a d"}, "spec": {"nosuchfield": 1}}
    error = await refused(apply(peer, network(), wrong, {"kind": "Nothing", "metadata": {"name": "x"}}))
    assert error.kind is Kind.BAD_REQUEST
    assert len(error.problems) >= 2
    assert all(problem.path and problem.reason for problem in error.problems)
    assert (await peer.call(config.List(), Listed, timeout=10)).documents == ()


async def test_a_dry_run_says_what_would_be_and_does_nothing(bus: Place) -> None:
    peer = await bus.peer()
    assert (await apply(peer, network(), dry_run=True)).changes[0].action == "created"
    error = await refused(peer.call(config.Get(kind="Network", name="lan"), Got, timeout=10))
    assert error.kind is Kind.NOT_FOUND


async def test_lists_come_in_pages_and_by_label(bus: Place) -> None:
    peer = await bus.peer()
    await apply(peer, *(network(f"n{n:03}", labels={"odd": str(n % 2)}) for n in range(25)))
    names: list[str] = []
    after, more = "", True
    while more:
        page = await peer.call(config.List(kind="Network", limit=10, after=after), Listed, timeout=10)
        names += [document.metadata.name for document in page.documents]
        after, more = f"Network/{names[-1]}", page.more
    assert names == [f"n{n:03}" for n in range(25)]
    odd = await peer.call(config.List(kind="Network", selector="odd=1"), Listed, timeout=10)
    assert len(odd.documents) == 12


async def test_history_tells_who_why_and_what_and_a_rollback_is_a_new_revision(bus: Place) -> None:
    peer = await bus.peer()
    first = await apply(peer, network(labels={"n": "1"}), reason="begin")
    await apply(peer, network(labels={"n": "2"}), reason="go on")
    back = config.Rollback(kind="Network", name="lan", revision=first.revision, reason="back")
    rolled = await peer.call(back, Applied, timeout=10)
    listed = await peer.call(config.History(kind="Network", name="lan"), HistoryListed, timeout=10)
    assert [entry.reason for entry in listed.entries] == ["back", "go on", "begin"]
    assert [entry.action for entry in listed.entries] == ["changed", "changed", "created"]
    assert {entry.by for entry in listed.entries} == {"operator/admin"}
    got = await peer.call(config.Get(kind="Network", name="lan"), Got, timeout=10)
    assert (got.document.metadata.labels, got.document.metadata.revision) == ({"n": "1"}, rolled.revision)
    past = config.Get(kind="Network", name="lan", revision=rolled.revision - 1)
    assert (await peer.call(past, Got, timeout=10)).document.metadata.labels == {"n": "2"}


async def test_a_rename_keeps_the_uuid(bus: Place) -> None:
    peer = await bus.peer()
    uuid = (await apply(peer, network())).changes[0].uuid
    await peer.call(config.Rename(kind="Network", name="lan", new_name="wan"), Applied, timeout=10)
    got = await peer.call(config.Get(kind="Network", name="wan"), Got, timeout=10)
    assert got.document.metadata.uuid == uuid
    error = await refused(peer.call(config.Get(kind="Network", name="lan"), Got, timeout=10))
    assert error.kind is Kind.NOT_FOUND


async def test_what_another_document_uses_is_not_deleted(bus: Place) -> None:
    peer = await bus.peer()
    nic = {"id": "n0", "network": "lan"}
    await apply(peer, network(), {"kind": "Domain", "metadata": {"name": "web"}, "spec": {"nics": [nic]}})
    lan = config.Delete(references=(config.Reference(kind="Network", name="lan"),))
    error = await refused(peer.call(lan, Applied, timeout=10))
    assert (error.kind, "web" in f"{error.message} {error.problems}") == (Kind.DENIED_STATE, True)
    both = (config.Reference(kind="Domain", name="web"), config.Reference(kind="Network", name="lan"))
    done = await peer.call(config.Delete(references=both), Applied, timeout=10)
    assert {change.action for change in done.changes} == {"deleted"}


async def test_watchers_see_what_is_there_and_then_every_change(bus: Place) -> None:
    peer = await bus.peer()
    await apply(peer, network("a"), network("b"))
    seen: dict[str, Any] = {}
    synced = False
    async with asyncio.timeout(20):
        async for change in peer.watch("config.network.*"):
            if isinstance(change, Synced) and not synced:
                synced = True
                assert set(seen) == {"config.network.a", "config.network.b"}
                await apply(peer, network("c"))
                gone = config.Delete(references=(config.Reference(kind="Network", name="a"),))
                await peer.call(gone, Applied, timeout=10)
            elif isinstance(change, Change):
                seen[change.subject] = change.value
            if synced and seen.get("config.network.a", 1) is None:
                break
    assert seen["config.network.c"].document.metadata.name == "c"


async def test_a_transaction_does_all_or_nothing(bus: Place) -> None:
    peer = await bus.peer("service/lifecycle")
    made = config.Txn(
        compares=(config.Compare(key="owner/u1", revision=0),),
        puts=(config.Put(key="owner/u1", value=b"me"), config.Put(key="owner/u2", value=b"too")),
    )
    first = await peer.call(made, TxnDone, timeout=10, key="t1")
    assert first.succeeded
    assert await peer.call(made, TxnDone, timeout=10, key="t1") == first
    second = await peer.call(made, TxnDone, timeout=10, key="t2")
    assert (second.succeeded, [found.value for found in second.found]) == (False, [b"me"])
    listed = await peer.call(config.Range(prefix="owner/"), Ranged, timeout=10)
    assert [(entry.key, entry.value) for entry in listed.entries] == [
        ("owner/u1", b"me"),
        ("owner/u2", b"too"),
    ]


@pytest.mark.parametrize("engine", DURABLE)
async def test_what_was_acknowledged_is_there_after_a_kill(engine: str) -> None:
    async with place(MANOR_CONFIG_ENGINE=engine) as bus:
        peer, process = await bus.peer(), await bus.serve("config")
        done = await apply(peer, *(network(f"n{n}") for n in range(20)))
        await end(process, kill=True)
        await bus.serve("config")
        listed = await peer.call(config.List(kind="Network"), Listed, timeout=10)
        assert (len(listed.documents), listed.revision) == (20, done.revision)
