from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor_cli import restarts
from manor_cli.restarts import Action, Child, Ended, Phase, Release, Spawned, Stop, Tick, step

RUNNING = Child("config", phase=Phase.RUNNING, pid=7, started=100.0)
CRASH = Ended("SIGKILL")


def test_a_new_child_is_started_at_the_first_tick():
    assert step(Child("config"), Tick(), 0.0) == (Child("config"), (Action.SPAWN,))


def test_a_killed_child_is_started_again_at_once():
    child, actions = step(RUNNING, CRASH, 110.0)
    assert (child.phase, child.due, child.pid, child.restarts) == (Phase.WAITING, 110.0, 0, 1)
    assert actions == ()
    assert step(child, Tick(), 110.0)[1] == (Action.SPAWN,)


def test_a_child_that_keeps_dying_is_started_ever_later_but_never_given_up():
    child, delays = RUNNING, []
    now = 100.0
    for _ in range(12):
        child, _ = step(child, CRASH, now)
        delays.append(round(child.due - now, 6))
        now = child.due
        child, _ = step(child, Spawned(8), now)
    assert delays[0] == 0.0
    assert delays == sorted(delays)
    assert delays[-1] == restarts.DELAY_MAX_S
    assert child.restarts == 12


def test_a_healthy_run_makes_the_delay_begin_anew():
    child = replace(RUNNING, failures=9)
    child, _ = step(child, CRASH, RUNNING.started + restarts.HEALTHY_S)
    assert child.due == RUNNING.started + restarts.HEALTHY_S


def test_a_child_that_drained_and_left_with_zero_is_replaced_at_once():
    child, _ = step(replace(RUNNING, failures=9), Ended("exit code 0", clean=True), 101.0)
    assert (child.phase, child.due, child.failures) == (Phase.WAITING, 101.0, 0)


def test_a_program_that_cannot_even_be_started_is_tried_again_later():
    child = Child("config", failures=3)
    child, _ = step(child, Ended("cannot be started"), 0.0)
    assert child.phase is Phase.WAITING
    assert child.due > 0.0


def test_told_to_stop_it_gets_a_signal_then_force_and_is_not_started_again():
    child, actions = step(RUNNING, Stop(10.0), 200.0)
    assert (child.phase, actions) == (Phase.STOPPING, (Action.TERMINATE,))
    assert step(child, Tick(), 209.9) == (child, ())
    child, actions = step(child, Tick(), 210.0)
    assert actions == (Action.KILL,)
    child, actions = step(child, CRASH, 210.1)
    assert (child.phase, actions) == (Phase.ENDED, ())
    assert step(child, Tick(), 999.0) == (child, ())


def test_told_to_restart_it_is_stopped_and_started_again_without_delay():
    child, _ = step(replace(RUNNING, failures=5), Stop(10.0, again=True), 200.0)
    child, _ = step(child, Ended("SIGTERM"), 201.0)
    assert (child.phase, child.due) == (Phase.WAITING, 201.0)


def test_a_stop_during_a_restart_wins():
    child, _ = step(RUNNING, Stop(10.0, again=True), 200.0)
    child, _ = step(child, Stop(10.0), 200.5)
    assert step(child, CRASH, 201.0)[0].phase is Phase.ENDED


def test_a_child_that_waits_for_its_start_stops_at_once():
    assert step(Child("config"), Stop(10.0), 0.0)[0].phase is Phase.ENDED
    assert step(Child("config"), Release(), 0.0)[0].phase is Phase.ENDED


def test_a_released_child_runs_on_and_is_not_missed():
    child, actions = step(RUNNING, Release(), 150.0)
    assert (child.phase, actions) == (Phase.RUNNING, ())
    assert step(child, CRASH, 160.0)[0].phase is Phase.ENDED


EVENTS = st.sampled_from(
    [Tick(), Spawned(9), CRASH, Ended("0", clean=True), Stop(5.0), Stop(5.0, again=True), Release()]
)


@given(st.lists(st.tuples(EVENTS, st.floats(0, 30)), max_size=30))
def test_whatever_happens_a_child_without_a_process_is_never_signalled_and_the_unwanted_ends(events):
    child, now = Child("x"), 0.0
    for event, passed in events:
        now += passed
        child, actions = step(child, event, now)
        if Action.TERMINATE in actions or Action.KILL in actions:
            assert child.pid != 0
        assert (child.pid != 0) == (child.phase in (Phase.RUNNING, Phase.STOPPING))
        if child.phase is Phase.ENDED:
            assert not child.wanted
        if child.phase is Phase.WAITING:
            assert child.due <= now + restarts.DELAY_MAX_S


@pytest.mark.parametrize("failures", [0, 1, 2, 10, 10_000])
def test_the_delay_is_bounded(failures):
    assert 0.0 <= restarts.delay(failures) <= restarts.DELAY_MAX_S


def test_the_next_tick_is_that_of_the_child_who_waits_least():
    children = (RUNNING, Child("a", due=5.0), Child("b", phase=Phase.STOPPING, due=3.0))
    assert restarts.next_due(children) == 3.0
    assert restarts.next_due((RUNNING,)) is None
