"""Calls as the caller's library sees them: budgets, retries, honesty about the outcome."""

from typing import Any

import msgspec

from manor_bus.peer.calls import RETRY_MAX_S, ClientCalls, unreachable, unwelcome
from manor_bus.peer.events import Parted, Replied, Restarted
from manor_bus.wire.envelope import Envelope, Kind
from manor_bus.wire.errors import ErrorBody, Origin
from manor_bus.wire.errors import Kind as ErrorKind


class Caller:
    """An ClientCalls whose messages and outcomes are kept."""

    def __init__(self, *, greeted=True, same_clock=True, fits=True):
        self.now, count = 50.0, iter(range(1, 1_000))
        self.sent: list[Envelope] = []
        self.told: list[Any] = []

        def send(wire):
            if fits:
                self.sent.append(wire)
            return fits

        self.asking = ClientCalls(lambda: f"id{next(count)}", send, self.told.append)
        if greeted:
            self.asking.greeted(self.now, same_clock=same_clock)

    def call(self, timeout=2.0, *, retry=True, key=""):
        return self.asking.call(
            Envelope(k=0, to="x.do", idempotencykey=key), timeout, self.now, retry=retry, part=object
        )

    def wait(self, seconds):
        self.now += seconds
        self.asking.advance(self.now)

    def answer(self, wire=None, **error):
        """Answer the last request."""
        request = [one for one in self.sent if one.k == Kind.REQ][-1]
        err = ErrorBody(**{"message": "m", **error}) if error else None
        self.asking.reply(wire or Envelope(k=Kind.REP, re=request.id, last=True, err=err), self.now)

    def unavailable(self, delivered):
        self.answer(kind=ErrorKind.UNAVAILABLE, origin=Origin.BROKER, delivered=delivered)

    def requests(self):
        return [one for one in self.sent if one.k == Kind.REQ]

    def end(self):
        [replied] = [one for one in self.told if isinstance(one, Replied)]
        return replied


def test_a_call_is_sent_with_its_budget_its_deadline_and_its_own_id_as_key():
    caller = Caller()
    caller.call()
    [wire] = caller.sent
    assert (wire.to, wire.timeout, wire.deadline, wire.idempotencykey) == ("x.do", 2_000, 52_000, wire.id)


def test_on_another_clock_the_deadline_stays_at_home():
    caller = Caller(same_clock=False)
    caller.call()
    assert caller.sent[0].deadline == 0


def test_the_reply_ends_the_call_once():
    caller = Caller()
    token = caller.call()
    caller.answer()
    caller.answer()
    caller.wait(10)
    assert (caller.end().token, caller.end().error) == (token, None)
    assert caller.asking.next_timer() == float("inf")


def test_parts_come_before_the_end():
    caller = Caller()
    caller.call()
    caller.answer(Envelope(k=Kind.PART, re=caller.sent[0].id))
    caller.answer()
    caller.answer(Envelope(k=Kind.PART, re=caller.sent[0].id))
    assert [type(one) for one in caller.told] == [Parted, Replied]


def test_a_part_that_is_not_well_formed_ends_the_call_and_tells_the_callee():
    caller = Caller()
    caller.call()
    doubled = msgspec.Raw(b"\x82\xa1a\x01\xa1a\x02")
    caller.answer(Envelope(k=Kind.PART, re=caller.sent[0].id, data=doubled))
    assert "twice" in str(caller.end().error)
    assert caller.sent[-1].k == Kind.CANCEL


def test_a_call_before_the_greeting_waits_for_it():
    caller = Caller(greeted=False)
    caller.call()
    assert caller.sent == []
    caller.wait(0.5)
    caller.asking.greeted(caller.now, same_clock=True)
    assert caller.sent[0].timeout == 1_500


def test_a_call_that_never_left_says_so():
    caller = Caller(greeted=False)
    caller.call()
    caller.wait(2)
    error = caller.end().error
    assert (error.kind, error.delivered, error.origin) == (ErrorKind.UNAVAILABLE, False, Origin.LIBRARY)
    assert "manor up" in error.hint


def test_absence_is_tried_again_with_the_same_key_and_a_new_id_until_the_budget_ends():
    caller = Caller()
    caller.call()
    caller.unavailable(False)
    while caller.now < 52.0:
        caller.now = min(caller.asking.next_timer(), 52.0)
        caller.asking.advance(caller.now)
        if caller.now < 52.0:
            caller.unavailable(False)
    tries = caller.requests()
    assert len({wire.id for wire in tries}) == len(tries) > 5
    assert len({wire.idempotencykey for wire in tries}) == 1
    assert [wire.timeout for wire in tries] == sorted((wire.timeout for wire in tries), reverse=True)
    assert caller.end().error.delivered is False


