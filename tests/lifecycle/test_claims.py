"""Ownership records are written together, and by nobody who did not see the last one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.config import OwnerRecord
from manor_lifecycle import claims as module
from manor_lifecycle.claims import BATCH_MAX, Claims
from manor_lifecycle.ownership import Held
from tests.lifecycle.scene import Scene, on_stage

MINE, THEIRS = OwnerRecord(node="n1"), OwnerRecord(node="n2", token=2)


def claims_of(scene: Scene) -> Claims:
    """Return claims that know nothing yet, as those of a service that was just started."""
    return Claims(scene.opened[-1].means.peer)


async def write_all(claims: Claims, uuids: list[str], record: OwnerRecord | None = MINE) -> list[Held]:
    return list(await asyncio.gather(*(claims.write(uuid, record) for uuid in uuids)))


def test_changes_of_one_moment_travel_in_one_transaction(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        claims = claims_of(scene)
        written = await write_all(claims, [f"u{number}" for number in range(BATCH_MAX + 10)])
        assert len({held.revision for held in written[:BATCH_MAX]}) == 1
        assert len({held.revision for held in written}) == 2

    on_stage(tmp_path, scenario)


def test_what_was_written_is_read_at_the_next_start_page_by_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 2)

    async def scenario(scene: Scene) -> None:
        claims, uuids = claims_of(scene), [f"u{number}" for number in range(5)]
        await write_all(claims, uuids)
        again = claims_of(scene)
        await again.load(10)
        assert sorted(again.held) == uuids
        assert again.held == claims.held

    on_stage(tmp_path, scenario)


def test_a_removed_record_is_gone_for_everybody(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        claims = claims_of(scene)
        await write_all(claims, ["u1", "u2"])
        await claims.write("u1", None)
        again = claims_of(scene)
        await again.load(10)
        assert list(claims.held) == list(again.held) == ["u2"]

    on_stage(tmp_path, scenario)


def test_what_somebody_else_changed_is_not_overwritten_and_known_then(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        mine, theirs = claims_of(scene), claims_of(scene)
        await theirs.write("u1", THEIRS)
        with pytest.raises(ManorError, match="owned by node n2") as refused:
            await mine.write("u1", MINE)
        assert refused.value.kind is Kind.STALE
        assert mine.held["u1"] == theirs.held["u1"]
        assert (await mine.write("u1", MINE)).record == MINE

    on_stage(tmp_path, scenario)


def test_what_somebody_else_removed_is_known_to_be_nobodys(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        mine, theirs = claims_of(scene), claims_of(scene)
        await mine.write("u1", MINE)
        await theirs.load(10)
        await theirs.write("u1", None)
        with pytest.raises(ManorError, match="owned by nobody"):
            await mine.write("u1", MINE)
        assert mine.held == {}

    on_stage(tmp_path, scenario)


def test_only_the_changed_domain_of_a_shared_transaction_is_refused(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        mine, theirs = claims_of(scene), claims_of(scene)
        await theirs.write("u2", THEIRS)
        outcomes = await asyncio.gather(
            *(mine.write(uuid, MINE) for uuid in ("u1", "u2", "u3")), return_exceptions=True
        )
        assert [isinstance(outcome, Held) for outcome in outcomes] == [True, False, True]
        await theirs.load(10)
        assert {uuid: held.record for uuid, held in theirs.held.items()} == {
            "u1": MINE,
            "u2": THEIRS,
            "u3": MINE,
        }

    on_stage(tmp_path, scenario)


def test_two_changes_of_one_record_at_once_do_not_both_succeed(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        claims = claims_of(scene)
        first, second = await asyncio.gather(
            claims.write("u1", MINE), claims.write("u1", THEIRS), return_exceptions=True
        )
        assert isinstance(first, Held)
        assert isinstance(second, ManorError)
        assert claims.held["u1"].record == MINE

    on_stage(tmp_path, scenario)


def test_when_config_is_away_every_writer_hears_of_it(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        claims = claims_of(scene)
        await scene.home.kill("config")
        outcomes = await asyncio.gather(
            *(claims.write(uuid, MINE) for uuid in ("u1", "u2")), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [ManorError, ManorError]
        assert claims.held == {}

    on_stage(tmp_path, scenario)


def test_a_writer_that_gave_up_does_not_keep_the_others_waiting(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        claims = claims_of(scene)
        loop = asyncio.get_running_loop()
        first, second = (loop.create_task(claims.write(uuid, MINE)) for uuid in ("u1", "u2"))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).record == MINE
        await claims.close()

    on_stage(tmp_path, scenario)
