from manor_bus.broker import ring
from manor_bus.broker.ring import Ring


def filled(count, size=10):
    made = Ring()
    for number in range(1, count + 1):
        made.add(float(number), "s", f"x.{number % 2}", b"e" * size)
    return made


def test_events_are_numbered_from_one_and_read_in_order():
    listed = filled(3).read(">", 0, 10)
    assert [(event.n, event.at) for event in listed.events] == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert (listed.first, listed.last) == (1, 3)


def test_reading_goes_on_after_a_number_and_under_a_pattern():
    assert [event.n for event in filled(6).read("x.1", 2, 10).events] == [3, 5]


def test_the_answer_is_bounded_in_number_and_bytes():
    assert len(filled(50).read(">", 0, 7).events) == 7
    listed = filled(20, size=100_000).read(">", 0, 100)
    assert sum(len(event.envelope) for event in listed.events) <= ring.ANSWER_BYTES_MAX
    assert len(listed.events) == 7


def test_an_event_too_large_for_the_answer_does_not_hide_those_behind_it():
    made = Ring()
    made.add(1.0, "s", "x.big", b"e" * 1_000_000)
    made.add(2.0, "s", "x.small", b"e")
    assert [(event.n, event.envelope) for event in made.read(">", 0, 10).events] == [(1, b""), (2, b"e")]


def test_the_oldest_make_room_for_the_newest(monkeypatch):
    monkeypatch.setattr(ring, "EVENTS_MAX", 5)
    made = filled(12)
    assert len(made) == 5
    assert (made.read(">", 0, 99).first, made.last) == (8, 12)


def test_bytes_are_bounded_too(monkeypatch):
    monkeypatch.setattr(ring, "BYTES_MAX", 100)
    assert len(filled(12, size=30)) == 3


def test_an_empty_ring_says_so():
    listed = Ring().read(">", 0, 10)
    assert (listed.events, listed.first, listed.last) == ((), 1, 0)
