"""How operations are executed: order, deadlines, undo, notes, bugs. Points and cancellation: test_points."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import config as c
from manor_bus.wire.messages import lifecycle as m
from manor_bus.wire.messages.lifecycle import OperationState, State
from manor_lifecycle import driver
from manor_lifecycle.deeds import DEEDS
from manor_lifecycle.plan import Act
from tests.lifecycle.scene import Scene, disk, on_stage

Deed = Callable[[Any, Any, Any, Any], Awaitable[None]]


class Stage:
    """Records the deeds in their order, and lets tests replace some."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.order: list[str] = []
        self.instead: dict[Act, Deed] = {}
        monkeypatch.setattr(driver, "DEEDS", {act: self._around(act) for act in DEEDS})

    def _around(self, act: Act) -> Deed:
        async def deed(means: Any, life: Any, work: Any, step: Any) -> None:
            self.order.append(step.text)
            await self.instead.get(act, DEEDS[act])(means, life, work, step)

        return deed


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


def raises(*errors: Exception) -> Deed:
    """Fail so many times, then do what is to be done."""
    left = list(errors)

    async def deed(means: Any, life: Any, work: Any, step: Any) -> None:
        if left:
            raise left.pop(0)
        await DEEDS[step.act](means, life, work, step)

    return deed


def full() -> ManorError:
    return ManorError(Kind.NO_CAPACITY, "the node is full", hint="Free something.")


async def hangs(means: Any, life: Any, work: Any, step: Any) -> None:
    await asyncio.get_running_loop().create_future()


def test_steps_are_done_in_order_and_undone_in_reverse(tmp_path: Path, stage: Stage) -> None:
    async def scenario(scene: Scene) -> None:
        stage.instead[Act.RESUME] = raises(full())
        await scene.apply("web", disks=[disk("a"), disk("b")])
        failed = await scene.do(m.DomainStart(name="web"))
        assert failed.error is not None
        assert (failed.state, failed.error.kind) == (OperationState.FAILED, Kind.NO_CAPACITY)
        assert failed.error.hint == "Free something."
        assert stage.order == [
            "claim the next incarnation",
            "connect the back end of a",
            "connect the back end of b",
            "create the guest",
            "report the connection of a",
            "report the connection of b",
            "let the guest run",
            "end the run",
            "release the back end of b",
            "release the back end of a",
        ]
        assert failed.progress < 1

    on_stage(tmp_path, scenario)


def test_a_step_that_takes_too_long_is_named_and_undone(tmp_path: Path, stage: Stage) -> None:
    async def scenario(scene: Scene) -> None:
        stage.instead[Act.CREATE] = hangs
        await scene.apply("web")
        before = asyncio.get_running_loop().time()
        failed = await scene.do(m.DomainStart(name="web"))
        assert failed.error is not None
        assert failed.error.kind is Kind.TIMEOUT
        assert "create the guest: not done within 90 s" in failed.error.message
        assert 90 <= asyncio.get_running_loop().time() - before < 95
        assert stage.order[-1] == "end the run"

    on_stage(tmp_path, scenario)


def test_undoing_is_tried_again_and_what_is_not_there_needs_none(tmp_path: Path, stage: Stage) -> None:
    async def scenario(scene: Scene) -> None:
        stage.instead[Act.RESUME] = raises(full())
        stage.instead[Act.DESTROY] = raises(full(), full())
        await scene.apply("web")
        failed = await scene.do(m.DomainStart(name="web"))
        assert "stop the virtual CPUs" not in stage.order  # they never ran
        assert stage.order.count("end the run") == 3
        assert not [key for key in failed.result if key.startswith("not undone")]

    on_stage(tmp_path, scenario)


def test_a_run_that_cannot_be_taken_back_needs_an_operator(tmp_path: Path, stage: Stage) -> None:
    async def scenario(scene: Scene) -> None:
        stage.instead[Act.RESUME] = raises(full())
        stage.instead[Act.DESTROY] = raises(full(), full(), full())
        await scene.apply("web")
        failed = await scene.do(m.DomainStart(name="web"))
        assert "the node is full" in failed.result["not undone 1"]
        status = await scene.status()
        assert (status.state, status.allowed) == (State.FAILED, ("destroy", "rename", "clear"))
        assert (await scene.do(m.DomainDestroy(name="web"))).state is OperationState.DONE
        assert (await scene.status()).state is State.DEFINED

    on_stage(tmp_path, scenario)


def test_nothing_before_a_commit_is_undone(tmp_path: Path, stage: Stage) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("web")
        await scene.do(m.DomainStart(name="web"))
        stage.instead[Act.CREATE] = raises(full())
        stage.order.clear()
        failed = await scene.do(m.DomainReboot(name="web"))
        assert failed.state is OperationState.FAILED
        assert stage.order == [
            "ask the guest to shut down",
            "wait for the guest",
            "end the run",
            "claim the next incarnation",
            "create the guest",
            "end the run",
        ]
        assert (await scene.status()).state is State.DEFINED

    on_stage(tmp_path, scenario)


