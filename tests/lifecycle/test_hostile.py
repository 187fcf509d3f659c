"""Whatever the hypervisor does and whenever the service is killed: at rest, what is shown is what is there.

The fake fails before and after effects, answers late, never, or with a lie, by a seed that is printed. Verbs,
documents, kills and ends of guests come by chance from the same seed.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from manor_bus.wire.errors import ErrorBody, Kind, ManorError
from manor_bus.wire.messages import lifecycle as m
from manor_bus.wire.messages.config import OwnerRecord
from manor_bus.wire.messages.documents import Domain, Metadata
from manor_bus.wire.messages.lifecycle import State
from manor_lifecycle.domain import core as module
from manor_lifecycle.domain import taking
from manor_lifecycle.domain.core import step
from manor_lifecycle.domain.events import (
    Asked,
    Cancelled,
    Hint,
    KeptIs,
    LinkIs,
    NeedsAre,
    PlaceIs,
    Progress,
    SeenIs,
    StepEnded,
    Tick,
    WishIs,
)
from manor_lifecycle.domain.plans import FORWARD
from manor_lifecycle.domain.steps import Act, Step
from manor_lifecycle.domain.values import Arguments, Core, Doing, Now, Place
from manor_lifecycle.hypervisors.seen import Activity, EndReason, Feature, Run, Seen, SeenRun
from tests.lifecycle.scene import Scene, disk, on_stage

HISTORIES = int(os.environ.get("MANOR_TEST_HISTORIES", "12"))
NAMES = ("a", "b", "c")
VERBS = (
    m.DomainStart, m.DomainStart, m.DomainShutdown, m.DomainPause, m.DomainResume, m.DomainReboot,
    m.DomainReset, m.DomainDestroy, m.DomainSave, m.DomainRestore, m.DomainDiscard,
)  # fmt: skip
SHOWN = {Activity.RUNS: State.RUNNING, Activity.SLEEPS: State.RUNNING, Activity.STANDS: State.PAUSED}


async def something(scene: Scene, chance: random.Random) -> None:
    name = chance.choice(NAMES)
    match chance.randrange(10):
        case 0:
            await scene.kill()
            await scene.restart()
        case 1:
            disks = [disk()] + [disk("more")] * chance.randrange(2)
            policy = chance.choice(("on-request", "always", "on-boot"))
            await scene.apply(name, disks=disks, run=policy, shutdown_timeout_s=10)
        case 2:
            uuid = (await scene.status(name)).uuid
            if uuid in scene.fake._store.there:
                scene.fake.end(uuid, chance.choice(list(EndReason)), "by chance", kept=chance.random() < 0.5)
        case _:
            with pytest.MonkeyPatch.context():
                await scene.call(chance.choice(VERBS)(name=name))


async def rest(scene: Scene) -> None:
    """Nothing goes wrong any more: soon nothing is under way."""
    scene.fake.faults.calm()
    async with asyncio.timeout(7_200):
        quiet = 0
        while quiet < 3:
            await asyncio.sleep(60)
            found = [await scene.status(name) for name in NAMES]
            busy = any(one.operation or set(one.conditions) & {"DUE", "NOT KNOWN", "ZOMBIE"} for one in found)
            quiet = 0 if busy else quiet + 1


async def agree(scene: Scene) -> None:
    """Status, hypervisor, record, saved states, devices and journal say the same."""
    site = scene.opened[-1].site
    assert not site.operations.open
    assert site.starts.taken == site.calls.taken == 0
    for name in NAMES:
        status = await scene.status(name)
        run = (await scene.fake.look(status.uuid))[status.uuid].run
        kept = site.records.known.get(status.uuid, KeptIs(None, 0)).record or OwnerRecord(node="n1")
        linked = {device for uuid, device in scene.devices.open if uuid == status.uuid}
        image = site.saved_path(status.uuid).exists()
        assert image is bool(kept.saved), (status, kept)
        assert kept.run is (run is not None), (status, kept)
        assert not kept.deleting
        if run is None:
            assert status.state in (State.DEFINED, State.SUSPENDED, State.FAILED), status
            assert (status.state is State.SUSPENDED) is (bool(kept.saved) and not kept.failed)
            assert linked == set(), status
        elif run.activity is Activity.ENDED:
            assert status.state is State.CRASHED, status
        else:
            assert status.state is SHOWN[run.activity], status
            assert status.incarnation == run.run.incarnation <= max(kept.incarnation, run.run.incarnation)
            assert linked == {one.id for one in run.devices}, status
            assert not kept.saved


def history(folder: Path, seed: int) -> None:
    chance = random.Random(seed)

    async def scenario(scene: Scene) -> None:
        for name in NAMES:
            await scene.apply(name, disks=[disk()], shutdown_timeout_s=10)
        for _ in range(40):
            try:
                await something(scene, chance)
            except ManorError as error:
                assert error.kind in (Kind.DENIED_STATE, Kind.NO_CAPACITY), error  # noqa: PT017 - a refusal
            await asyncio.sleep(chance.choice((0.0, 0.1, 1.0, 10.0, 60.0)))
        await rest(scene)
        await agree(scene)

    on_stage(folder, scenario, seed=seed, options={"fake": {"hostile": str(seed)}})


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_at_rest_all_witnesses_agree(tmp_path: Path, seed: int) -> None:
    history(tmp_path, seed)


# --- the core takes everything at any time ------------------------------------------------------------------

ERROR = ErrorBody(kind=Kind.TIMEOUT, message="no answer")
DOCUMENT = Domain(metadata=Metadata(name="web", uuid="u1", revision=1))
PLACE = Place("n1", "b1", {"fake": frozenset(Feature)}, "fake")


def seen(activity: Activity | None, incarnation: int = 1) -> Seen:
    if activity is None:
        return Seen("u1", incarnation)
    end = EndReason.CRASH if activity is Activity.ENDED else None
    run = SeenRun(Run("u1", incarnation), 1, "web", activity, spec=DOCUMENT.spec, end=end)
    return Seen("u1", incarnation, run)


EVENTS: tuple[Any, ...] = (
    Asked(Doing("o2", "destroy")),
    Cancelled("o1", ERROR),
    WishIs(None),
    WishIs(DOCUMENT),
    KeptIs(None, 0),
    KeptIs(OwnerRecord(node="n1", incarnation=2), 9),
    KeptIs(OwnerRecord(node="n2", token=2), 9),
    *(SeenIs("fake", seen(activity, number)) for activity in (None, *Activity) for number in (1, 2)),
    SeenIs("", replace(seen(None), unknown="it does not say")),
    LinkIs((1, "root"), None),
    *(StepEnded(Step(act), error) for act in Act for error in (None, ERROR)),
    NeedsAre(("db",), ("shop",), "u2"),
    PlaceIs(replace(PLACE, phase="closing")),
    Hint(heard=True),
    Progress(0.5),
    Tick(),
)


@pytest.mark.parametrize("kind", FORWARD)
def test_every_event_is_taken_in_every_kind_of_operation(kind: str) -> None:
    for activity, begun, back, busy in itertools.product(
        (None, *Activity), (False, True), (None, ERROR), ("", "do", "look")
    ):
        arguments = Arguments(device="root", new_name="shop", amount=512)
        doing = Doing("o1", kind, arguments, begun=begun, back=back, incarnation=2 if begun else 0)
        record = OwnerRecord(node="n1", incarnation=1, run=activity is not None)
        there = Core(
            "u1", PLACE, "web", DOCUMENT, record, 5, hypervisor="fake", seen=seen(activity), doing=doing,
            busy=busy,  # type: ignore[arg-type]
            stale=False,
        )  # fmt: skip
        for event in EVENTS:
            after, actions = step(there, event, Now(100.0, 100.0))
            assert isinstance(after, Core)
            assert len(actions) < 200


# --- without a law, somebody disagrees ----------------------------------------------------------------------


def caught(folder: Path) -> bool:
    for seed in range(HISTORIES):
        try:
            history(folder / str(seed), seed)
        except (AssertionError, TimeoutError):
            return True
    return False


def test_without_a_look_after_what_did_not_plainly_work_it_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = taking.TAKE[StepEnded]

    def believing(core: Core, event: StepEnded, now: Now) -> Any:
        after, actions = taken(core, event, now)
        return replace(after, stale=core.stale), actions

    monkeypatch.setattr(module, "TAKE", {**taking.TAKE, StepEnded: believing})
    assert caught(tmp_path)


def test_without_tidying_it_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "tidy", lambda core: None)
    assert caught(tmp_path)
