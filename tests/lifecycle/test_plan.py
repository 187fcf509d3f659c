from __future__ import annotations

import pytest

from manor_bus.wire.messages.documents import Disk, DomainSpec, Nic
from manor_lifecycle.hypervisors import GuestState
from manor_lifecycle.plan import (
    KINDS,
    Act,
    Arguments,
    LiveChange,
    Observed,
    Step,
    describe,
    devices_of,
    make,
    progress,
    type_of,
)

SPEC = DomainSpec(
    disks=(Disk(id="root", source="/x"), Disk(id="opt", source="/y", required=False)), nics=(Nic(id="net"),)
)
FRESH = Observed.of_spec(SPEC)
RUNNING = Observed(guest=GuestState.RUNNING, devices=FRESH.devices, connected=frozenset({"root"}))


def acts(kind: str, observed: Observed, arguments: Arguments | None = None) -> list[Act]:
    return [step.act for step in make(kind, arguments or Arguments(), observed)]


def test_a_start_claims_connects_creates_and_resumes_in_this_order() -> None:
    assert acts("start", FRESH) == [
        Act.CLAIM, Act.CONNECT, Act.CONNECT, Act.CONNECT, Act.CREATE,
        Act.ANNOUNCE, Act.ANNOUNCE, Act.ANNOUNCE, Act.RESUME,
    ]  # fmt: skip


def test_a_start_without_devices_asks_nobody_for_back_ends() -> None:
    assert acts("start", Observed()) == [Act.CLAIM, Act.CREATE, Act.RESUME]


def test_a_paused_start_does_not_let_the_guest_run() -> None:
    assert Act.RESUME not in acts("start", FRESH, Arguments(paused=True))


def test_a_device_that_is_not_required_may_fail() -> None:
    optional = {
        step.device for step in make("start", Arguments(), FRESH) if step.act is Act.CONNECT and step.optional
    }
    assert optional == {"opt"}


@pytest.mark.parametrize("kind", ["start", "restore"])
def test_what_a_bring_up_makes_it_can_take_back(kind: str) -> None:
    observed = Observed(devices=FRESH.devices, saved=kind == "restore")
    for step in make(kind, Arguments(), observed):
        if step.act in (Act.CONNECT, Act.CREATE, Act.RESTORE):
            assert step.undo in (Act.RELEASE, Act.DESTROY)


def test_once_a_restored_guest_ran_its_saved_state_is_never_used_again() -> None:
    steps = make("restore", Arguments(), Observed(saved=True))
    resume = next(step for step in steps if step.act is Act.RESUME)
    assert resume.commit
    order = [step.act for step in steps]
    assert order.index(Act.FORGET_SAVED) < order.index(Act.RESUME) < order.index(Act.REMOVE_SAVED)


def test_a_save_ends_the_run_only_after_the_state_is_recorded() -> None:
    order = acts("save", RUNNING)
    assert order[:3] == [Act.SAVE, Act.KEEP, Act.DESTROY]


def test_a_shutdown_asks_and_without_force_waits_for_the_guest() -> None:
    patience = next(s for s in make("shutdown", Arguments(timeout_s=5), RUNNING) if s.act is Act.AWAIT_END)
    assert (patience.timeout_s, patience.optional) == (5, False)
    forced = make("shutdown", Arguments(force_after=True), RUNNING)
    assert next(s for s in forced if s.act is Act.AWAIT_END).optional


def test_the_shutdown_of_a_domain_that_always_runs_is_remembered_first() -> None:
    observed = Observed(guest=GuestState.RUNNING, keeps_running=True)
    first, *_ = make("shutdown", Arguments(stopped=True), observed)
    assert (first.act, first.undo) == (Act.REMEMBER_STOPPED, Act.FORGET_STOPPED)


@pytest.mark.parametrize("kind", ["pause", "resume", "save", "shutdown"])
def test_what_is_so_already_needs_no_step(kind: str) -> None:
    there = {"pause": GuestState.PAUSED, "resume": GuestState.RUNNING}
    assert make(kind, Arguments(), Observed(guest=there.get(kind))) == ()


def test_a_live_change_is_one_group_of_steps_each() -> None:
    changes = (
        LiveChange(type="memory", amount=512), LiveChange(type="plug", device="new"),
        LiveChange(type="unplug", device="old"),
    )  # fmt: skip
    order = [(step.act, step.device) for step in make("configure", Arguments(changes=changes), RUNNING)]
    assert (Act.SET_MEMORY, "") in order
    assert order.index((Act.CONNECT, "new")) < order.index((Act.PLUG, "new"))
    assert (
        order.index((Act.BEGIN_DETACH, "old"))
        < order.index((Act.UNPLUG, "old"))
        < order.index((Act.RELEASE, "old"))
    )


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_step_of_every_plan_has_a_bound_and_a_text(kind: str) -> None:
    for observed in (FRESH, RUNNING, Observed(saved=True)):
        for step in make(kind, Arguments(), observed):
            assert step.timeout_s > 0
            assert step.text


def test_progress_grows_with_the_weights_to_one() -> None:
    steps = make("start", Arguments(), FRESH)
    reached = [progress(steps, done) for done in range(len(steps) + 1)]
    assert reached == sorted(reached)
    assert (reached[0], reached[-1]) == (0.0, 1.0)
    assert progress((), 0) == 1.0
    assert progress((Step(Act.SAVE),), 0, within=2.0) == 1.0


def test_a_plan_can_be_read() -> None:
    assert describe(make("start", Arguments(), Observed())) == (
        "claim the next incarnation", "create the guest", "let the guest run",
    )  # fmt: skip
    assert [type_of(device) for device in devices_of(SPEC)] == ["disk", "disk", "nic"]