def test_the_pause_between_tries_is_bounded():
    caller = Caller()
    caller.call(60.0)
    for _ in range(20):
        caller.unavailable(False)
        assert caller.asking.next_timer() - caller.now <= RETRY_MAX_S
        caller.wait(RETRY_MAX_S)


def test_news_of_the_service_wakes_at_once():
    caller = Caller()
    caller.call()
    caller.unavailable(False)
    caller.asking.wake(caller.now)
    assert len(caller.requests()) == 2
    caller.asking.wake(caller.now)
    assert len(caller.requests()) == 2


def test_without_retry_absence_ends_the_call():
    caller = Caller()
    caller.call(retry=False)
    caller.unavailable(False)
    assert caller.end().error.kind is ErrorKind.UNAVAILABLE


def test_what_the_service_itself_finds_unavailable_is_not_tried_again():
    caller = Caller()
    caller.call()
    caller.answer(kind=ErrorKind.UNAVAILABLE, origin=Origin.SERVICE)
    assert caller.end().error.origin is Origin.SERVICE


def test_other_errors_end_the_call_as_they_are():
    caller = Caller()
    caller.call()
    caller.answer(kind=ErrorKind.CONFLICT, origin=Origin.SERVICE)
    assert caller.end().error.kind is ErrorKind.CONFLICT


def test_after_a_try_that_may_have_run_nobody_says_that_nothing_was_done():
    caller = Caller()
    caller.call()
    caller.unavailable(True)
    caller.wait(0.5)
    caller.answer(kind=ErrorKind.NO_CAPACITY, origin=Origin.BROKER, delivered=False)
    assert caller.end().error.delivered is None


def test_after_a_lost_connection_the_outcome_is_unknown():
    caller = Caller()
    caller.call()
    caller.asking.lost()
    caller.wait(2)
    assert (caller.end().error.kind, caller.end().error.delivered) == (ErrorKind.TIMEOUT, None)


def test_after_a_lost_connection_the_call_is_made_again_and_an_old_reply_does_not_count():
    caller = Caller()
    caller.call(key="k")
    first = caller.sent[0]
    caller.asking.lost()
    caller.asking.greeted(caller.now, same_clock=True)
    caller.answer(Envelope(k=Kind.REP, re=first.id, last=True))
    assert not caller.told
    assert [wire.idempotencykey for wire in caller.requests()] == ["k", "k"]
    caller.answer()
    assert caller.end().error is None


def test_without_retry_a_lost_connection_ends_the_call():
    caller = Caller()
    caller.call(retry=False)
    caller.asking.lost()
    assert (caller.end().error.kind, caller.end().error.delivered) == (ErrorKind.UNAVAILABLE, None)
    caller.asking.greeted(caller.now, same_clock=True)
    assert len(caller.requests()) == 1


def test_when_a_try_is_repeated_its_parts_are_void():
    caller = Caller()
    caller.call()
    caller.answer(Envelope(k=Kind.PART, re=caller.sent[0].id))
    caller.unavailable(True)
    caller.wait(0.5)
    assert [type(one) for one in caller.told] == [Parted, Restarted]


def test_the_budget_ends_a_call_and_tells_the_callee():
    caller = Caller()
    caller.call()
    caller.wait(2)
    assert (caller.end().error.kind, caller.end().error.delivered) == (ErrorKind.TIMEOUT, None)
    assert (caller.sent[-1].k, caller.sent[-1].re) == (Kind.CANCEL, caller.requests()[0].id)


def test_a_call_without_budget_is_never_sent():
    caller = Caller()
    caller.call(0.0)
    caller.wait(0)
    assert caller.requests() == []
    assert (caller.end().error.kind, caller.end().error.delivered) == (ErrorKind.TIMEOUT, False)


def test_a_withdrawn_call_is_heard_of_no_more():
    caller = Caller()
    token = caller.call()
    caller.asking.cancel(token)
    caller.asking.cancel(token)
    assert [wire.k for wire in caller.sent] == [Kind.REQ, Kind.CANCEL]
    caller.answer()
    caller.wait(5)
    assert caller.told == []


def test_a_request_that_fits_no_frame_ends_at_once():
    caller = Caller(fits=False)
    caller.call()
    assert (caller.end().error.kind, caller.end().error.delivered) == (ErrorKind.BAD_REQUEST, False)
    caller.wait(5)
    assert len(caller.told) == 1


def test_timers_of_ended_calls_are_forgotten():
    caller = Caller()
    for _ in range(100):
        caller.call(1_000.0)
        caller.answer()
    assert caller.asking.next_timer() == float("inf")


def test_the_errors_of_the_library_say_what_to_do_next():
    for error in (unreachable(), unwelcome()):
        assert error.hint
        assert error.delivered is False
