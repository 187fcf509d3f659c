import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor_cli.runner.restarts import HEALTHY_S, PAUSE_MAX_S, pause


def test_a_service_that_keeps_dying_is_started_ever_later_but_never_given_up():
    failures, pauses = 0, []
    for _ in range(12):
        failures, seconds = pause(failures, 0.1, wished=False)
        pauses.append(seconds)
    assert pauses[0] == 0.0
    assert pauses == sorted(pauses)
    assert pauses[-1] == PAUSE_MAX_S


def test_a_healthy_run_makes_the_pauses_begin_anew():
    assert pause(9, HEALTHY_S, wished=False) == (1, 0.0)


def test_what_ended_as_it_should_is_started_at_once():
    assert pause(9, 1.0, wished=True) == (0, 0.0)


@pytest.mark.parametrize("failures", [0, 1, 2, 10, 100_000])
def test_a_pause_is_bounded(failures):
    assert 0.0 <= pause(failures, 0.0, wished=False)[1] <= PAUSE_MAX_S


@given(st.lists(st.tuples(st.floats(0, 60), st.booleans())))
def test_a_service_waits_only_after_failures_in_a_row(ends):
    failures = 0
    for lasted, wished in ends:
        failures, seconds = pause(failures, lasted, wished=wished)
        assert (seconds > 0.0) == (failures > 1)
