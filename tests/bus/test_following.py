"""Subscriptions as the subscriber's library sees them: numbers, credit, lives."""

from typing import Any

from manor_bus.peer.events import Arrived, Barred, Live, Missed
from manor_bus.peer.subscriptions import ClientSubscriptions
from manor_bus.wire import codec, envelope
from manor_bus.wire.envelope import Down, Envelope, Kind
from manor_bus.wire.errors import ErrorBody
from manor_bus.wire.errors import Kind as ErrorKind
from manor_bus.wire.messages.bus import Credit, Owner, Subscribe, Subscribed, Unsubscribe
from tests.testkit.bench import body

OWNER = Owner(address="a@n/1", owns=("x.*",))


class Reader:
    """A ClientSubscriptions whose messages and outcomes are kept."""

    def __init__(self, *, greeted=True, **wish):
        self.sent: list[Envelope] = []
        self.told: list[Any] = []
        count = iter(range(1, 1_000))

        def send(wire):
            self.sent.append(wire)
            return True

        self.followed = ClientSubscriptions(lambda: f"id{next(count)}", send, self.told.append)
        if greeted:
            self.followed.greeted()
        self.followed.subscribe("x.*", Subscribe(sid=7, **wish))

    def live(self, seq=0):
        """Accept the last SUB; returns its number on the wire."""
        [*_, asked] = [wire for wire in self.sent if wire.k == Kind.SUB]
        life = codec.decode(asked.data, Subscribe).sid
        done = Subscribed(sid=life, seq=seq, owners=(OWNER,))
        assert self.followed.reply(Envelope(k=Kind.REP, re=asked.id, last=True, data=body(done)))
        return life

    def items(self, life, n, count, size=0, superseded=0):
        packed = envelope.pack_text("a@n/1")
        items = [envelope.item(packed, codec.encode({"k": 7, "fill": "x" * size}))] * count
        frame = envelope.batch(life, n, envelope.array_header(count) + b"".join(items), superseded)
        self.followed.items(codec.decode(frame, Down), len(frame))
        return sum(map(len, items))

    def take(self, kind):
        return [one for one in self.told if isinstance(one, kind)]

    def credits(self):
        return [codec.decode(wire.data, Credit) for wire in self.sent if wire.k == Kind.CREDIT]


def test_a_subscription_waits_for_the_greeting():
    reader = Reader(greeted=False)
    assert reader.sent == []
    reader.followed.greeted()
    assert [(wire.k, wire.to) for wire in reader.sent] == [(Kind.SUB, "x.*")]


def test_it_is_live_when_the_broker_says_so_and_names_the_owners():
    reader = Reader()
    reader.live()
    assert reader.told == [Live(7, (OWNER,))]


def test_nothing_is_taken_before_it_is_live():
    reader = Reader()
    reader.items(1, 0, 1)
    assert reader.told == []


def test_a_refused_subscription_is_told_and_forgotten():
    reader = Reader()
    err = ErrorBody(kind=ErrorKind.FORBIDDEN, message="no")
    assert reader.followed.reply(Envelope(k=Kind.REP, re=reader.sent[0].id, last=True, err=err))
    [barred] = reader.take(Barred)
    assert (barred.sid, barred.error.kind) == (7, ErrorKind.FORBIDDEN)
    reader.followed.lost()
    reader.followed.greeted()
    assert len(reader.sent) == 1


def test_replies_to_other_requests_are_not_its_business():
    assert not Reader().followed.reply(Envelope(k=Kind.REP, re="other", last=True))


def test_items_arrive_in_order_and_their_bytes_are_counted_as_the_broker_counts_them():
    reader = Reader()
    life = reader.live()
    for n, count, superseded in ((0, 1, 0), (1, 40, 300), (41, 2, 0)):
        size = reader.items(life, n, count, superseded=superseded)
        assert reader.take(Arrived)[-1].size == size
    assert reader.take(Missed) == []


