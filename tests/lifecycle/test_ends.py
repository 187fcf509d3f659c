"""What becomes of a run that ended by itself."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from manor_bus.wire.messages.config import OwnerRecord
from manor_bus.wire.messages.documents import Domain, DomainSpec, Metadata, OnEnd, RunPolicy
from manor_lifecycle.domain.ends import (
    CRASHES_MAX,
    REBOOT_DELAY_S,
    REBOOT_DELAY_S_MAX,
    SHORT_RUN_S,
    End,
    Verdict,
    decide,
)
from manor_lifecycle.domain.going import resumed
from manor_lifecycle.domain.plans import next_step
from manor_lifecycle.domain.steps import Act, GiveUp, Step
from manor_lifecycle.domain.values import Core, Doing, Now, Place
from manor_lifecycle.hypervisors.seen import EndReason, LastEnd, Seen

NOW = Now(10_000.0, 0.0)


def verdict(
    reason: EndReason, spec: DomainSpec | None, *, ran_s: float = 1_000, remains: bool = True, **kept: object
) -> Verdict:
    document = Domain(metadata=Metadata(name="web", uuid="u1"), spec=spec) if spec is not None else None
    record = msgspec.structs.replace(OwnerRecord(node="n1", incarnation=1, run=True), **kept)
    core = Core("u1", Place("n1"), "web", document, record, 1, began=NOW.at - ran_s)
    return decide(core, End(1, reason, remains=remains), NOW)


def test_the_default_policies_are_the_documented_ones() -> None:
    kinds = {reason: verdict(reason, DomainSpec()).kind for reason in EndReason}
    assert kinds == {
        EndReason.POWEROFF: "end", EndReason.REBOOT: "restart", EndReason.CRASH: "end",
        EndReason.WATCHDOG: "end", EndReason.DEVICE_MODEL: "end",
        EndReason.KILLED: "end", EndReason.OUT_OF_MEMORY: "end",
        EndReason.UNKNOWN: "",
    }  # fmt: skip


@pytest.mark.parametrize("reason", [EndReason.KILLED, EndReason.OUT_OF_MEMORY])
def test_an_end_from_outside_is_no_crash_of_a_loop(reason: EndReason) -> None:
    again = verdict(reason, DomainSpec(run=RunPolicy.ALWAYS), ran_s=1, crashes=CRASHES_MAX - 1)
    assert (again.kind, again.arguments.crashes) == ("restart", CRASHES_MAX - 1)


@pytest.mark.parametrize("reason", [EndReason.POWEROFF, EndReason.CRASH, EndReason.DEVICE_MODEL])
def test_a_domain_that_always_runs_is_started_again(reason: EndReason) -> None:
    assert verdict(reason, DomainSpec(run=RunPolicy.ALWAYS)).kind == "restart"


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (EndReason.POWEROFF, "end"),
        (EndReason.CRASH, "restart"),
        (EndReason.OUT_OF_MEMORY, "restart"),
        (EndReason.KILLED, "end"),
    ],
)
def test_what_starts_with_the_node_is_restarted_after_a_crash_alone(reason: EndReason, kind: str) -> None:
    assert verdict(reason, DomainSpec(run=RunPolicy.ON_BOOT)).kind == kind


@pytest.mark.parametrize("spec", [DomainSpec(run=RunPolicy.ALWAYS), DomainSpec(on_reboot=OnEnd.RESTART)])
@pytest.mark.parametrize("kept", [{"stopped": True}, {"failed": "CRASH_LOOP"}, {"saved": "saved/u1.state"}])
def test_what_somebody_stopped_or_saved_or_must_look_at_stays_off(
    spec: DomainSpec, kept: dict[str, object]
) -> None:
    assert verdict(EndReason.REBOOT, spec, **kept).kind == "end"


def test_a_run_that_was_ended_is_not_followed_by_another() -> None:
    assert verdict(EndReason.REBOOT, DomainSpec(run=RunPolicy.ALWAYS), ended=1).kind == "end"


def test_a_halted_domain_is_not_restarted_by_its_reboot() -> None:
    assert verdict(EndReason.REBOOT, DomainSpec(run=RunPolicy.HALTED)).kind == "end"


def test_a_crash_loop_ends_with_an_operator() -> None:
    spec, crashes = DomainSpec(on_crash=OnEnd.RESTART), 0
    for _ in range(CRASHES_MAX - 1):
        again = verdict(EndReason.CRASH, spec, ran_s=1, crashes=crashes)
        assert again.kind == "restart"
        crashes = again.arguments.crashes
    last = verdict(EndReason.CRASH, spec, ran_s=1, crashes=crashes)
    assert last.kind == "end"
    assert "CRASH_LOOP" in last.arguments.failed


def test_a_long_run_forgives_earlier_crashes() -> None:
    spec = DomainSpec(on_crash=OnEnd.RESTART)
    again = verdict(EndReason.CRASH, spec, ran_s=SHORT_RUN_S, crashes=CRASHES_MAX)
    assert (again.kind, again.arguments.crashes) == ("restart", 0)


def test_quick_reboots_are_delayed_more_each_time_up_to_a_bound() -> None:
    delays, reboots = [], 0
    for _ in range(20):
        again = verdict(EndReason.REBOOT, DomainSpec(), ran_s=1, reboots=reboots)
        reboots = again.arguments.reboots
        delays.append(again.arguments.delay_s)
    assert delays[:3] == [0, REBOOT_DELAY_S, 2 * REBOOT_DELAY_S]
    assert delays == sorted(delays)
    assert delays[-1] == REBOOT_DELAY_S_MAX


def test_a_core_dump_needs_remains_and_never_blocks_the_policy() -> None:
    spec = DomainSpec(on_crash=OnEnd.COREDUMP_DESTROY)
    assert verdict(EndReason.CRASH, spec).arguments.dump
    nothing = verdict(EndReason.CRASH, spec, remains=False)
    assert (nothing.arguments.dump, nothing.kind) == (False, "end")
    assert "no core dump" in nothing.said


def test_without_a_document_nothing_is_restarted() -> None:
    assert verdict(EndReason.REBOOT, None).kind == ""
    assert verdict(EndReason.REBOOT, None, remains=False).kind == "end"


def test_rename_restart_is_preserved_and_says_why() -> None:
    kept = verdict(EndReason.CRASH, DomainSpec(on_crash=OnEnd.RENAME_RESTART))
    assert kept.kind == ""
    assert "rename-restart" in kept.said


def test_how_long_a_run_was_is_not_asked_of_a_clock_that_people_set() -> None:
    spec = DomainSpec(on_crash=OnEnd.RESTART)
    document = Domain(metadata=Metadata(name="web", uuid="u1"), spec=spec)
    core = Core("u1", Place("n1"), "web", document, OwnerRecord(node="n1", incarnation=1), 1, began=0.0)
    for wall in (0.0, 1e9):
        again = decide(replace(core), End(1, EndReason.CRASH), Now(SHORT_RUN_S * 2, wall))
        assert again.arguments.crashes == 0


@pytest.mark.parametrize(
    ("ended", "number"),
    [(None, 3), (LastEnd(1, EndReason.POWEROFF), 3), (LastEnd(2, EndReason.POWEROFF), 2)],
    ids=["it never was", "another one ended before", "it ran and ended"],
)
def test_a_start_whose_service_ended_while_it_made_the_run_goes_on_under_the_next_number(
    ended: LastEnd | None, number: int
) -> None:
    wish = Domain(metadata=Metadata(name="web", uuid="u1"), spec=DomainSpec(hypervisor="fake"))
    place = Place("n1", hypervisors={"fake": frozenset()})
    core = Core(
        "u1", place, "web", wish, OwnerRecord(node="n1", incarnation=2), 1, seen=Seen("u1", 2, None, ended)
    )
    doing = resumed(core, Doing("o1", "start", begun=True, incarnation=2), NOW)
    found = next_step(replace(core, doing=doing), doing, NOW)
    assert doing.incarnation == number
    assert found == Step(Act.CLAIM) if number == 3 else isinstance(found, GiveUp)
