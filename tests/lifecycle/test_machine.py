"""Every pair of state and trigger, against the rules of the specification rather than against the table."""

from __future__ import annotations

from itertools import product

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.lifecycle import State
from manor_lifecycle.machine import (
    LIVE,
    TABLE,
    TRANSIENT,
    VERBS,
    Execute,
    Publish,
    Trigger,
    knows,
    step,
    verbs,
)

PAIRS = list(product(State, Trigger))


@pytest.mark.parametrize(("state", "trigger"), PAIRS)
def test_a_pair_is_either_in_the_table_or_denied_and_changes_nothing(state: State, trigger: Trigger) -> None:
    if not knows(state, trigger):
        with pytest.raises(ManorError) as denied:
            step(state, trigger)
        assert denied.value.kind is Kind.DENIED_STATE
        assert state in denied.value.message
        return
    target, actions = step(state, trigger)
    published = [action.state for action in actions if isinstance(action, Publish)]
    assert published == ([target] if target is not state else [])
    assert len([action for action in actions if isinstance(action, Execute)]) <= 1


@pytest.mark.parametrize("state", sorted(TRANSIENT))
def test_every_transient_state_ends_whatever_the_hypervisor_shows(state: State) -> None:
    ends = {
        step(state, seen)[0] for seen in (Trigger.GONE, Trigger.RUNS, Trigger.STANDS) if knows(state, seen)
    }
    assert ends - {state}, "nothing leads out of it"
    assert knows(state, Trigger.GONE) or knows(state, Trigger.SAVED)


@pytest.mark.parametrize("state", list(State))
def test_no_state_lets_a_second_run_begin_beside_a_first(state: State) -> None:
    if knows(state, Trigger.START):
        row = TABLE[state, Trigger.START]
        assert state is State.DEFINED or row.already


def test_a_failed_domain_waits_for_an_operator() -> None:
    automatic = {Trigger.START, Trigger.RESTART, Trigger.RESTORE, Trigger.RESUME}
    assert not [trigger for trigger in automatic if knows(State.FAILED, trigger)]
    assert step(State.FAILED, Trigger.CLEAR)[0] is State.DEFINED


def test_a_foreign_domain_is_never_touched() -> None:
    assert not [trigger for trigger in VERBS if knows(State.FOREIGN, trigger)]
    assert verbs(State.FOREIGN) == ()


def test_a_lost_domain_is_not_started_by_a_verb() -> None:
    assert not [trigger for trigger in VERBS if knows(State.LOST, trigger)]


@pytest.mark.parametrize("state", sorted(LIVE))
def test_a_live_domain_is_deleted_only_by_force(state: State) -> None:
    assert not knows(state, Trigger.DELETE)
    assert knows(state, Trigger.DELETE_FORCE)


def test_an_outside_observer_sees_no_halt_between_the_runs_of_a_reboot() -> None:
    state, actions = step(State.RUNNING, Trigger.REBOOT)
    assert state is State.REBOOTING
    assert Execute("reboot") in actions
    assert step(state, Trigger.RUNS)[0] is State.RUNNING


def test_the_verbs_of_a_state_are_those_that_change_something() -> None:
    assert "start" in verbs(State.DEFINED)
    assert "start" not in verbs(State.RUNNING)
    assert {"shutdown", "pause", "save", "destroy"} <= set(verbs(State.RUNNING))
    assert "restore" in verbs(State.SUSPENDED)
    assert "start" not in verbs(State.SUSPENDED)


def test_a_denial_says_what_to_do() -> None:
    with pytest.raises(ManorError) as denied:
        step(State.SUSPENDED, Trigger.START)
    assert "Restore it" in denied.value.hint
    assert "restore" in denied.value.message
