from __future__ import annotations

from manor_bus.wire.errors import Kind
from manor_bus.wire.messages.lifecycle import State
from manor_lifecycle.machine import Trigger
from manor_lifecycle.operations import QUEUE_MAX, Already, No, Waiting, Yes, admit, expected
from manor_lifecycle.plan import Arguments

NOTHING = Arguments()


def waiting(*kinds: str) -> list[Waiting]:
    return [Waiting(f"op{n}", kind, NOTHING) for n, kind in enumerate(kinds)]


def test_a_legal_verb_is_admitted() -> None:
    assert admit(State.DEFINED, [], Trigger.START, NOTHING) == Yes()


def test_an_illegal_verb_is_refused_with_the_state() -> None:
    refused = admit(State.DEFINED, [], Trigger.PAUSE, NOTHING)
    assert isinstance(refused, No)
    assert refused.error.kind is Kind.DENIED_STATE
    assert "DEFINED" in refused.error.message


def test_what_is_so_already_is_said_so() -> None:
    assert admit(State.PAUSED, [], Trigger.PAUSE, NOTHING) == Already()


def test_the_same_request_again_joins_the_one_under_way() -> None:
    assert admit(State.DEFINED, waiting("start"), Trigger.START, NOTHING) == Already("op0")


def test_a_request_is_judged_by_where_the_queue_leads() -> None:
    assert admit(State.DEFINED, waiting("start"), Trigger.PAUSE, NOTHING) == Yes()
    assert isinstance(admit(State.RUNNING, waiting("shutdown"), Trigger.PAUSE, NOTHING), No)


def test_destroy_goes_before_what_waits() -> None:
    assert admit(State.RUNNING, waiting("shutdown"), Trigger.DESTROY, NOTHING) == Yes(preempt=True)


def test_the_queue_of_a_domain_is_bounded() -> None:
    many = [Waiting(f"op{n}", kind, NOTHING) for n, kind in enumerate(["pause", "resume"] * (QUEUE_MAX // 2))]
    refused = admit(State.RUNNING, many, Trigger.PAUSE, NOTHING)
    assert isinstance(refused, No)
    assert refused.error.kind is Kind.NO_CAPACITY


def test_expectations_follow_the_queue() -> None:
    assert expected(State.DEFINED, waiting("start", "pause", "save")) is State.SUSPENDED
    paused = [Waiting("op", "start", Arguments(paused=True))]
    assert expected(State.DEFINED, paused) is State.PAUSED
    assert expected(State.RUNNING, waiting("rename")) is State.RUNNING
