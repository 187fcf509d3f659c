"""The life of one loadable back end: every pair of state and trigger."""

from itertools import product

import pytest

from manor_devices.loading import ENTRY, TABLE, Effect, Module, Trigger, retry_s, step

T = Trigger
STATES = ("available", "loading", "loaded", "unloading", "failed")


def module(state="available", **fields):
    return Module("nbd", "nbd", {}, state=state, **fields)


def run(start, *triggers):
    for trigger in triggers:
        outcome = step(start, trigger)
        assert outcome is not None, (start.state, trigger)
        start = outcome[0]
    return start


@pytest.mark.parametrize(("state", "trigger"), list(product(STATES, T)))
def test_every_pair_does_what_its_row_says_and_nothing_else(state, trigger):
    outcome = step(module(state), trigger, "because")
    target = TABLE.get((state, trigger))
    if target is None:
        assert outcome is None
    else:
        after, effect = outcome
        assert after.state == target
        assert effect is (ENTRY.get(target) if target != state else None)


@pytest.mark.parametrize("state", ENTRY)
def test_every_outcome_of_what_we_do_in_a_state_leaves_it(state):
    outcomes = {Effect.OPEN: (T.OPENED, T.FOUND, T.OPEN_FAILED), Effect.CLOSE: (T.CLOSED,)}
    assert all(TABLE[state, trigger] != state for trigger in outcomes[ENTRY[state]])


def test_the_epoch_grows_with_every_loading_but_not_with_a_restart_of_the_service():
    loaded = run(module(), T.LOAD, T.OPENED)
    assert loaded.epoch == 1
    assert run(loaded, T.UNLOAD, T.CLOSED, T.LOAD, T.OPENED).epoch == 2
    assert run(module(epoch=7), T.LOAD, T.FOUND).epoch == 7
    assert run(module(), T.LOAD, T.FOUND).epoch == 1


def test_what_was_asked_for_last_is_remembered():
    assert not run(module(), T.LOAD, T.OPENED, T.UNLOAD, T.CLOSED).wanted
    assert run(module(wanted=False), T.LOAD).wanted
    assert run(module("loaded"), T.DIED).wanted


def test_one_that_died_is_opened_again_ever_more_slowly_and_one_that_never_opened_is_not():
    dead = run(module("loaded"), T.DIED)
    waits = []
    for _ in range(8):
        waits.append(retry_s(dead))
        dead = run(dead, T.LOAD, T.OPEN_FAILED)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert retry_s(run(module(), T.LOAD, T.OPEN_FAILED)) is None
    assert retry_s(run(dead, T.UNLOAD)) is None
    assert run(module("loaded", deaths=3), T.STEADY).deaths == 0