def test_a_hole_in_the_numbers_is_told_before_what_comes_after_it():
    reader = Reader()
    life = reader.live()
    reader.items(life, 0, 2)
    reader.items(life, 5, 1)
    assert [type(one) for one in reader.told] == [Live, Arrived, Missed, Arrived]
    assert reader.take(Missed) == [Missed(7, 3)]


def test_a_lost_tail_is_noticed_by_the_heartbeat():
    reader = Reader()
    life = reader.live()
    reader.items(life, 3, 0)
    assert reader.take(Missed) == [Missed(7, 3)]
    reader.items(life, 3, 0)
    assert len(reader.take(Missed)) == 1


def test_credit_is_given_back_in_quarters_of_the_window():
    reader = Reader(window=8, window_bytes=1_000_000)
    life = reader.live()
    size = reader.items(life, 0, 1)
    reader.followed.consumed(reader.take(Arrived)[-1])
    assert reader.credits() == []
    size += reader.items(life, 1, 1)
    reader.followed.consumed(reader.take(Arrived)[-1])
    assert reader.credits() == [Credit(sid=life, messages=2, size=size)]


def test_credit_counts_bytes_even_when_messages_are_few():
    reader = Reader(window=1_000, window_bytes=4_000)
    life = reader.live()
    for n in range(3):
        reader.items(life, n, 1, size=500)
        reader.followed.consumed(reader.take(Arrived)[-1])
    assert [credit.messages for credit in reader.credits()] == [2]


def test_in_a_quiet_moment_the_last_bit_of_room_is_given_back():
    reader = Reader(window=100)
    life = reader.live()
    reader.items(life, 0, 1)
    reader.items(life, 1, 0)
    assert reader.credits() == []
    reader.followed.consumed(reader.take(Arrived)[-1])
    reader.items(life, 1, 0)
    reader.items(life, 1, 0)
    assert [credit.messages for credit in reader.credits()] == [1]


def test_after_a_reconnection_it_has_a_new_number_and_old_items_count_for_nothing():
    reader = Reader(window=4)
    old = reader.live()
    reader.items(old, 0, 3)
    arrived = reader.take(Arrived)[-1]
    reader.followed.lost()
    reader.followed.greeted()
    new = reader.live()
    assert new != old
    reader.followed.consumed(arrived)
    assert reader.credits() == []
    reader.items(old, 3, 1)
    assert len(reader.take(Arrived)) == 1
    assert [type(one) for one in reader.told] == [Live, Arrived, Live]


def test_a_renewed_subscription_begins_anew_and_the_old_one_is_ended():
    reader = Reader()
    old = reader.live()
    reader.followed.renew(7)
    assert [wire.k for wire in reader.sent] == [Kind.SUB, Kind.UNSUB, Kind.SUB]
    assert codec.decode(reader.sent[1].data, Unsubscribe).sid == old
    assert reader.live() != old
    reader.followed.renew(99)
    assert len(reader.sent) == 3


def test_the_answer_to_a_subscription_that_was_renewed_meanwhile_does_not_count():
    reader = Reader()
    first = reader.sent[0]
    reader.followed.renew(7)
    done = Subscribed(sid=1, seq=5, owners=())
    assert reader.followed.reply(Envelope(k=Kind.REP, re=first.id, last=True, data=body(done)))
    assert reader.told == []
    reader.live()
    assert len(reader.take(Live)) == 1


def test_an_ended_subscription_is_told_to_the_broker_and_heard_of_no_more():
    reader = Reader()
    life = reader.live()
    reader.followed.unsubscribe(7)
    reader.followed.unsubscribe(7)
    assert [wire.k for wire in reader.sent] == [Kind.SUB, Kind.UNSUB]
    reader.items(life, 0, 1)
    reader.followed.lost()
    reader.followed.greeted()
    assert len(reader.sent) == 2
    assert reader.take(Arrived) == []
