"""Greeting, liveness, and where every frame goes."""

import pytest

from manor_bus.broker.switch import LIMITS
from manor_bus.peer.events import Asked, Dead, Drained, Greeted, Replied, Turned, Withdrawn
from manor_bus.peer.session import GREET_AGAIN_S, SILENCE_BEATS, Session
from manor_bus.wire import codec, envelope
from manor_bus.wire.envelope import Envelope, Kind
from manor_bus.wire.errors import ErrorBody, ManorError
from manor_bus.wire.errors import Kind as ErrorKind
from manor_bus.wire.messages import bus as words
from tests.testkit.bench import body

BROKER = "bus@n1/e1"


class Line:
    """A session and what goes over its line."""

    def __init__(self, boot_id="boot"):
        count = iter(range(1, 10_000))
        self.now = 10.0
        self.session = Session(
            instance="i1", version="v", pid=1, boot_id=boot_id, new_id=lambda: f"id{next(count)}"
        )

    def sent(self):
        frames = self.session.take()
        messages = [
            one
            for frame in frames
            for one in (envelope.unbatch(frame) if envelope.is_batch(frame) else [frame])
        ]
        return [codec.decode(message, Envelope) for message in messages]

    def hear(self, wire, sender=BROKER, n=0):
        self.session.receive(envelope.single(envelope.pack_text(sender), codec.encode(wire), n), self.now)

    def told(self):
        events = list(self.session.events)
        self.session.events.clear()
        return events

    def connect(self):
        self.session.connected(self.now)
        return self.sent()[-1]

    def welcome(self, hello, epoch="e1", boot_id="boot"):
        done = words.Welcome(
            protocol=1, broker_epoch=epoch, address="operator/a@n1/i1", boot_id=boot_id, heartbeat_ms=1_000,
            limits=LIMITS,
        )  # fmt: skip
        self.hear(Envelope(k=Kind.WELCOME, re=hello.id, data=body(done)))

    def wait(self, seconds):
        self.now += seconds
        self.session.advance(self.now)
        return self.sent()


@pytest.fixture
def line():
    made = Line()
    made.welcome(made.connect())
    made.told()
    made.sent()
    return made


def test_it_greets_when_the_connection_is_there_and_again_until_it_is_answered():
    line = Line()
    hello = line.connect()
    assert hello.k == Kind.HELLO
    assert codec.decode(hello.data, words.Hello).instance == "i1"
    again = line.wait(GREET_AGAIN_S)[0]
    assert again.k == Kind.HELLO
    line.welcome(hello)
    assert line.told() == []
    line.welcome(again)
    assert line.session.address == "operator/a@n1/i1"
    assert line.session.greeted
    assert isinstance(line.told()[0], Greeted)


def test_a_refused_greeting_is_told_and_not_repeated():
    line = Line()
    hello = line.connect()
    err = ErrorBody(kind=ErrorKind.CONFLICT, message="no")
    line.hear(Envelope(k=Kind.WELCOME, re=hello.id, err=err))
    [turned] = line.told()
    assert isinstance(turned, Turned)
    assert all(wire.k != Kind.HELLO for wire in line.wait(0.9))


def test_calls_and_subscriptions_wait_for_the_greeting(line):
    fresh = Line()
    fresh.session.calls.call(Envelope(k=0, to="x.do"), 5.0, fresh.now)
    fresh.session.subscribe("x.*")
    assert fresh.sent() == []
    fresh.welcome(fresh.connect())
    assert {wire.k for wire in fresh.sent()} == {Kind.REQ, Kind.SUB}


def test_a_reset_makes_it_greet_subscribe_and_ask_again(line):
    line.session.calls.call(Envelope(k=0, to="x.do", idempotencykey="key"), 5.0, line.now)
    line.session.subscribe("x.*")
    line.sent()
    line.hear(Envelope(k=Kind.RESET, data=body(words.Reset(broker_epoch="e2", reason="unknown"))))
    assert not line.session.greeted
    [hello] = line.sent()
    line.welcome(hello, "e2")
    assert [wire.k for wire in line.sent()] == [Kind.SUB, Kind.REQ]


def test_offering_more_greets_again_and_disturbs_nothing(line):
    line.session.calls.call(Envelope(k=0, to="x.do"), 5.0, line.now)
    line.sent()
    line.session.offer(("x.>",), (), line.now)
    [hello] = line.sent()
    assert codec.decode(hello.data, words.Hello).serves == ("x.>",)
    line.welcome(hello)
    assert line.sent() == []


