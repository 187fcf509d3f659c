"""The owner records in config: read, guarded, never guessed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import config as c
from manor_bus.wire.messages.config import OWNED, KeyValue, OwnerRecord
from manor_bus.wire.messages.documents import Domain, DomainSpec, Metadata, Placement
from manor_lifecycle.domain.events import KeptIs
from manor_lifecycle.domain.values import UNREADABLE
from manor_lifecycle.records import NOBODYS, Records, Uids, decode, free_uid, is_mine
from tests.lifecycle.scene import Scene, on_stage

MINE = OwnerRecord(node="n1", incarnation=3)


def stored(value: bytes, revision: int = 7) -> KeyValue:
    return KeyValue(key=OWNED + "u1", value=value, revision=revision, created=1)


def with_records(folder: Path, scenario: Callable[[Records, Scene], Awaitable[None]]) -> None:
    async def run(scene: Scene) -> None:
        await scenario(scene.opened[-1].site.records, scene)

    on_stage(folder, run)


def test_a_record_survives_its_storage() -> None:
    assert decode(stored(msgspec.json.encode(MINE))) == KeptIs(MINE, 7)


def test_a_record_that_cannot_be_read_is_never_guessed() -> None:
    found = decode(stored(b"{"))
    assert found.record is not None
    assert (found.revision, found.record.node) == (7, UNREADABLE)
    assert "owner/domain/u1" in found.record.failed


def test_the_owner_in_the_store_is_responsible_and_nobody_else() -> None:
    here = Domain(metadata=Metadata(name="web"), spec=DomainSpec(placement=Placement(node="n2")))
    assert is_mine(here, KeptIs(MINE, 7), "n1")
    assert not is_mine(here, KeptIs(MINE, 7), "n2")
    assert not is_mine(here, None, "n1")
    assert is_mine(Domain(metadata=Metadata(name="web")), None, "n1")
    assert not is_mine(None, None, "n1")


def test_a_write_is_guarded_by_the_revision_that_was_read(tmp_path: Path) -> None:
    async def scenario(records: Records, scene: Scene) -> None:
        first = await records.write("u1", 0, MINE)
        with pytest.raises(ManorError) as refused:
            await records.write("u1", 0, MINE)
        assert refused.value.kind is Kind.STALE
        second = await records.write("u1", first.revision, msgspec.structs.replace(MINE, incarnation=4))
        assert await records.read("u1") == second == records.known["u1"]
        assert second.revision > first.revision
        assert await records.write("u1", second.revision, None) == NOBODYS
        assert "u1" not in records.known

    with_records(tmp_path, scenario)


def test_what_somebody_else_wrote_is_read_anew(tmp_path: Path) -> None:
    async def scenario(records: Records, scene: Scene) -> None:
        await records.write("u1", 0, MINE)
        theirs = c.Put(key=OWNED + "u1", value=msgspec.json.encode(OwnerRecord(node="n2", token=2)))
        await scene.operator.call(c.Txn(puts=(theirs,)), c.TxnDone, timeout=5)
        found = await records.read("u1")
        assert found.record == OwnerRecord(node="n2", token=2)
        assert records.known["u1"] == found

    with_records(tmp_path, scenario)


def test_all_records_are_read_page_by_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manor_lifecycle.records.PAGE", 3)

    async def scenario(records: Records, scene: Scene) -> None:
        for number in range(8):
            await records.write(f"u{number}", 0, MINE)
        records.known.clear()
        await records.load(5)
        assert set(records.known) == {f"u{number}" for number in range(8)}

    with_records(tmp_path, scenario)


def test_a_free_user_is_the_next_one_and_the_range_is_bounded() -> None:
    assert free_uid([10, 11, 13], 10, 13) == 12
    assert free_uid([10], 10, 13, after=11) == 12
    assert free_uid([12, 13], 10, 13, after=13) == 10
    assert free_uid([11, 12, 13], 10, 13, after=11) == 10
    with pytest.raises(ManorError) as full:
        free_uid([10, 11], 10, 11)
    assert full.value.kind is Kind.NO_CAPACITY


def test_a_domain_keeps_its_user_and_no_two_get_one(tmp_path: Path) -> None:
    async def scenario(records: Records, scene: Scene) -> None:
        await records.write("u1", 0, msgspec.structs.replace(MINE, uid=11))
        uids = Uids(records, (10, 13))
        assert [uids.of(uuid) for uuid in ("u1", "u2", "u3", "u2")] == [11, 10, 12, 10]
        assert Uids(records, None).of("u2") == 0

    with_records(tmp_path, scenario)
