"""Every operation is killed before and after, and cancelled at, each of its points, on the fake hypervisor.

A point is a step that is carried out, forward or back. First the operation runs once, and its points are
counted.
Then it runs once for each: the service ends there as by kill -9 and starts again, or the operation is
cancelled there. What must hold: the domain is in a valid state, nothing is left behind, the operation has an
outcome, the same id is answered with that outcome, and asking again succeeds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import Message
from manor_bus.wire.messages import lifecycle as m
from manor_bus.wire.messages.lifecycle import Operation, OperationState, State
from manor_lifecycle import carrying
from manor_lifecycle.carrying import CARRIES, Carry, Outcome, Work
from manor_lifecycle.hypervisors.seen import Activity
from tests.lifecycle.scene import Scene, disk, on_stage

ROOT, EXTRA = disk("root"), disk("extra")
NET = {"id": "net"}


@dataclass
class Points:
    """Counts steps; stops at one of them, before or after it, until the gate opens."""

    stop_at: int = -1
    after: bool = False
    count: int = 0
    names: list[str] = field(default_factory=list)
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    armed: bool = False

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        carries = {act: self.around(carry) for act, carry in CARRIES.items()}
        monkeypatch.setattr(carrying, "CARRIES", carries)

    def around(self, carry: Carry) -> Carry:
        async def counted(work: Work) -> Outcome | None:
            mine = self.count if self.armed else -2
            self.count += self.armed
            self.names += [work.step.text] * self.armed
            if mine == self.stop_at and not self.after:
                self.reached.set()
                await self.gate.wait()
            try:
                return await carry(work)
            finally:
                if mine == self.stop_at and self.after:
                    self.reached.set()
                    await self.gate.wait()

        return counted


@dataclass(frozen=True)
class Case:
    """One kind of operation: how to get there, what to ask for, where it leads and where it began."""

    prepare: Callable[[Scene], Awaitable[None]]
    begin: Callable[[Scene], Awaitable[str]]
    goal: State
    before: State
    devices: set[str]
    devices_before: set[str]


def asks(request: Message) -> Callable[[Scene], Awaitable[str]]:
    async def begin(scene: Scene) -> str:
        return (await scene.call(request, key="the-operation")).id

    return begin


async def changes_of(scene: Scene) -> list[Operation]:
    return [one for one in await scene.operations("web") if one.kind in ("plug", "unplug")]


def changes(*disks: dict[str, Any]) -> Callable[[Scene], Awaitable[str]]:
    async def begin(scene: Scene) -> str:
        await scene.apply("web", disks=list(disks), nics=[NET])
        async with asyncio.timeout(60):
            while not (found := await changes_of(scene)):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return found[0].id

    return begin


async def defined(scene: Scene) -> None:
    await scene.apply("web", disks=[ROOT], nics=[NET])


async def running(scene: Scene) -> None:
    await defined(scene)
    assert (await scene.do(m.DomainStart(name="web"))).state is OperationState.DONE


async def running_with_extra(scene: Scene) -> None:
    await scene.apply("web", disks=[ROOT, EXTRA], nics=[NET])
    assert (await scene.do(m.DomainStart(name="web"))).state is OperationState.DONE


async def suspended(scene: Scene) -> None:
    await running(scene)
    assert (await scene.do(m.DomainSave(name="web"))).state is OperationState.DONE


USED, MORE, NONE = {"root", "net"}, {"root", "net", "extra"}, set[str]()
CASES = {
    "start": Case(defined, asks(m.DomainStart(name="web")), State.RUNNING, State.DEFINED, USED, NONE),
    "shutdown": Case(running, asks(m.DomainShutdown(name="web")), State.DEFINED, State.RUNNING, NONE, USED),
    "destroy": Case(running, asks(m.DomainDestroy(name="web")), State.DEFINED, State.RUNNING, NONE, USED),
    "reboot": Case(running, asks(m.DomainReboot(name="web")), State.RUNNING, State.RUNNING, USED, USED),
    "reset": Case(running, asks(m.DomainReset(name="web")), State.RUNNING, State.RUNNING, USED, USED),
    "pause": Case(running, asks(m.DomainPause(name="web")), State.PAUSED, State.RUNNING, USED, USED),
    "save": Case(running, asks(m.DomainSave(name="web")), State.SUSPENDED, State.RUNNING, NONE, USED),
    "restore": Case(suspended, asks(m.DomainRestore(name="web")), State.RUNNING, State.SUSPENDED, USED, NONE),
    "discard": Case(suspended, asks(m.DomainDiscard(name="web")), State.DEFINED, State.SUSPENDED, NONE, NONE),
    "plug": Case(running, changes(ROOT, EXTRA), State.RUNNING, State.RUNNING, MORE, USED),
    "unplug": Case(running_with_extra, changes(ROOT), State.RUNNING, State.RUNNING, USED, MORE),
}
TIDY_S = 6.0
COUNTED: dict[str, list[str]] = {}
RUNS = {State.RUNNING: Activity.RUNS, State.PAUSED: Activity.STANDS}


async def check(scene: Scene, state: State, devices: set[str], where: str) -> None:
    """The domain is in this state, and nothing else is there."""
    status = await scene.until(state)
    await asyncio.sleep(TIDY_S)
    status = await scene.status()
    assert status.state is state, (where, status)
    assert {name for _, name in scene.devices.open} == devices, where
    runs = await scene.runs()
    assert {run.activity for run in runs} == ({RUNS[state]} if state in RUNS else set()), where
    if state in RUNS:
        (run,) = runs
        assert {device.id for device in run.devices} == devices, where
        assert run.run.incarnation == status.incarnation, where
    saved = {path.name for path in (scene.folder / "lifecycle" / "saved").iterdir()}
    assert saved == ({f"{status.uuid}.state"} if state is State.SUSPENDED else set()), where
    site = scene.opened[-1].site
    assert not site.operations.open, where
    assert site.starts.taken == site.calls.taken == 0, where
    kept = site.records.known[status.uuid].record
    assert kept is not None
    assert (kept.run, bool(kept.saved), kept.deleting) == (state in RUNS, state is State.SUSPENDED, ""), where


async def again(scene: Scene, case: Case) -> None:
    """Asking again leads to the goal."""
    match case.goal:
        case State.RUNNING if (await scene.status()).state is State.DEFINED:
            request: Message = m.DomainStart(name="web")
        case State.RUNNING if (await scene.status()).state is State.SUSPENDED:
            request = m.DomainRestore(name="web")
        case State.DEFINED if (await scene.status()).state is State.SUSPENDED:
            request = m.DomainDiscard(name="web")
        case State.DEFINED:
            request = m.DomainDestroy(name="web")
        case State.SUSPENDED:
            request = m.DomainSave(name="web")
        case State.PAUSED:
            request = m.DomainPause(name="web")
        case _:
            return
    assert (await scene.do(request)).state is OperationState.DONE


def stopped_at(
    tmp_path: Path,
    case: Case,
    points: Points,
    then: Callable[[Scene, str], Awaitable[None]],
) -> None:
    async def scenario(scene: Scene) -> None:
        await case.prepare(scene)
        await asyncio.sleep(1)
        points.armed = True
        operation = await case.begin(scene)
        if points.stop_at >= 0:
            await points.reached.wait()
        await then(scene, operation)

    on_stage(tmp_path / f"{points.stop_at}-{points.after}", scenario)


def count(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run once undisturbed and return the points; the same for all tests of a kind."""
    if kind in COUNTED:
        return COUNTED[kind]
    case, points = CASES[kind], Points()
    points.install(monkeypatch)

    async def then(scene: Scene, operation: str) -> None:
        assert (await scene.outcome(operation)).state is OperationState.DONE
        await check(scene, case.goal, case.devices, "undisturbed")

    stopped_at(tmp_path, case, points, then)
    assert points.names
    COUNTED[kind] = points.names
    return points.names


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", CASES)
def test_a_service_killed_at_any_point_goes_on_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, after: bool
) -> None:
    case = CASES[kind]
    for point, name in enumerate(count(tmp_path, kind, monkeypatch)):
        points = Points(point, after)
        points.install(monkeypatch)

        async def then(scene: Scene, operation: str, points: Points = points, name: str = name) -> None:
            await scene.kill()
            points.armed = False
            await scene.restart()
            outcome = await scene.outcome(operation)
            assert outcome.state is OperationState.DONE, (name, outcome)
            await check(scene, case.goal, case.devices, name)
            if operation == "the-operation":
                assert (await case.begin(scene)) == operation
                assert await scene.outcome(operation) == outcome

        stopped_at(tmp_path, case, points, then)


