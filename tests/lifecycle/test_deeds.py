"""Each deed changes the outside first, then what is known, and may be repeated."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import config as c
from manor_bus.wire.messages.config import OwnerRecord
from manor_bus.wire.messages.documents import Domain, Metadata
from manor_lifecycle import ownership
from manor_lifecycle.deeds import DEEDS
from manor_lifecycle.hypervisors import Ended, EndReason, Feature, GuestState, Run
from manor_lifecycle.life import Life, Work
from manor_lifecycle.plan import Act, Arguments, Step
from tests.lifecycle.scene import Scene, on_stage, spec_of

UUID = "00000000-0000-4000-8000-000000000001"


class Bench:
    """One domain that the service itself does not know of, and an operation on it."""

    def __init__(self, scene: Scene, arguments: Arguments | None = None, **spec: Any) -> None:
        self.scene, self.means = scene, scene.opened[-1].means
        document = Domain(metadata=Metadata(name="bench", uuid=UUID, revision=5), spec=spec_of(**spec))
        self.life = Life(UUID, "bench", document=document)
        self.work = Work("op", "start", arguments or Arguments())

    async def do(self, *acts: Act, amount: int = 0) -> None:
        for act in acts:
            await DEEDS[act](self.means, self.life, self.work, Step(act, amount=amount))

    @property
    def record(self) -> OwnerRecord:
        return self.means.record(UUID)

    async def guest(self) -> GuestState | None:
        return next((seen.state for seen in await self.scene.fake.domains()), None)

    def troubled(self) -> bool:
        return bool(self.life.silent or self.life.ending)

    def ring(self) -> None:
        assert self.life.bell is not None
        self.life.bell()


UP = (Act.CLAIM, Act.CREATE)


def test_a_claim_counts_the_incarnation_and_clears_what_stood_against_it(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        bench = Bench(scene, Arguments(crashes=2, reboots=1), cpu={"count": 3}, memory={"size_mib": 64})
        await bench.means.claims.write(UUID, OwnerRecord(node="n1", incarnation=4, stopped=True, failed="x"))
        await bench.do(Act.CLAIM)
        assert bench.record == OwnerRecord(
            node="n1", incarnation=5, run=True, crashes=2, reboots=1, hypervisor="fake", revision=5
        )
        assert (bench.life.incarnation, bench.life.born, bench.work.incarnation) == (5, 5, 5)
        assert (bench.life.cpus, bench.life.memory_mib) == (3, 64)
        assert bench.life.features == frozenset(Feature)

    on_stage(tmp_path, scenario)


def test_a_domain_of_another_hypervisor_is_not_claimed(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        bench = Bench(scene, hypervisor="xen")
        with pytest.raises(ManorError, match="no hypervisor 'xen'"):
            await bench.do(Act.CLAIM)
        assert UUID not in bench.means.claims.held

    on_stage(tmp_path, scenario)


@pytest.mark.parametrize(("node", "claimed"), [("n1", True), ("n2", False)])
def test_our_own_lost_write_is_no_obstacle_and_anothers_is(
    tmp_path: Path, node: str, *, claimed: bool
) -> None:
    async def scenario(scene: Scene) -> None:
        bench = Bench(scene)
        written = ownership.txn({UUID: (0, OwnerRecord(node=node, incarnation=7))})
        await bench.means.peer.call(written, c.TxnDone, timeout=10, key="elsewhere")
        try:
            await bench.do(Act.CLAIM)
        except ManorError as error:
            outcome: object = error.kind
        else:
            outcome = bench.record.incarnation
        assert outcome == (8 if claimed else Kind.STALE)

    on_stage(tmp_path, scenario)


def test_a_created_guest_is_known_paused_and_expected_after_a_restart(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        bench = Bench(scene)
        bench.life.silent, bench.life.ending = "silent", Ended(Run(UUID, 1), EndReason.CRASH)
        await bench.do(*UP, Act.CREATE)
        assert (await bench.guest(), bench.life.guest) == (GuestState.PAUSED, GuestState.PAUSED)
        assert not bench.troubled()
        assert bench.means.ledger.live[UUID].incarnation == 1
        await bench.do(Act.DESTROY, Act.DESTROY)
        assert (await bench.guest(), bench.life.guest, bench.life.running) == (None, None, None)
        assert UUID not in bench.means.ledger.live

    on_stage(tmp_path, scenario)


def test_a_failed_creation_is_not_known_as_a_run(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        bench = Bench(scene, extra={"fake": {"create": "fail"}})
        with pytest.raises(ManorError):
            await bench.do(*UP)
        assert (bench.life.guest, UUID in bench.means.ledger.live) == (None, False)

    on_stage(tmp_path, scenario)


def test_whether_a_pause_was_on_purpose_outlives_the_service(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        bench = Bench(scene)
        live = bench.means.ledger.live
        await bench.do(*UP, Act.RESUME)
        assert (await bench.guest(), live[UUID].paused) == (GuestState.RUNNING, False)
        await bench.do(Act.PAUSE)
        assert (await bench.guest(), live[UUID].paused) == (GuestState.PAUSED, True)
        await bench.do(Act.RESUME)
        assert not live[UUID].paused

    on_stage(tmp_path, scenario)


def test_a_reset_gives_the_run_a_new_number_and_keeps_the_old_one_for_its_devices(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        bench = Bench(scene)
        await bench.do(*UP, Act.RESET)
        assert (bench.record.incarnation, bench.life.incarnation, bench.life.born) == (2, 2, 1)
        assert [seen.incarnation for seen in await scene.fake.domains()] == [2]
        lived = bench.means.ledger.live[UUID]
        assert (lived.incarnation, lived.born) == (2, 1)

    on_stage(tmp_path, scenario)


def test_a_save_that_is_undone_leaves_no_file_and_the_guest_runs(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        bench, told = Bench(scene), list[float]()
        bench.work.progress = told.append
        await bench.do(*UP, Act.RESUME, Act.SAVE)
        path = bench.means.saved_path(UUID)
        assert (path.stat().st_size > 0, bench.life.guest) == (True, GuestState.PAUSED)
        assert told
        await bench.do(Act.UNSAVE, Act.UNSAVE)
        assert (path.exists(), await bench.guest()) == (False, GuestState.RUNNING)

    on_stage(tmp_path, scenario)


def test_a_save_of_a_paused_guest_that_is_undone_leaves_it_paused(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        bench = Bench(scene)
        await bench.do(*UP, Act.RESUME, Act.PAUSE, Act.SAVE, Act.UNSAVE)
        assert await bench.guest() is GuestState.PAUSED

    on_stage(tmp_path, scenario)


def test_a_kept_state_is_recorded_restored_and_forgotten(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        bench = Bench(scene)
        await bench.do(*UP, Act.SAVE, Act.KEEP, Act.DESTROY)
        path = bench.means.saved_path(UUID)
        assert (bench.record.saved, bench.work.result, bench.life.saved) == (
            str(path),
            {"path": str(path)},
            True,
        )
        await bench.do(Act.CLAIM, Act.RESTORE)
        assert (bench.life.incarnation, await bench.guest()) == (2, GuestState.PAUSED)
        await bench.do(Act.FORGET_SAVED, Act.FORGET_SAVED, Act.REMOVE_SAVED, Act.REMOVE_SAVED)
        assert (bench.record.saved, bench.life.saved, path.exists()) == ("", False, False)

    on_stage(tmp_path, scenario)


def test_waiting_for_the_guest_ends_when_it_did(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        bench = Bench(scene)
        await bench.do(*UP, Act.RESUME)
        waiting = asyncio.get_running_loop().create_task(bench.do(Act.AWAIT_END))
        await asyncio.sleep(60)
        bench.ring()  # something else happened
        await asyncio.sleep(1)
        assert not waiting.done()
        bench.life.guest = None
        bench.ring()
        await waiting
        assert bench.life.bell is None
        await bench.do(Act.AWAIT_END)

    on_stage(tmp_path, scenario)


def test_what_is_changed_live_is_a_part_of_the_run_then(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        bench = Bench(scene, cpu={"count": 1, "max": 4}, memory={"size_mib": 64, "max_mib": 512})
        await bench.do(*UP)
        await bench.do(Act.SET_CPUS, amount=3)
        await bench.do(Act.SET_MEMORY, amount=128)
        (seen,) = await scene.fake.domains()
        assert (seen.cpus, seen.memory_mib, bench.life.cpus) == (3, 128, 3)
        assert bench.life.running is not None
        assert (bench.life.running.cpu.count, bench.life.running.memory.size_mib) == (3, 128)

    on_stage(tmp_path, scenario)


def test_a_failure_is_recorded_until_an_operator_clears_it(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        bench = Bench(scene, Arguments(failed="too many crashes", crashes=5))
        await bench.do(Act.CLEAR_GUARDS)
        assert UUID not in bench.means.claims.held
        await bench.do(Act.CLAIM, Act.RECORD_FAILURE)
        assert (bench.record.failed, bench.record.crashes) == ("too many crashes", 5)
        await bench.do(Act.CLEAR_GUARDS)
        assert (bench.record.failed, bench.record.crashes, bench.record.incarnation) == ("", 0, 1)
        await bench.do(Act.DELETE_RECORD, Act.DELETE_RECORD)
        assert UUID not in bench.means.claims.held

    on_stage(tmp_path, scenario)


def test_that_it_was_stopped_on_purpose_is_remembered_and_forgotten(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        bench = Bench(scene)
        await bench.do(Act.REMEMBER_STOPPED, Act.REMEMBER_STOPPED)
        assert (bench.record.stopped, bench.life.stopped) == (True, True)
        await bench.do(Act.FORGET_STOPPED, Act.FORGET_STOPPED)
        assert (bench.record.stopped, bench.life.stopped) == (False, False)

    on_stage(tmp_path, scenario)


def test_a_document_is_renamed_and_deleted_once_however_often_it_is_tried(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("bench")
        bench = Bench(scene, Arguments(new_name="www"))
        got = await scene.operator.call(c.Get(kind="Domain", name="bench"), c.Got, timeout=10)
        bench.life.uuid = got.document.metadata.uuid
        await bench.do(Act.RENAME, Act.RENAME)
        assert bench.work.result == {"name": "www"}
        bench.life.name, bench.work = "www", Work("gone", "delete", Arguments())
        await bench.do(Act.DELETE_DOCUMENT, Act.DELETE_DOCUMENT)
        bench.work = Work("another", "delete", Arguments())
        await bench.do(Act.DELETE_DOCUMENT)
        listed = await scene.operator.call(c.List(kind="Domain"), c.Listed, timeout=10)
        assert listed.documents == ()

    on_stage(tmp_path, scenario)


def test_a_core_dump_is_where_the_result_says(tmp_path: Path) -> None:
    written: list[str] = []

    async def scenario(scene: Scene) -> None:
        bench = Bench(scene)
        await bench.do(*UP, Act.DUMP)
        written.append(bench.work.result["coredump"])

    on_stage(tmp_path, scenario)
    assert [Path(path).stat().st_size > 0 for path in written] == [True]
