"""Scenarios over the bus: what callers see of the service, its operations and its domains."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from manor_bus.peer.aio import Peer
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import Done
from manor_bus.wire.messages import config as c
from manor_bus.wire.messages import lifecycle as m
from manor_bus.wire.messages.lifecycle import OperationState, State
from tests.lifecycle.scene import Scene, disk, on_stage


async def refused(scene: Scene, request: Any, kind: Kind) -> ManorError:
    with pytest.raises(ManorError) as refusal:
        await scene.call(request)
    assert refusal.value.kind is kind, refusal.value
    assert refusal.value.hint
    return refusal.value


def is_there(saved: m.Operation) -> bool:
    return Path(saved.result["path"]).exists()


async def well(scene: Scene, request: Any) -> m.Operation:
    operation = await scene.do(request)
    assert operation.state is OperationState.DONE, operation
    return operation


def test_a_domain_is_started_and_shut_down(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await scene.apply("web", disks=[disk()])
        started = await well(scene, m.DomainStart(name="web", reason="to see"))
        assert (started.kind, started.target, started.uuid) == ("start", "web", uuid)
        assert (started.progress, started.who, started.reason) == (1.0, "operator/admin", "to see")
        assert "create the guest" in started.steps
        status = await scene.status()
        assert (status.state, status.incarnation, status.hypervisor) == (State.RUNNING, 1, "fake")
        assert [(d.id, d.state) for d in status.devices] == [("root", "CONNECTED")]
        await asyncio.sleep(0.1)
        assert (await scene.facts())["web"].state is State.RUNNING
        await well(scene, m.DomainShutdown(name=uuid))
        assert (await scene.status()).state is State.DEFINED
        assert scene.devices.open == {}

    on_stage(tmp_path, scenario)


def test_a_domain_without_devices_never_calls_devices(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("web")
        await well(scene, m.DomainStart(name="web"))
        await well(scene, m.DomainReboot(name="web"))
        await well(scene, m.DomainDestroy(name="web"))
        assert scene.devices.calls == []

    on_stage(tmp_path, scenario)


def test_every_verb_of_a_running_domain(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("web", disks=[disk()])
        await well(scene, m.DomainStart(name="web", paused=True))
        assert (await scene.status()).state is State.PAUSED
        await well(scene, m.DomainResume(name="web"))
        assert (await scene.status()).state is State.RUNNING
        await well(scene, m.DomainPause(name="web"))
        assert (await scene.status()).state is State.PAUSED
        await well(scene, m.DomainResume(name="web"))
        await well(scene, m.DomainNmi(name="web"))
        await well(scene, m.DomainReset(name="web"))
        assert (await scene.status()).incarnation == 2
        await well(scene, m.DomainReboot(name="web"))
        assert (await scene.status()).incarnation == 3
        picture = await scene.operator.call(m.DomainScreenshot(name="web"), m.Screenshot, timeout=5)
        assert picture.content.startswith(b"\x89PNG")
        saved = await well(scene, m.DomainSave(name="web"))
        assert is_there(saved)
        status = await scene.status()
        assert (status.state, status.allowed) == (State.SUSPENDED, ("restore", "discard", "rename"))
        assert scene.devices.open == {}
        await well(scene, m.DomainRestore(name="web"))
        assert (await scene.status()).state is State.RUNNING
        assert not is_there(saved)
        await well(scene, m.DomainSave(name="web"))
        await well(scene, m.DomainDiscard(name="web"))
        assert (await scene.status()).state is State.DEFINED
        assert not is_there(saved)

    on_stage(tmp_path, scenario)


def test_a_renamed_domain_keeps_its_uuid_and_its_run(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await scene.apply("web")
        await scene.apply("db")
        await well(scene, m.DomainStart(name="web"))
        await refused(scene, m.DomainRename(name="web", new_name="db"), Kind.CONFLICT)
        await refused(scene, m.DomainRename(name="web", new_name="no.dots"), Kind.BAD_REQUEST)
        await well(scene, m.DomainRename(name="web", new_name="www"))
        status = await scene.until(State.RUNNING, "www")
        assert (status.uuid, status.incarnation) == (uuid, 1)
        await asyncio.sleep(1)
        assert set(await scene.facts()) == {"www", "db"}

    on_stage(tmp_path, scenario)


def test_a_deleted_domain_is_gone_everywhere(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await scene.apply("web")
        await well(scene, m.DomainStart(name="web"))
        error = await refused(scene, m.DomainDelete(name="web"), Kind.DENIED_STATE)
        assert "RUNNING" in error.message
        await well(scene, m.DomainDestroy(name="web"))
        await well(scene, m.DomainDelete(name="web"))
        await asyncio.sleep(1)
        assert await scene.facts() == {}
        await refused(scene, m.DomainStart(name="web"), Kind.NOT_FOUND)
        ranged = await scene.operator.call(c.Range(prefix="owner/"), c.Ranged, timeout=5)
        assert [entry.key for entry in ranged.entries if uuid in entry.key] == []

    on_stage(tmp_path, scenario)


def test_a_forced_delete_ends_the_run_and_what_was_saved(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("web", disks=[disk()])
        await well(scene, m.DomainStart(name="web"))
        await well(scene, m.DomainDelete(name="web", force=True))
        await scene.apply("db")
        await well(scene, m.DomainStart(name="db"))
        saved = await well(scene, m.DomainSave(name="db"))
        await well(scene, m.DomainDelete(name="db", force=True))
        assert not is_there(saved)
        await asyncio.sleep(1)
        assert await scene.facts() == {}
        assert scene.devices.open == {}
        assert await scene.runs() == []

    on_stage(tmp_path, scenario)


def test_illegal_verbs_name_the_state_and_what_is_allowed(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("web")
        error = await refused(scene, m.DomainPause(name="web"), Kind.DENIED_STATE)
        assert "DEFINED" in error.message
        assert "start" in error.message
        await refused(scene, m.DomainStart(name="nobody"), Kind.NOT_FOUND)
        await refused(scene, m.DomainShutdown(name="web", timeout_s=-1), Kind.BAD_REQUEST)

    on_stage(tmp_path, scenario)


def test_a_repeated_request_is_answered_with_the_first_operation(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("web")
        first = await scene.do(m.DomainStart(name="web"), key="op-1")
        await scene.kill()
        await scene.restart()
        assert await scene.call(m.DomainStart(name="web"), key="op-1") == first
        with pytest.raises(ManorError) as refusal:
            await scene.call(m.DomainDestroy(name="web"), key="op-1")
        assert refusal.value.kind is Kind.CONFLICT
        assert (await scene.status()).incarnation == 1

    on_stage(tmp_path, scenario)


def test_a_repetition_after_a_delete_finds_its_operation(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("web")
        first = await scene.do(m.DomainDelete(name="web"), key="op-1")
        await scene.kill()
        await scene.restart()
        assert await scene.call(m.DomainDelete(name="web"), key="op-1") == first

    on_stage(tmp_path, scenario)


def test_a_key_that_cannot_name_an_operation_is_refused(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("web")
        with pytest.raises(ManorError) as refusal:
            await scene.call(m.DomainStart(name="web"), key="a.b>c")
        assert refusal.value.kind is Kind.BAD_REQUEST

    on_stage(tmp_path, scenario)


def test_what_is_so_already_is_done_at_once_and_remembered(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("web")
        await well(scene, m.DomainStart(name="web"))
        for request in (m.DomainResume(name="web"), m.DomainStart(name="web")):
            operation = await well(scene, request)
            assert (await scene.outcome(operation.id)).state is OperationState.DONE
        assert (await scene.status()).incarnation == 1

    on_stage(tmp_path, scenario)


def test_requests_for_one_domain_wait_for_each_other(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("web", extra={"fake": {"create": {"wait_s": 2}}})
        start = await scene.call(m.DomainStart(name="web"))
        same = await scene.call(m.DomainStart(name="web"))
        assert same.id == start.id
        pause = await scene.call(m.DomainPause(name="web"))
        assert pause.state is OperationState.PENDING
        save = await scene.call(m.DomainSave(name="web"))
        await refused(scene, m.DomainPause(name="web"), Kind.DENIED_STATE)
        for operation in (start, pause, save):
            assert (await scene.outcome(operation.id)).state is OperationState.DONE
        assert (await scene.status()).state is State.SUSPENDED

    on_stage(tmp_path, scenario)


def test_a_dry_run_prints_the_plan_and_begins_nothing(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("web", disks=[disk()])
        rehearsal = await scene.call(m.DomainStart(name="web", dry_run=True))
        assert "connect the back end of root" in rehearsal.steps
        assert await scene.operations() == ()
        assert (await scene.status()).state is State.DEFINED

    on_stage(tmp_path, scenario)


def test_a_guest_that_does_not_react_stays_running_unless_force_is_asked_for(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("web", extra={"fake": {"shutdown": "ignore"}}, shutdown_timeout_s=5)
        await well(scene, m.DomainStart(name="web"))
        ignored = await scene.do(m.DomainShutdown(name="web"))
        assert ignored.state is OperationState.FAILED
        assert ignored.error is not None
        assert ignored.error.kind is Kind.TIMEOUT
        assert ignored.deadline - ignored.created == pytest.approx(5, abs=0.1)
        assert (await scene.status()).state is State.RUNNING
        await well(scene, m.DomainShutdown(name="web", timeout_s=1, force_after=True))
        assert (await scene.status()).state is State.DEFINED

    on_stage(tmp_path, scenario)


def test_destroy_cancels_what_is_under_way(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("web", disks=[disk()], extra={"fake": {"create": "hang"}})
        start = await scene.call(m.DomainStart(name="web"))
        pause = await scene.call(m.DomainPause(name="web"))
        await asyncio.sleep(1)
        await well(scene, m.DomainDestroy(name="web"))
        assert (await scene.outcome(start.id)).state is OperationState.CANCELLED
        assert (await scene.outcome(pause.id)).state is OperationState.CANCELLED
        assert (await scene.status()).state is State.DEFINED
        assert scene.devices.open == {}

    on_stage(tmp_path, scenario)


def test_a_cancelled_operation_is_undone(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("web", disks=[disk()], extra={"fake": {"resume": "hang"}})
        start = await scene.call(m.DomainStart(name="web"))
        await asyncio.sleep(1)
        cancelled = await scene.operator.call(m.OperationCancel(id=start.id), m.Operation, timeout=5)
        assert cancelled.state is OperationState.CANCELLED
        assert cancelled.error is not None
        assert "operator/admin" in cancelled.error.message
        assert (await scene.status()).state is State.DEFINED
        assert scene.devices.open == {}
        assert await scene.runs() == []
        again = await scene.operator.call(m.OperationCancel(id=start.id), m.Operation, timeout=5)
        assert again == cancelled

    on_stage(tmp_path, scenario)


def test_what_cannot_be_cancelled_any_more_says_so_in_time(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("web", extra={"fake": {"destroy": {"wait_s": 20}}})
        await well(scene, m.DomainStart(name="web"))
        destroy = await scene.call(m.DomainDestroy(name="web"))
        await asyncio.sleep(1)
        before = asyncio.get_running_loop().time()
        with pytest.raises(ManorError) as refusal:
            await scene.operator.call(m.OperationCancel(id=destroy.id), m.Operation, timeout=30)
        assert refusal.value.kind is Kind.DENIED_STATE
        assert asyncio.get_running_loop().time() - before < 5
        assert (await scene.outcome(destroy.id)).state is OperationState.DONE

    on_stage(tmp_path, scenario)


def test_operations_are_followed_step_by_step_and_listed_newest_first(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("web", disks=[disk()], extra={"fake": {"create": {"wait_s": 1}}})
        start = await scene.call(m.DomainStart(name="web"))
        parts: list[Any] = []
        done = await scene.operator.call(
            m.OperationFollow(id=start.id), m.Operation, timeout=60, on_part=parts.append
        )
        assert [part.progress for part in parts] == sorted(part.progress for part in parts)
        assert "create the guest" in {part.step for part in parts}
        assert done.state is OperationState.DONE
        await well(scene, m.DomainDestroy(name="web"))
        assert [o.kind for o in await scene.operations("web")] == ["destroy", "start"]
        assert await scene.operations("web", active=True) == ()
        with pytest.raises(ManorError) as refusal:
            await scene.outcome("nothing")
        assert refusal.value.kind is Kind.NOT_FOUND

    on_stage(tmp_path, scenario)


def test_operations_and_domains_are_published(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        operations: list[Any] = []
        domains: list[Any] = []
        watches = [
            asyncio.create_task(scene.watch("operation.*", operations)),
            asyncio.create_task(scene.watch("domain.*", domains)),
        ]
        await scene.apply("web", extra={"fake": {"create": {"wait_s": 1}}})
        await asyncio.sleep(1)
        start = await scene.do(m.DomainStart(name="web"))
        await asyncio.sleep(1)
        assert operations[-1] == start
        states = [change.state for change in domains]
        assert states[-3:] == [State.DEFINED, State.STARTING, State.RUNNING]
        generations = [change.generation for change in domains]
        assert generations == sorted(set(generations))
        await asyncio.sleep(120)
        assert operations[-1] is None  # ended operations leave the stream, not the history
        assert await scene.outcome(start.id) == start
        for watch in watches:
            watch.cancel()

    on_stage(tmp_path, scenario)


def test_all_domains_are_listed_in_parts(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        documents = tuple({"kind": "Domain", "metadata": {"name": f"d{n:03}"}} for n in range(450))
        await scene.operator.call(c.Apply(documents=documents), c.Applied, timeout=30)
        await scene.until(State.DEFINED, "d449")
        parts: list[Any] = []
        await scene.operator.call(m.DomainsList(), Done, timeout=10, on_part=parts.append)
        assert sum(len(part.domains) for part in parts) == 450
        assert max(len(part.domains) for part in parts) <= 200

    on_stage(tmp_path, scenario)


def test_the_node_is_registered_with_what_it_has(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        node = {"kind": "Node", "metadata": {"name": "n1"}, "spec": {"labels": {"rack": "r1"}}}
        await scene.operator.call(c.Apply(documents=(node,)), c.Applied, timeout=10)
        await asyncio.sleep(2)
        found = await nodes(scene.operator)
        assert found[0].hypervisors == {"fake": "1"}
        assert found[0].cpus > 0
        assert found[0].memory_mib > found[0].memory_free_mib > 0
        assert found[0].labels == {"rack": "r1"}

    on_stage(tmp_path, scenario)


async def nodes(peer: Peer) -> list[Any]:
    from manor_bus.wire.messages.discovery import Find, Found

    parts: list[Any] = []
    await peer.call(Find(kind="node"), Found, timeout=5, on_part=parts.append)
    return [entry.fact for part in parts for entry in part.entries]
