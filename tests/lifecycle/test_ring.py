"""What a console printed is kept by number, as far as there is room."""

from hypothesis import given
from hypothesis import strategies as st

from manor_lifecycle.ring import Ring


def test_bytes_are_numbered_from_the_beginning():
    ring = Ring()
    assert ring.add(0, b"hello") == b"hello"
    assert ring.since(1, 3) == (1, b"ell")
    assert ring.end == 5


def test_what_was_taken_already_is_not_taken_again():
    ring = Ring()
    ring.add(0, b"hello")
    assert ring.add(3, b"lo world") == b" world"
    assert ring.since(0, 100) == (0, b"hello world")


def test_a_hole_makes_what_was_before_it_useless():
    ring = Ring()
    ring.add(0, b"hello")
    ring.add(100, b"world")
    assert ring.since(0, 100) == (100, b"world")


@given(pieces=st.lists(st.binary(max_size=40)), kept=st.integers(1, 50))
def test_the_last_bytes_are_kept_under_their_numbers(pieces, kept):
    ring, whole = Ring(kept=kept), b""
    for piece in pieces:
        ring.add(len(whole), piece)
        whole += piece
    assert ring.end == len(whole)
    assert ring.since(0, 1000) == (max(0, len(whole) - kept), whole[-kept:] if whole else b"")