def test_an_optional_step_that_fails_is_noted(tmp_path: Path, stage: Stage) -> None:
    async def scenario(scene: Scene) -> None:
        stage.instead[Act.ANNOUNCE] = raises(full())
        await scene.apply("web", disks=[disk()])
        done = await scene.do(m.DomainStart(name="web"))
        assert done.state is OperationState.DONE
        assert done.result == {"note 0": "report the connection of root: the node is full"}
        assert (await scene.status()).reason == "report the connection of root: the node is full"

    on_stage(tmp_path, scenario)


def test_a_bug_ends_the_operation_as_internal_and_the_domain_stays_usable(
    tmp_path: Path, stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(scene: Scene) -> None:
        stage.instead[Act.CREATE] = raises(ZeroDivisionError("a bug"))
        await scene.apply("web")
        failed = await scene.do(m.DomainStart(name="web"))
        assert failed.error is not None
        assert failed.error.kind is Kind.INTERNAL
        assert "a bug" not in failed.error.message.replace("a bug;", "")
        assert "ZeroDivisionError" in caplog.text
        assert (await scene.do(m.DomainStart(name="web"))).state is OperationState.DONE

    on_stage(tmp_path, scenario)


def test_the_intent_is_on_disk_before_the_first_deed(tmp_path: Path, stage: Stage) -> None:
    async def scenario(scene: Scene) -> None:
        seen: list[bytes] = []

        async def claim(means: Any, life: Any, work: Any, step: Any) -> None:
            seen.append((scene.folder / "lifecycle" / "journal").read_bytes())
            await DEEDS[Act.CLAIM](means, life, work, step)

        stage.instead[Act.CLAIM] = claim
        await scene.apply("web")
        started = await scene.do(m.DomainStart(name="web"))
        assert started.id.encode() in seen[0]
        assert b'"r":"begun"' in seen[0]

    on_stage(tmp_path, scenario)


def test_no_more_starts_at_once_than_the_cluster_allows(tmp_path: Path, stage: Stage) -> None:
    async def scenario(scene: Scene) -> None:
        settings = {
            "kind": "ClusterSettings",
            "metadata": {"name": "cluster"},
            "spec": {"concurrent_starts": 3},
        }
        await scene.operator.call(c.Apply(documents=(settings,)), c.Applied, timeout=10)
        at_once: list[int] = []
        busy = 0

        async def create(means: Any, life: Any, work: Any, step: Any) -> None:
            nonlocal busy
            busy += 1
            at_once.append(busy)
            await asyncio.sleep(0.1)
            await DEEDS[Act.CREATE](means, life, work, step)
            busy -= 1

        stage.instead[Act.CREATE] = create
        documents = tuple(
            {"kind": "Domain", "metadata": {"name": f"d{n}"}, "spec": {"run": "always"}} for n in range(12)
        )
        await scene.operator.call(c.Apply(documents=documents), c.Applied, timeout=10)
        for number in range(12):
            await scene.until(State.RUNNING, f"d{number}")
        assert max(at_once) == 3

    on_stage(tmp_path, scenario)


def test_a_run_that_ended_is_treated_before_what_waits(tmp_path: Path, stage: Stage) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await scene.apply("web")
        await scene.do(m.DomainStart(name="web"))

        async def nmi(means: Any, life: Any, work: Any, step: Any) -> None:
            from manor_lifecycle.hypervisors import EndReason

            scene.fake.end(uuid, EndReason.CRASH)
            await asyncio.sleep(1)

        stage.instead[Act.NMI] = nmi
        first = await scene.call(m.DomainNmi(name="web"))
        waits = await scene.call(m.DomainPause(name="web"))
        assert (await scene.outcome(first.id)).state is OperationState.DONE
        denied = await scene.outcome(waits.id)
        assert denied.error is not None
        assert (denied.state, denied.error.kind) == (OperationState.FAILED, Kind.DENIED_STATE)
        assert [o.kind for o in await scene.operations("web")] == ["pause", "end", "nmi", "start"]

    on_stage(tmp_path, scenario)


def test_a_queued_operation_can_be_cancelled(tmp_path: Path, stage: Stage) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("web")
        stage.instead[Act.CREATE] = hangs
        start = await scene.call(m.DomainStart(name="web"))
        pause = await scene.call(m.DomainPause(name="web"))
        cancelled = await scene.operator.call(m.OperationCancel(id=pause.id), m.Operation, timeout=5)
        assert cancelled.state is OperationState.CANCELLED
        assert (await scene.operations(active=True))[0].id == start.id

    on_stage(tmp_path, scenario)


def test_a_back_end_that_could_not_be_released_is_released_later(tmp_path: Path, stage: Stage) -> None:
    async def scenario(scene: Scene) -> None:
        stage.instead[Act.RESUME] = raises(full())
        stage.instead[Act.RELEASE] = raises(full(), full(), full())
        await scene.apply("web", disks=[disk()])
        failed = await scene.do(m.DomainStart(name="web"))
        assert [key for key in failed.result if key.startswith("not undone")]
        assert (await scene.status()).state is State.DEFINED
        assert scene.devices.open
        await asyncio.sleep(10)
        assert scene.devices.open == {}

    on_stage(tmp_path, scenario)