def test_an_offer_that_is_not_answered_is_made_again(line):
    line.session.offer(("x.>",), (), line.now)
    line.sent()
    assert line.session.next_timer() == line.now + GREET_AGAIN_S
    again = line.wait(GREET_AGAIN_S)
    assert [wire.k for wire in again] == [Kind.HELLO]
    assert line.session.next_timer() > line.now
    line.welcome(again[0])
    assert line.session.greeted


def test_what_is_offered_while_the_greeting_is_under_way_is_not_forgotten():
    line = Line()
    first = line.connect()
    line.session.offer(("x.>",), (), line.now)
    [second] = line.sent()
    line.welcome(first)
    assert line.told() == []
    line.welcome(second)
    assert line.session.greeted


def test_who_drains_offers_no_service_when_it_must_greet_again(line):
    line.session.offer(("x.>",), ("x.*",), line.now)
    line.welcome(line.sent()[0])
    line.session.drain()
    assert line.sent()[0].k == Kind.DRAIN
    line.hear(Envelope(k=Kind.DRAIN))
    assert line.told()[-1] == Drained()
    line.session.lost()
    hello = codec.decode(line.connect().data, words.Hello)
    assert (hello.serves, hello.owns) == ((), ("x.*",))


def test_silence_is_questioned_and_then_taken_as_death(line):
    assert [wire.k for wire in line.wait(1.0)] == [Kind.PING]
    line.wait(1.0)
    line.hear(Envelope(k=Kind.PING, re="x"))
    for _ in range(SILENCE_BEATS - 1):
        line.wait(1.0)
        assert line.told() == []
    line.wait(1.0)
    assert line.told() == [Dead()]
    assert line.wait(1.0) == []


def test_any_frame_is_a_sign_of_life(line):
    for _ in range(10):
        line.wait(0.9)
        line.hear(Envelope(k=99))
    assert line.told() == []


def test_the_next_timer_is_never_missed_by_rounding(line):
    """Time advanced exactly to the timer must do what the timer is for, whatever the fraction."""
    for _ in range(200):
        due = line.session.next_timer()
        line.now = due
        line.session.advance(due)
        line.hear(Envelope(k=Kind.PING))
        assert line.session.next_timer() > due
        line.now += 0.1234567


def test_a_call_to_us_has_a_deadline_on_our_clock(line):
    request = Envelope(k=Kind.REQ, id="r", to="x.do", timeout=500)
    line.hear(request, "service/b@n1/i9", 12_345)
    assert line.told() == [Asked("service/b@n1/i9", request, 12.345)]


@pytest.mark.parametrize("boot_id", ["", "other"])
def test_on_another_clock_the_deadline_counts_from_its_arrival(boot_id):
    line = Line(boot_id)
    line.welcome(line.connect())
    line.told()
    line.hear(Envelope(k=Kind.REQ, id="r", to="x.do", timeout=500), "service/b@n1/i9", 12_345)
    assert line.told()[0].deadline == line.now + 0.5


def test_a_withdrawn_call_is_told_with_who_withdrew_it(line):
    line.hear(Envelope(k=Kind.CANCEL, re="r"), "operator/b@n1/i9")
    assert line.told() == [Withdrawn("operator/b@n1/i9", "r")]


def test_an_answer_larger_than_a_frame_becomes_an_error(line):
    large = body({"x": "y" * codec.FRAME_BYTES_MAX})
    line.session.reply("a@n/1", "r", data=large, err=None, last=True)
    [wire] = line.sent()
    assert (wire.k, wire.re, wire.last) == (Kind.REP, "r", True)
    assert "larger than a frame" in wire.err.message


def test_an_event_larger_than_a_frame_is_refused(line):
    wire = Envelope(k=Kind.PUB, subject="x.a", data=body({"x": "y" * codec.FRAME_BYTES_MAX}))
    with pytest.raises(ManorError) as caught:
        line.session.publish(wire)
    assert "x.a" in caught.value.message


def test_an_event_before_the_greeting_is_not_sent():
    assert not Line().session.publish(Envelope(k=Kind.PUB, subject="x.a"))


def test_a_request_larger_than_a_frame_ends_at_once(line):
    line.session.calls.call(
        Envelope(k=0, to="x", data=body({"x": "y" * codec.FRAME_BYTES_MAX})), 5.0, line.now
    )
    [replied] = line.told()
    assert isinstance(replied, Replied)
    assert replied.error is not None
    assert replied.error.kind is ErrorKind.BAD_REQUEST


def test_after_the_connection_is_lost_nothing_is_sent_until_it_is_back(line):
    line.session.lost()
    assert line.wait(5.0) == []
    assert line.session.next_timer() == float("inf")