@pytest.mark.parametrize("kind", CASES)
def test_an_operation_cancelled_at_any_point_leaves_one_of_two_outcomes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    case = CASES[kind]
    for point, name in enumerate(count(tmp_path, kind, monkeypatch)):
        points = Points(point)
        points.install(monkeypatch)

        async def then(scene: Scene, operation: str, points: Points = points, name: str = name) -> None:
            points.gate.set()
            asked = asyncio.create_task(cancel(scene, operation))
            outcome = await scene.outcome(operation)
            await asked
            if outcome.state is OperationState.DONE:
                await check(scene, case.goal, case.devices, name)
            elif kind in ("plug", "unplug"):  # the document still says so: it is tried again
                assert outcome.state is OperationState.CANCELLED, (name, outcome)
                await check(scene, case.goal, case.devices, name)
            else:
                assert outcome.state is OperationState.CANCELLED, (name, outcome)
                await asyncio.sleep(1)
                asked_already = kind in ("shutdown", "reboot") and name != "remember that it was stopped"
                if asked_already and (await scene.status()).state is State.DEFINED:
                    await check(scene, State.DEFINED, set(), name)  # the guest obeyed all the same
                else:
                    await check(scene, case.before, case.devices_before, name)
            await again(scene, case)
            await check(scene, case.goal, case.devices, f"{name}, again")

        stopped_at(tmp_path, case, points, then)


