from typing import get_args

from manor_bus.peer import outcomes


def test_every_outcome_is_an_event():
    made = {
        one
        for one in vars(outcomes).values()
        if isinstance(one, type) and one.__module__ == outcomes.__name__
    }
    assert made == set(get_args(outcomes.Event))
