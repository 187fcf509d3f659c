from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from manor_bus.peer.aio import Peer
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.config import OwnerRecord
from manor_lifecycle.claims import Claims
from manor_lifecycle.hypervisors import Hypervisor
from manor_lifecycle.journal import Journal
from manor_lifecycle.ledger import Ledger, Lived
from manor_lifecycle.life import Life
from manor_lifecycle.means import Means, Turns
from manor_lifecycle.ownership import Held
from tests.testkit import virtual

NOBODY = cast(Peer, None)
FAKE = cast(Hypervisor, object())


def means(folder: Path, **more: Any) -> Means:
    ledger = Ledger()
    fields: dict[str, Any] = {
        "peer": NOBODY,
        "node": "n1",
        "boot_id": "b1",
        "directory": folder,
        "hypervisors": {"fake": FAKE},
        "descriptions": {},
        "default_hypervisor": "fake",
        "claims": Claims(NOBODY),
        "journal": Journal(folder, durable=False, records=ledger.records),
        "ledger": ledger,
        "wall": lambda: 0.0,
        "starts": Turns(1),
    }
    return Means(**fields | more)


def test_as_many_have_a_turn_as_the_limit_says_in_the_order_they_came() -> None:
    async def scenario() -> None:
        turns, order = Turns(2), list[int]()

        async def work(number: int) -> None:
            await turns.take()
            order.append(number)
            await asyncio.sleep(1)
            turns.give_back()

        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(work(number)) for number in range(5)]
        for there in ([0, 1], [0, 1, 2, 3], [0, 1, 2, 3, 4]):
            await asyncio.sleep(0.5)
            assert order == there
            await asyncio.sleep(0.5)
        await asyncio.gather(*tasks)

    virtual.run(scenario())


def test_whoever_gave_up_waiting_does_not_keep_the_turn_from_the_next() -> None:
    async def scenario() -> None:
        turns, loop = Turns(1), asyncio.get_running_loop()
        await turns.take()
        first, second, third = (loop.create_task(turns.take()) for _ in range(3))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        turns.give_back()
        second.cancel()  # just when it was told that it is its turn
        async with asyncio.timeout(1):
            await third
        assert (first.cancelled(), second.cancelled()) == (True, True)

    virtual.run(scenario())


def test_a_lower_limit_holds_as_soon_as_turns_are_given_back() -> None:
    async def scenario() -> None:
        turns, loop = Turns(2), asyncio.get_running_loop()
        await turns.take()
        await turns.take()
        turns.limit = 1
        waiting = loop.create_task(turns.take())
        await asyncio.sleep(0)
        turns.give_back()
        await asyncio.sleep(1)
        assert not waiting.done()
        turns.give_back()
        async with asyncio.timeout(1):
            await waiting

    virtual.run(scenario())


def test_a_higher_limit_holds_as_soon_as_turns_are_given_back() -> None:
    async def scenario() -> None:
        turns, loop = Turns(1), asyncio.get_running_loop()
        await turns.take()
        waiting = [loop.create_task(turns.take()) for _ in range(3)]
        await asyncio.sleep(0)
        turns.limit = 3
        turns.give_back()
        await asyncio.sleep(1)
        assert sum(task.done() for task in waiting) == 3
        await asyncio.gather(*waiting)

    virtual.run(scenario())


def test_a_note_is_known_at_once_and_in_the_journal_after_a_commit(tmp_path: Path) -> None:
    async def scenario() -> None:
        made = means(tmp_path)
        made.journal.load()
        record = Lived(uuid="u1", incarnation=3)
        made.note(record)
        assert made.ledger.live == {"u1": record}
        await made.commit()
        await made.journal.close()
        assert list(Journal(tmp_path, durable=False, records=made.ledger.records).load()) == [record]

    virtual.run(scenario())


def test_a_full_disk_is_said_to_be_one(tmp_path: Path) -> None:
    async def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    made = means(tmp_path, journal=cast(Journal, SimpleNamespace(commit=full)))
    with pytest.raises(ManorError, match="No space left") as refused:
        virtual.run(made.commit())
    assert refused.value.kind is Kind.NO_CAPACITY
    assert refused.value.hint


def test_a_hypervisor_that_this_node_does_not_have_is_refused_with_those_it_has(tmp_path: Path) -> None:
    made = means(tmp_path)
    assert made.hypervisor(Life("u1", "web", hypervisor="fake")) is FAKE
    with pytest.raises(ManorError, match=r"no hypervisor 'xen'; it has: fake") as refused:
        made.hypervisor(Life("u1", "web", hypervisor="xen"))
    assert refused.value.kind is Kind.BAD_REQUEST


def test_a_domain_without_a_record_would_be_this_nodes(tmp_path: Path) -> None:
    made = means(tmp_path)
    assert made.record("u1") == OwnerRecord(node="n1")
    made.claims.held["u1"] = Held(OwnerRecord(node="n2"), 4)
    assert made.record("u1").node == "n2"


def test_files_of_different_domains_and_runs_are_different_files(tmp_path: Path) -> None:
    made = means(tmp_path)
    runs = [Life("u1", "web", incarnation=1), Life("u1", "web", incarnation=2), Life("u2", "db")]
    paths = {made.dump_path(life) for life in runs} | {made.saved_path(life.uuid) for life in runs}
    assert len(paths) == 5
    assert all(path.is_relative_to(tmp_path) for path in paths)


def test_a_domain_keeps_its_user_and_a_new_one_gets_a_free_one(tmp_path: Path) -> None:
    made = means(tmp_path, uids=(10, 12))
    made.claims.held["u1"] = Held(OwnerRecord(node="n1", uid=10), 1)
    made.claims.held["u2"] = Held(OwnerRecord(node="n2", uid=11), 1)
    assert made.uid_for(Life("u1", "web")) == 10
    assert made.uid_for(Life("u3", "db")) == 12
    assert made.uid_for(Life("u3", "db")) == 12
    with pytest.raises(ManorError) as refused:
        made.uid_for(Life("u4", "mail"))
    assert refused.value.kind is Kind.NO_CAPACITY


def test_without_a_range_domains_have_no_users_of_their_own(tmp_path: Path) -> None:
    assert means(tmp_path).uid_for(Life("u1", "web")) == 0