async def cancel(scene: Scene, operation: str) -> None:
    try:
        request = m.OperationCancel(id=operation)
        await scene.operator.call(request, m.Operation, timeout=10)
    except ManorError as error:
        assert error.kind is Kind.DENIED_STATE  # noqa: PT017 - past its last chance is a legal answer


def first(names: list[str], name: str) -> int:
    """Return where a name stands first, or after all when it is not there (yet)."""
    return names.index(name) if name in names else len(names)


def faults(scene: Scene) -> Path:
    return scene.folder / "lifecycle" / "fake" / "faults.json"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("kind", "failing"), [("start", "let the guest run"), ("restore", "load the saved state")]
)
def test_a_service_killed_while_it_undoes_undoes_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, failing: str, after: bool
) -> None:
    """What made it fail is mended meanwhile: an operation that was being undone does not begin again."""
    case, total, point = CASES[kind], 1, -1
    told = {"start": '{"web": {"resume": "fail"}}', "restore": '{"web": {"restore": "fail"}}'}[kind]

    async def prepare(scene: Scene) -> None:
        await case.prepare(scene)
        faults(scene).write_text(told)

    while point < total:
        points = Points(point, after)
        points.install(monkeypatch)

        async def then(scene: Scene, operation: str, points: Points = points) -> None:
            if points.stop_at >= 0:
                await scene.kill()
                points.armed = False
                faults(scene).unlink()
                await scene.restart()
            outcome = await scene.outcome(operation)
            if points.stop_at >= 0 and points.stop_at <= first(points.names, failing):
                assert outcome.state is OperationState.DONE, points.names
                await check(scene, case.goal, case.devices, points.names[-1])
                return
            assert outcome.state is OperationState.FAILED, points.names
            assert outcome.error is not None
            assert "told to fail" in outcome.error.message
            await check(scene, case.before, case.devices_before, points.names[-1])

        stopped_at(tmp_path, replace(case, prepare=prepare), points, then)
        total = len(points.names) if point < 0 else total
        point += 1
    assert total > 4


@pytest.mark.parametrize("kind", ["start", "save", "restore", "reboot", "shutdown"])
def test_any_beginning_of_the_journal_leads_to_a_valid_state(tmp_path: Path, kind: str) -> None:
    case = CASES[kind]
    left = 0
    while True:
        torn: list[bytes] = []

        async def scenario(scene: Scene, left: int = left, torn: list[bytes] = torn) -> None:
            await case.prepare(scene)
            path = scene.folder / "lifecycle" / "journal"
            length = path.stat().st_size
            operation = await case.begin(scene)
            assert (await scene.outcome(operation)).state is OperationState.DONE
            await scene.kill()
            torn += path.read_bytes()[length:].splitlines(keepends=True)
            kept = path.read_bytes()[:length] + b"".join(torn[:left])
            path.write_bytes(kept + b"".join(torn[left : left + 1])[:20])
            await scene.restart()
            status = await scene.until(lambda status: status.state in (case.goal, case.before))
            await check(scene, status.state, case.devices, f"{left} records")

        on_stage(tmp_path / str(left), scenario)
        left += 1
        if left > len(torn):
            return
