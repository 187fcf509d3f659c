"""A window and a queue that one principal cannot keep from the others."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from manor_bus.broker import admission
from manor_bus.broker.admission import AdmissionQueue
from tests.testkit.chance import SEARCH


@dataclass(frozen=True)
class Named:
    """A call, by name."""

    name: str
    deadline: float = field(default=10.0, compare=False)


def fill(made, label, count, size=1, start=0, deadline=10.0):
    """Take calls named label + number; returns the names of the refused."""
    refused = []
    for number in range(start, start + count):
        refused += made.take(Named(f"{label}{number}", deadline), label, b"x" * size)
    return [one.name for one in refused]


def flying(made):
    return [one.name for one in made.in_flight]


def waiting(made):
    return [one.name for one, _ in made.waiting()]


def leave(made, name, now=0.0):
    return [one.name for one, _ in made.leave(Named(name), name[0], now)]


def test_one_principal_has_at_most_half_of_the_window():
    made = AdmissionQueue(4, 10)
    fill(made, "a", 3)
    assert flying(made) == ["a0", "a1"]
    fill(made, "b", 3)
    assert flying(made) == ["a0", "a1", "b0", "b1"]
    assert (made.queued, len(made)) == (2, 6)


def test_a_window_of_one_still_lets_one_call_through():
    made = AdmissionQueue(1, 10)
    fill(made, "a", 2)
    assert flying(made) == ["a0"]


def test_those_who_wait_take_turns_and_keep_their_own_order():
    made = AdmissionQueue(2, 100)
    fill(made, "a", 4)
    fill(made, "b", 4)
    fill(made, "c", 2)
    order = []
    while made.in_flight:
        order += leave(made, flying(made)[0])
    assert sorted(order) == ["a1", "a2", "a3", "b1", "b2", "b3", "c0", "c1"]
    for label in "abc":
        mine = [name for name in order if name.startswith(label)]
        assert mine == sorted(mine)
    assert {name[0] for name in order[:3]} == {"a", "b", "c"}


def test_nobody_overtakes_its_own_waiting_calls():
    made = AdmissionQueue(2, 100)
    fill(made, "a", 2)
    assert flying(made) == ["a0"]
    assert leave(made, "a0") == ["a1"]
    fill(made, "a", 1, start=2)
    assert flying(made) == ["a1"]


def test_in_a_full_queue_who_has_most_in_it_gives_way():
    made = AdmissionQueue(2, 4)
    assert fill(made, "a", 6) == ["a5"]
    assert fill(made, "b", 2) == ["a4"]
    assert fill(made, "b", 1, start=2) == ["a3"]
    assert fill(made, "b", 1, start=3) == ["b3"]
    assert waiting(made) == ["a1", "a2", "b1", "b2"]


def test_the_queue_is_bounded_in_bytes(monkeypatch):
    monkeypatch.setattr(admission, "QUEUED_BYTES_MAX", 100)
    made = AdmissionQueue(2, 1_000)
    assert fill(made, "a", 4, size=40) == ["a3"]
    assert made.queued_bytes == 80
    assert fill(made, "b", 2, size=40) == ["a2"]


def test_a_call_that_is_larger_than_the_whole_queue_gives_way_to_all(monkeypatch):
    monkeypatch.setattr(admission, "QUEUED_BYTES_MAX", 100)
    made = AdmissionQueue(1, 1_000)
    fill(made, "a", 1)
    assert fill(made, "a", 1, size=101, start=1) == ["a1"]
    assert (made.queued, made.queued_bytes) == (0, 0)


def test_whose_budget_is_over_is_passed_over():
    made = AdmissionQueue(1, 10)
    fill(made, "a", 1)
    fill(made, "a", 1, start=1, deadline=5.0)
    fill(made, "a", 1, start=2)
    assert leave(made, "a0", now=5.0) == ["a2"]
    assert made.queued == 0


def test_a_waiting_call_may_leave():
    made = AdmissionQueue(1, 10)
    fill(made, "a", 3)
    assert leave(made, "a1") == []
    assert leave(made, "a1") == []
    assert leave(made, "a0") == ["a2"]


def test_what_waits_can_be_cleared():
    made = AdmissionQueue(1, 10)
    fill(made, "a", 3)
    made.clear_queue()
    assert (made.waiting(), made.queued, made.queued_bytes, flying(made)) == ([], 0, 0, ["a0"])


@SEARCH
@given(
    window=st.integers(1, 6), limit=st.integers(0, 5),
    steps=st.lists(st.one_of(st.sampled_from("abc"), st.integers(0, 20)), max_size=60),
)  # fmt: skip
def test_what_is_counted_is_what_is_there(window, limit, steps):
    """Letters let a call of that principal in, numbers let one of those inside leave."""
    made: AdmissionQueue[Named] = AdmissionQueue(window, limit)
    inside: dict[str, str] = {}
    for count, step in enumerate(steps):
        if isinstance(step, str):
            name = f"{step}{count:03}"
            refused = made.take(Named(name), step, name.encode())
            inside[name] = step
            for one in refused:
                assert one not in made.in_flight
                del inside[one.name]
        elif inside:
            name = sorted(inside)[step % len(inside)]
            made.leave(Named(name), inside.pop(name), 0.0)
        assert sorted([*flying(made), *waiting(made)]) == sorted(inside)
        assert (made.queued, made.queued_bytes) == (len(waiting(made)), sum(map(len, waiting(made))))
        assert len(made.in_flight) <= window
        assert made.queued <= limit
        if len(made.in_flight) < window:  # nobody waits for room that is there
            flown = [name[0] for name in flying(made)]
            assert all(flown.count(name[0]) >= max(1, window // 2) for name in waiting(made))
