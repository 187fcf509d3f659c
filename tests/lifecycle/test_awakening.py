"""What the service makes of the witnesses it finds when it starts, seen from outside."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from manor_bus.wire.messages import config as c
from manor_bus.wire.messages import lifecycle as m
from manor_bus.wire.messages.devices import DomainGone
from manor_bus.wire.messages.lifecycle import OperationState, State
from manor_lifecycle.hypervisors.fake import Guest
from manor_lifecycle.hypervisors.seen import Activity
from tests.lifecycle.scene import Scene, disk, on_stage

GUEST = Guest("u9", "theirs", 4, Activity.RUNS, 0.0)


async def running(scene: Scene, **spec: Any) -> str:
    uuid = await scene.apply("web", **spec)
    started = await scene.do(m.DomainStart(name="web"))
    assert started.state is OperationState.DONE, started
    return uuid


def guest_file(scene: Scene, uuid: str) -> Path:
    return scene.folder / "lifecycle" / "fake" / f"{uuid}.guest"


def change_guest(scene: Scene, uuid: str, **fields: Any) -> None:
    """Change behind the back of the service what the hypervisor has."""
    file = guest_file(scene, uuid)
    guest = msgspec.json.decode(file.read_bytes().splitlines()[0], type=Guest)
    file.write_bytes(msgspec.json.encode(msgspec.structs.replace(guest, **fields)))


async def given_to(scene: Scene, uuid: str, node: str) -> None:
    """Change the ownership record as another node does."""
    records = scene.opened[-1].site.records
    held = records.known[uuid]
    assert held.record is not None
    taken = msgspec.structs.replace(held.record, node=node, token=held.record.token + 1)
    await records.write(uuid, held.revision, taken)


def test_a_run_goes_on_with_all_that_was_known_of_it(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await running(scene, disks=[disk()], cpu={"count": 2})
        await scene.do(m.DomainReset(name="web"))
        before = await scene.status()
        await scene.kill()
        await scene.restart()
        after = await scene.until(State.RUNNING)
        assert (after.incarnation, after.cpus) == (2, 2)
        assert after.started == pytest.approx(before.started, abs=60)
        assert [device.state for device in after.devices] == ["CONNECTED"]
        await scene.do(m.DomainDestroy(name="web"))
        assert DomainGone(uuid=uuid, incarnation=1) in scene.devices.calls  # as its devices were connected
        assert scene.devices.open == {}

    on_stage(tmp_path, scenario)


def test_a_guest_that_somebody_paused_meanwhile_is_paused(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await running(scene)
        await scene.kill()
        change_guest(scene, uuid, activity=Activity.STANDS)
        await scene.restart()
        await scene.until(State.PAUSED)

    on_stage(tmp_path, scenario)


def test_a_run_that_ended_meanwhile_is_treated_by_the_policy(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await running(scene, disks=[disk()], on_device_model_crash="destroy")
        await scene.kill()
        guest_file(scene, uuid).unlink()
        await scene.restart()
        await scene.until(State.DEFINED)
        await scene.until(lambda status: not scene.devices.open)

    on_stage(tmp_path, scenario)


def test_a_guest_that_is_not_ours_is_shown_and_left_alone(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.kill()
        foreign = msgspec.structs.replace(GUEST, ours=False)
        guest_file(scene, "u9").write_bytes(msgspec.json.encode(foreign))
        await scene.restart()
        status = await scene.until(State.FOREIGN, "theirs")
        assert status.allowed == ()
        assert len(await scene.runs()) == 1

    on_stage(tmp_path, scenario)


def test_a_run_of_ours_that_nobody_remembers_is_taken_in(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await scene.apply("web")
        await scene.kill()
        left = msgspec.structs.replace(GUEST, uuid=uuid, name="web")
        guest_file(scene, uuid).write_bytes(msgspec.json.encode(left))
        await scene.restart()
        status = await scene.until(State.RUNNING)
        assert status.incarnation == 4
        await asyncio.sleep(5)
        kept = scene.opened[-1].site.records.known[uuid].record
        assert kept is not None
        assert (kept.run, kept.incarnation) == (True, 4)

    on_stage(tmp_path, scenario)


def test_a_run_from_before_the_present_one_is_ended(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await running(scene)
        await scene.do(m.DomainReboot(name="web"))
        await scene.kill()
        change_guest(scene, uuid, incarnation=1)
        await scene.restart()
        await scene.until(State.DEFINED)
        assert await scene.runs() == []

    on_stage(tmp_path, scenario)


def test_a_run_from_before_that_cannot_be_ended_is_shown_as_it_is(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await running(scene)
        await scene.do(m.DomainReboot(name="web"))
        await scene.kill()
        change_guest(scene, uuid, incarnation=1, told={"destroy": "fail"})
        await scene.restart()
        await asyncio.sleep(60)
        status = await scene.status()
        assert (status.state, "ZOMBIE" in status.conditions) == (State.DYING, True)

    on_stage(tmp_path, scenario)


def test_a_domain_that_another_node_took_over_ends_here(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await running(scene)
        await given_to(scene, uuid, "n2")
        await scene.kill()
        await scene.restart()
        while await scene.runs():
            await scene.operations()
        assert await scene.facts() == {}

    on_stage(tmp_path, scenario)


def test_a_document_of_another_node_is_none_of_our_business(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.kill()
        document = {
            "kind": "Domain",
            "metadata": {"name": "far"},
            "spec": {"run": "always", "placement": {"node": "n2"}},
        }
        await scene.operator.call(c.Apply(documents=(document,)), c.Applied, timeout=10)
        await scene.restart()
        await scene.apply("web")
        assert set(await scene.facts()) <= {"web"}

    on_stage(tmp_path, scenario)


def test_a_document_deleted_meanwhile_leaves_nothing_behind(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await scene.apply("web")
        await scene.kill()
        gone = c.Delete(references=(c.Reference(kind="Domain", name="web"),))
        await scene.operator.call(gone, c.Applied, timeout=10)
        await scene.restart()
        assert uuid not in scene.opened[-1].domains.by_uuid
        assert uuid not in scene.opened[-1].site.operations.generations

    on_stage(tmp_path, scenario)


def test_operations_that_waited_are_done_after_the_restart_in_their_order(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("web", extra={"fake": {"create": {"wait_s": 30}}})
        start = await scene.call(m.DomainStart(name="web"))
        pause = await scene.call(m.DomainPause(name="web"))
        await scene.kill()
        await scene.restart()
        ended = [await scene.outcome(one.id) for one in (start, pause)]
        assert [one.state for one in ended] == [OperationState.DONE, OperationState.DONE]
        assert (await scene.status()).state is State.PAUSED

    on_stage(tmp_path, scenario)


def test_what_runs_is_still_what_was_started_when_the_document_changed_meanwhile(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await running(scene, boot={"kernel": "/old"})
        await scene.kill()
        document = {"kind": "Domain", "metadata": {"name": "web"}, "spec": {"boot": {"kernel": "/new"}}}
        await scene.operator.call(c.Apply(documents=(document,)), c.Applied, timeout=10)
        await scene.restart()
        status = await scene.until(lambda status: bool(status.pending))
        assert [(change.path, change.new) for change in status.pending] == [("spec.boot.kernel", "/new")]
        run = scene.opened[-1].domains.by_uuid[uuid].core.run
        assert run is not None
        assert run.spec is not None
        assert run.spec.boot.kernel == "/old"

    on_stage(tmp_path, scenario)


def test_a_domain_without_a_record_has_never_run(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("web")
        await scene.kill()
        await scene.restart()
        status = await scene.until(State.DEFINED)
        assert (status.incarnation, scene.opened[-1].site.records.known) == (0, {})

    on_stage(tmp_path, scenario)


def test_no_generation_is_used_again_after_a_kill(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply(run="always")
        await scene.until(State.RUNNING)
        for size in range(64, 84):
            await scene.apply(run="always", memory={"size_mib": size})
        before = await scene.status()
        await scene.kill()
        await scene.restart()
        await scene.apply(run="always", memory={"size_mib": 64})
        assert (await scene.status()).generation > before.generation
        assert before.generation > 20

    on_stage(tmp_path, scenario)
