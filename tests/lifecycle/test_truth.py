"""What is shown is what is there: after answers that were wrong, late or missing, whatever was remembered."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from manor_bus.wire.messages import lifecycle as m
from manor_bus.wire.messages.lifecycle import OperationState, State
from manor_lifecycle.hypervisors.seen import Activity, CauseWord
from tests.lifecycle.scene import Scene, disk, on_stage


async def started(scene: Scene, **spec: Any) -> str:
    uuid = await scene.apply("web", **spec)
    operation = await scene.do(m.DomainStart(name="web"))
    assert operation.state is OperationState.DONE, operation
    return uuid


def at_rest(status: m.DomainStatus) -> bool:
    return not status.operation and status.state is not State.DYING and "not known" not in status.reason


async def shown_is_there(scene: Scene, uuid: str) -> m.DomainStatus:
    """Wait until nothing is under way or unknown, and compare what is shown with what is there."""
    status = await scene.until(at_rest)
    run = (await scene.fake.look(uuid))[uuid].run
    if run is None:
        assert status.state in (State.DEFINED, State.SUSPENDED, State.CRASHED)
    else:
        assert status.state is {Activity.RUNS: State.RUNNING, Activity.STANDS: State.PAUSED}[run.activity]
        assert status.incarnation == run.run.incarnation
    return status


VERBS = [m.DomainPause, m.DomainReset, m.DomainShutdown, m.DomainDestroy, m.DomainSave]


@pytest.mark.parametrize("how", ["fail", "fail-after", "late", "hang", "lie", "stale"])
@pytest.mark.parametrize("verb", VERBS)
def test_however_a_call_goes_wrong_what_is_shown_is_there(tmp_path: Path, verb: Any, how: str) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await started(scene, disks=[disk()], shutdown_timeout_s=20)
        call = verb.__name__.removeprefix("Domain").lower()
        scene.fake.faults.next(call, how)
        await scene.do(verb(name="web"))
        await shown_is_there(scene, uuid)

    on_stage(tmp_path, scenario)


@pytest.mark.parametrize("verb", [m.DomainPause, m.DomainReset])
def test_a_guest_that_vanished_unseen_is_not_shown_as_running(tmp_path: Path, verb: Any) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await started(scene)
        scene.fake._store.bury(scene.fake._store.there[uuid])  # and no event says so
        operation = await scene.do(verb(name="web"))
        assert operation.state is OperationState.FAILED
        assert (await shown_is_there(scene, uuid)).state is not State.RUNNING

    on_stage(tmp_path, scenario)


def test_what_cannot_be_asked_is_not_known_and_asked_again(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await started(scene)
        scene.fake.faults.next("pause", "fail-after")
        scene.fake.faults.next("resume", "fail", "fail", "fail")  # it cannot be undone
        scene.fake.faults.next("look", *["fail"] * 12)
        pausing = await scene.call(m.DomainPause(name="web"))
        status = await scene.until(lambda s: "NOT KNOWN" in s.conditions)
        assert (status.state, status.reason[:9]) == (State.RUNNING, "not known")
        assert (await scene.outcome(pausing.id)).state is OperationState.DONE
        assert (await shown_is_there(scene, uuid)).state is State.PAUSED

    on_stage(tmp_path, scenario)


def test_why_a_guest_stands_and_how_an_operation_failed_are_two_facts(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await started(scene, disks=[disk()], shutdown_timeout_s=5)
        scene.fake.change(uuid, activity=Activity.STANDS, cause=CauseWord.NO_SPACE, io={"root": "nospace"})
        status = await scene.until(State.PAUSED)
        assert status.cause == "no-space on disk root"
        scene.fake.faults.next("resume", "fail")
        failed = await scene.do(m.DomainResume(name="web"))
        status = await scene.status()
        assert status.cause == "no-space on disk root"
        assert status.last_failure is not None
        assert (status.last_failure.operation, status.last_failure.kind) == (failed.id, "resume")
        assert (await scene.do(m.DomainResume(name="web"))).state is OperationState.DONE
        status = await scene.status()
        assert (status.state, status.cause, status.last_failure) == (State.RUNNING, "", None)

    on_stage(tmp_path, scenario)


def test_after_a_restart_of_the_service_the_cause_is_still_known(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await started(scene, disks=[disk()])
        scene.fake.change(uuid, activity=Activity.STANDS, cause=CauseWord.IO_ERROR, io={"root": "failed"})
        await scene.until(State.PAUSED)
        await scene.kill()
        await scene.restart()
        assert (await scene.until(State.PAUSED)).cause == "io-error on disk root"

    on_stage(tmp_path, scenario)


def test_a_run_has_the_spec_it_was_made_from_not_what_the_document_says_now(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        memory = {"size_mib": 128, "max_mib": 128}
        await started(scene, memory=memory)
        await scene.do(m.DomainSave(name="web"))
        await scene.apply("web", memory={"size_mib": 192, "max_mib": 192})
        await scene.do(m.DomainRestore(name="web"))
        for _ in range(2):
            status = await scene.until(State.RUNNING)
            assert status.memory_mib == 128
            assert "spec.memory.size_mib" in {change.path for change in status.pending}
            await scene.kill()
            await scene.restart()

    on_stage(tmp_path, scenario)


def test_a_device_that_the_guest_keeps_is_still_its_device_after_a_restart(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        deaf = {"fake": {"unplug": "ignore"}}
        await started(scene, disks=[disk(), disk("more")], extra=deaf)
        await scene.apply("web", disks=[disk()], extra=deaf)
        await scene.until(lambda s: any(c.path.startswith("spec.d") for c in s.pending))
        await scene.kill()
        await scene.restart()
        status = await scene.until(State.RUNNING)
        assert {device.id for device in status.devices} == {"root", "more"}
        await scene.do(m.DomainDestroy(name="web"))
        await asyncio.sleep(10)
        assert scene.devices.open == {}

    on_stage(tmp_path, scenario)
