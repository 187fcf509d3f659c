"""One writer at a time."""

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_lifecycle.seat import Seat, check, leave, take


def test_the_second_writer_is_told_who_the_first_one_is():
    seat = take(Seat(), "alice", "k1", "t1", steal=False)
    with pytest.raises(ManorError, match="alice") as refused:
        take(seat, "bob", "k2", "t2", steal=False)
    assert refused.value.kind is Kind.CONFLICT


def test_a_repeated_call_finds_its_own_token():
    seat = take(Seat(), "alice", "k1", "t1", steal=False)
    assert take(seat, "alice", "k1", "t2", steal=False).token == "t1"


def test_a_stolen_place_is_known_to_who_lost_it():
    seat = take(take(Seat(), "alice", "k1", "t1", steal=False), "bob", "k2", "t2", steal=True)
    check(seat, "t2")
    with pytest.raises(ManorError, match="bob") as refused:
        check(seat, "t1")
    assert refused.value.kind is Kind.CONFLICT


@pytest.mark.parametrize("token", ["", "t9"])
def test_a_token_of_another_time_is_stale(token):
    with pytest.raises(ManorError) as refused:
        check(take(Seat(), "alice", "k1", "t1", steal=False), token)
    assert refused.value.kind is Kind.STALE


def test_only_who_sits_can_leave():
    seat = take(Seat(), "alice", "k1", "t1", steal=False)
    assert leave(seat, "t2") == seat
    assert leave(seat, "") == seat
    assert take(leave(seat, "t1"), "bob", "k2", "t2", steal=False).who == "bob"


def test_the_tokens_that_were_lost_are_remembered_within_bounds():
    seat = Seat()
    for number in range(100):
        seat = take(seat, "alice", f"k{number}", f"t{number}", steal=True)
    assert len(seat.lost) == 16
