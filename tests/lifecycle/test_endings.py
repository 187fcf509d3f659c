from __future__ import annotations

import pytest

from manor_bus.wire.messages.documents import DomainSpec, OnEnd, RunPolicy
from manor_lifecycle.endings import CRASHES_MAX, REBOOT_DELAY_S, REBOOT_DELAY_S_MAX, SHORT_RUN_S, Run, decide
from manor_lifecycle.hypervisors import EndReason
from manor_lifecycle.machine import Trigger


def run(
    reason: EndReason,
    *,
    ran_s: float = 1_000,
    kept: bool = True,
    stopped: bool = False,
    crashes: int = 0,
    reboots: int = 0,
) -> Run:
    return Run(reason, "", ran_s, kept, stopped, crashes, reboots)


def test_the_default_policies_are_the_documented_ones() -> None:
    triggers = {reason: decide(run(reason), DomainSpec()).trigger for reason in EndReason}
    assert triggers == {
        EndReason.POWEROFF: Trigger.END, EndReason.REBOOT: Trigger.RESTART, EndReason.CRASH: Trigger.END,
        EndReason.WATCHDOG: Trigger.END, EndReason.DEVICE_MODEL: Trigger.END,
        EndReason.KILLED: Trigger.END, EndReason.OUT_OF_MEMORY: Trigger.END,
        EndReason.UNKNOWN: Trigger.PRESERVE,
    }  # fmt: skip


@pytest.mark.parametrize("reason", [EndReason.KILLED, EndReason.OUT_OF_MEMORY])
def test_an_end_from_outside_is_no_crash_of_a_loop(reason: EndReason) -> None:
    again = decide(run(reason, ran_s=1, crashes=CRASHES_MAX - 1), DomainSpec(run=RunPolicy.ALWAYS))
    assert (again.trigger, again.crashes) == (Trigger.RESTART, CRASHES_MAX - 1)


@pytest.mark.parametrize("reason", [EndReason.POWEROFF, EndReason.CRASH, EndReason.DEVICE_MODEL])
def test_a_domain_that_always_runs_is_started_again(reason: EndReason) -> None:
    assert decide(run(reason), DomainSpec(run=RunPolicy.ALWAYS)).trigger is Trigger.RESTART


@pytest.mark.parametrize("spec", [DomainSpec(run=RunPolicy.ALWAYS), DomainSpec(on_reboot=OnEnd.RESTART)])
def test_what_somebody_stopped_stays_stopped(spec: DomainSpec) -> None:
    assert decide(run(EndReason.REBOOT, stopped=True), spec).trigger is Trigger.END


def test_a_halted_domain_is_not_restarted_by_its_reboot() -> None:
    assert decide(run(EndReason.REBOOT), DomainSpec(run=RunPolicy.HALTED)).trigger is Trigger.END


def test_a_crash_loop_ends_with_an_operator() -> None:
    spec = DomainSpec(on_crash=OnEnd.RESTART)
    crashes = 0
    for _ in range(CRASHES_MAX - 1):
        ending = decide(run(EndReason.CRASH, ran_s=1, crashes=crashes), spec)
        assert ending.trigger is Trigger.RESTART
        crashes = ending.crashes
    last = decide(run(EndReason.CRASH, ran_s=1, crashes=crashes), spec)
    assert last.trigger is Trigger.GIVE_UP
    assert "CRASH_LOOP" in last.reason


def test_a_long_run_forgives_earlier_crashes() -> None:
    spec = DomainSpec(on_crash=OnEnd.RESTART)
    ending = decide(run(EndReason.CRASH, ran_s=SHORT_RUN_S, crashes=CRASHES_MAX), spec)
    assert (ending.trigger, ending.crashes) == (Trigger.RESTART, 0)


def test_quick_reboots_are_delayed_more_each_time_up_to_a_bound() -> None:
    delays, reboots = [], 0
    for _ in range(20):
        ending = decide(run(EndReason.REBOOT, ran_s=1, reboots=reboots), DomainSpec())
        reboots = ending.reboots
        delays.append(ending.delay_s)
    assert delays[:3] == [0, REBOOT_DELAY_S, 2 * REBOOT_DELAY_S]
    assert delays == sorted(delays)
    assert delays[-1] == REBOOT_DELAY_S_MAX


def test_a_core_dump_needs_remains_and_never_blocks_the_policy() -> None:
    spec = DomainSpec(on_crash=OnEnd.COREDUMP_DESTROY)
    assert decide(run(EndReason.CRASH), spec).dump
    nothing = decide(run(EndReason.CRASH, kept=False), spec)
    assert (nothing.dump, nothing.trigger) == (False, Trigger.END)
    assert "no core dump" in nothing.reason


def test_without_a_document_nothing_is_restarted() -> None:
    assert decide(run(EndReason.REBOOT), None).trigger is Trigger.PRESERVE
    assert decide(run(EndReason.REBOOT, kept=False), None).trigger is Trigger.END


def test_rename_restart_is_preserved_and_says_why() -> None:
    ending = decide(run(EndReason.CRASH), DomainSpec(on_crash=OnEnd.RENAME_RESTART))
    assert ending.trigger is Trigger.PRESERVE
    assert "rename-restart" in ending.reason
