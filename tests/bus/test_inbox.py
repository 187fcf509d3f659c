from __future__ import annotations

import msgspec
import pytest

from manor_bus.peer import duplicates as inbox
from manor_bus.peer.duplicates import Answer, DuplicateCache, Run
from manor_bus.wire.errors import ErrorBody, Kind

KEY = ("operator/admin", "lifecycle.domain.start.v1", "k1")
DONE = Answer(msgspec.Raw(b"\x80"), None)


def begun(box: DuplicateCache, key: inbox.Key = KEY, sender: str = "a", request: str = "1") -> Run:
    run = box.ask(key, sender, request)
    assert isinstance(run, Run)
    return run


def test_attempts_with_one_key_share_one_run() -> None:
    box = DuplicateCache()
    run = begun(box)
    assert begun(box, request="2") is run
    assert box.finish(run, DONE, changes=True) == [("a", "1"), ("a", "2")]


def test_a_late_attempt_gets_the_same_answer() -> None:
    box = DuplicateCache()
    box.finish(begun(box), DONE, changes=True)
    assert box.ask(KEY, "a", "2") is DONE


def test_a_question_is_answered_anew() -> None:
    box = DuplicateCache()
    box.finish(begun(box), DONE, changes=False)
    assert isinstance(box.ask(KEY, "a", "2"), Run)


@pytest.mark.parametrize("kind", [Kind.UNAVAILABLE, Kind.TIMEOUT, Kind.NO_CAPACITY, Kind.INTERNAL])
def test_a_passing_error_is_not_repeated_for_ever(kind: Kind) -> None:
    box = DuplicateCache()
    error = ErrorBody(kind=kind, message="not now")
    box.finish(begun(box), Answer(msgspec.Raw(b"\xc0"), error), changes=True)
    assert isinstance(box.ask(KEY, "a", "2"), Run)


def test_a_refusal_is_the_answer_of_its_key() -> None:
    box = DuplicateCache()
    refusal = Answer(msgspec.Raw(b"\xc0"), ErrorBody(kind=Kind.DENIED_STATE, message="no"))
    box.finish(begun(box), refusal, changes=True)
    assert box.ask(KEY, "a", "2") is refusal


def test_principals_do_not_share_keys() -> None:
    box = DuplicateCache()
    run = begun(box)
    assert begun(box, ("operator/bob", KEY[1], KEY[2]), "b") is not run


def test_a_run_nobody_waits_for_is_told() -> None:
    box = DuplicateCache()
    run = begun(box)
    begun(box, request="2")
    assert box.withdraw("a", "1") is None
    assert box.withdraw("a", "2") is run
    assert box.withdraw("a", "2") is None


def test_a_forgotten_run_is_joined_by_nobody() -> None:
    box = DuplicateCache()
    run = begun(box)
    box.forget(run)
    assert begun(box, request="2") is not run


def test_memory_of_answers_is_bounded_in_number_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "REMEMBERED_MAX", 3)
    box = DuplicateCache()
    for n in range(5):
        box.finish(begun(box, ("o", "t", str(n))), DONE, changes=True)
    assert isinstance(box.ask(("o", "t", "1"), "a", "x"), Run)
    assert box.ask(("o", "t", "4"), "a", "x") is DONE
    monkeypatch.setattr(inbox, "REMEMBERED_BYTES_MAX", 10)
    large = Answer(msgspec.Raw(b"x" * 11), None)
    box.finish(begun(box, ("o", "t", "large")), large, changes=True)
    assert isinstance(box.ask(("o", "t", "4"), "a", "y"), Run)
