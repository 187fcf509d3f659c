"""Windows, credit, batching and the three policies."""

import pytest

from manor_bus.broker.fanout import BATCH_BYTES_MAX, BATCH_ITEMS_MAX, BEHIND_BYTES_MAX, Fanout
from manor_bus.wire import codec, envelope
from manor_bus.wire.envelope import Down
from manor_bus.wire.messages.bus import Subscribe

SENDER = envelope.pack_text("service/x@n1/a")


class Stage:
    """A fanout with one or more subscribers; frames are decoded as they leave."""

    def __init__(self, may_watch=lambda *_: True):
        self.fanout = Fanout(may_watch)
        self.out = []

    def subscribe(self, policy="coalesce", window=4, window_bytes=100_000, pattern="x.*", sid=1, **more):
        wish = Subscribe(sid=sid, policy=policy, window=window, window_bytes=window_bytes)
        conn = b"c%d" % sid
        return self.fanout.subscribe(conn, f"a{sid}", more.get("label", "l"), pattern, wish, self.out)

    def publish(self, *subjects, rev=0, size=0):
        for subject in subjects:
            wire = codec.encode({"k": 7, "subject": subject, "rev": rev, "data": b"x" * size})
            self.fanout.publish(subject, envelope.item(SENDER, wire), self.out)

    def flush(self):
        self.fanout.flush(self.out)
        return self.taken()

    def taken(self, conn=b"c1"):
        """[(n, subjects, superseded)] of the frames for a connection."""
        taken = [codec.decode(frame, Down) for to, frame in self.out if to == conn]
        self.out = [entry for entry in self.out if entry[0] != conn]
        return [(down.n, [item.envelope.subject for item in down.items], down.superseded) for down in taken]

    def consume(self, subscription):
        """Give all credit back."""
        return self.fanout.credit(subscription, subscription.sent_messages, subscription.sent_bytes, self.out)


def test_a_batch_within_the_window_leaves_as_one_frame_shared_by_its_subscribers():
    stage = Stage()
    stage.subscribe()
    stage.subscribe(sid=2)
    stage.publish("x.a", "x.b")
    assert stage.flush() == [(0, ["x.a", "x.b"], 0)]
    assert stage.taken(b"c2") == [(0, ["x.a", "x.b"], 0)]


def test_nothing_is_sent_for_what_does_not_match():
    stage = Stage()
    stage.subscribe()
    stage.publish("y.a", "x", "x.a.b")
    assert stage.flush() == []


def test_the_bytes_of_credit_are_those_of_the_items_alone():
    stage = Stage()
    subscription = stage.subscribe(window=100)
    for count in (1, 20):
        stage.publish(*[f"x.{n}" for n in range(count)])
    stage.fanout.flush(stage.out)
    frame = stage.out[0][1]
    head = 1 + 1 + 1 + 3  # array, sid, n, array of 21 items
    assert subscription.sent_bytes == len(frame) - head
    assert stage.consume(subscription)
    assert stage.fanout.held == 0


def test_gap_sends_what_fits_drops_the_rest_and_leaves_a_hole_in_the_numbers():
    stage = Stage()
    subscription = stage.subscribe("gap", window=2)
    stage.publish("x.a", "x.b", "x.c", "x.d")
    assert stage.flush() == [(0, ["x.a", "x.b"], 0)]
    assert subscription.dropped == 2
    stage.consume(subscription)
    stage.publish("x.e")
    assert stage.flush() == [(4, ["x.e"], 0)]


def test_coalesce_keeps_the_newest_of_each_subject_and_tells_how_many_it_replaced():
    stage = Stage()
    subscription = stage.subscribe(window=1)
    stage.publish("x.a")
    assert stage.flush() == [(0, ["x.a"], 0)]
    stage.publish("x.a", "x.b", "x.a", "x.b", "x.c")
    assert stage.flush() == []
    stage.consume(subscription)
    assert stage.taken() == [(1, ["x.a"], 2)]
    stage.consume(subscription)
    stage.consume(subscription)
    assert stage.taken() == [(2, ["x.b"], 0), (3, ["x.c"], 0)]
    assert (subscription.coalesced, subscription.dropped) == (2, 0)


def test_coalesce_keeps_the_order_of_the_newest_values():
    stage = Stage()
    subscription = stage.subscribe(window=1)
    stage.publish("x.a")
    stage.publish("x.b", rev=1)
    stage.publish("x.c", rev=2)
    stage.publish("x.b", rev=3)
    stage.flush()
    subscription.wish = Subscribe(sid=1, window=10)
    stage.consume(subscription)
    assert stage.taken() == [(1, ["x.c", "x.b"], 0)]


def test_while_something_waits_nothing_overtakes_it():
    stage = Stage()
    subscription = stage.subscribe(window=2)
    stage.publish("x.a", "x.b", "x.c")
    assert stage.flush() == [(0, ["x.a", "x.b"], 0)]
    stage.fanout.credit(subscription, 1, 1, stage.out)
    assert stage.taken() == [(2, ["x.c"], 0)]
    stage.publish("x.d")
    assert stage.flush() == []
    stage.consume(subscription)
    assert stage.taken() == [(3, ["x.d"], 0)]


def test_the_heartbeat_sends_what_room_has_come_back_for():
    stage = Stage()
    subscription = stage.subscribe(window=1)
    stage.publish("x.a", "x.b")
    stage.flush()
    subscription.acked_messages = 1
    stage.fanout.heartbeat(stage.out)
    assert stage.taken() == [(1, ["x.b"], 0)]


def test_kick_names_the_connection_after_what_fitted():
    stage = Stage()
    stage.subscribe("kick", window=1)
    stage.publish("x.a", "x.b")
    assert stage.flush() == [(0, ["x.a"], 0)]
    assert stage.fanout.kicked == [b"c1"]


def test_one_item_always_fits_an_empty_window():
    stage = Stage()
    stage.subscribe("gap", window_bytes=10)
    stage.publish("x.a", size=500)
    assert stage.flush() == [(0, ["x.a"], 0)]


def test_the_window_counts_bytes():
    stage = Stage()
    subscription = stage.subscribe("gap", window=100, window_bytes=1_000)
    stage.publish("x.a", "x.b", "x.c", size=400)
    assert stage.flush() == [(0, ["x.a", "x.b"], 0)]
    assert subscription.dropped == 1


def test_a_subscriber_that_never_comes_back_holds_a_bounded_amount_and_then_has_a_gap():
    stage = Stage()
    subscription = stage.subscribe(window=1)
    for number in range(20):
        stage.publish(f"x.{number}", size=1_000_000)
        stage.flush()
        assert subscription.behind_bytes <= BEHIND_BYTES_MAX + 1_000_100
    assert subscription.dropped > 10
    assert stage.fanout.held == subscription.held


def test_who_holds_most_is_ended_when_all_together_hold_too_much(monkeypatch):
    monkeypatch.setattr("manor_bus.broker.fanout.HELD_BYTES_MAX", 5_000)
    stage = Stage()
    stage.subscribe(window=100)
    stage.subscribe(window=100, pattern="x.heavy", sid=2)
    big = stage.subscribe(window=100, sid=3)
    stage.publish("x.a", size=1_000)
    stage.flush()
    assert stage.fanout.kicked == []
    stage.fanout.unsubscribe(big)
    stage.publish("x.heavy", "x.light", size=2_000)
    stage.flush()
    assert stage.fanout.kicked == [b"c1"]


@pytest.mark.parametrize(("messages", "size"), [(4, 0), (0, 99_999), (1, 5)])
def test_credit_beyond_what_was_sent_or_going_back_is_refused(messages, size):
    stage = Stage()
    subscription = stage.subscribe()
    stage.publish("x.a", "x.b", "x.c")
    stage.flush()
    assert stage.fanout.credit(subscription, 2, 10, stage.out)
    assert not stage.fanout.credit(subscription, messages, size, stage.out)


def test_idle_subscribers_hear_the_next_number():
    stage = Stage()
    stage.subscribe("gap", window=1)
    stage.publish("x.a", "x.b")
    assert stage.flush() == [(0, ["x.a"], 0)]
    stage.fanout.heartbeat(stage.out)
    assert stage.taken() == []
    stage.fanout.heartbeat(stage.out)
    assert stage.taken() == [(2, [], 0)]


def test_a_batch_is_bounded_in_items_and_bytes():
    stage = Stage()
    stage.subscribe(window=10_000, window_bytes=10_000_000)
    stage.publish(*[f"x.{n}" for n in range(BATCH_ITEMS_MAX + 1)])
    assert [len(subjects) for _, subjects, _ in stage.flush()] == [BATCH_ITEMS_MAX, 1]
    stage.publish("x.a", "x.b", "x.c", size=BATCH_BYTES_MAX // 2)
    assert [len(subjects) for _, subjects, _ in stage.flush()] == [1, 1, 1]


def test_what_was_kept_leaves_in_bounded_batches():
    stage = Stage()
    subscription = stage.subscribe(window=1, window_bytes=50_000_000)
    stage.publish("x.first")
    stage.publish(*[f"x.{n}" for n in range(BATCH_ITEMS_MAX + 500)])
    stage.publish("x.big1", "x.big2", size=BATCH_BYTES_MAX)
    stage.flush()
    subscription.wish = Subscribe(sid=1, window=10_000, window_bytes=50_000_000)
    stage.consume(subscription)
    assert [len(subjects) for _, subjects, _ in stage.taken()] == [BATCH_ITEMS_MAX, 500, 1, 1]
    assert subscription.behind_bytes == 0


def test_ten_thousand_objects_in_a_burst_all_arrive_at_a_slow_reader():
    stage = Stage()
    subscription = stage.subscribe(window=256, window_bytes=1_048_576)
    stage.publish(*[f"x.{n}" for n in range(10_000)], size=100)
    stage.flush()
    seen = []
    while subscription.newest or stage.out:
        stage.consume(subscription)
        for _, subjects, _ in stage.taken():
            seen += subjects
    assert len(set(seen)) >= 10_000 - 256
    assert (subscription.dropped, subscription.superseded) == (0, 0)


def test_what_is_decided_about_a_label_is_asked_once_per_subject_until_forgotten():
    asked = []

    def may_watch(label, subject):
        asked.append((label, subject))
        return label == "a"

    stage = Stage(may_watch)
    stage.subscribe(label="a")
    stage.subscribe(label="b", sid=2)
    for _ in range(3):
        stage.publish("x.a")
    assert len(stage.flush()) == 1
    assert stage.taken(b"c2") == []
    assert asked == [("a", "x.a"), ("b", "x.a")]
    stage.fanout.policy_changed()
    stage.publish("x.a")
    assert len(asked) == 4


def test_ending_a_subscription_leaves_those_with_the_same_pattern():
    stage = Stage()
    first = stage.subscribe()
    stage.subscribe(sid=2)
    stage.publish("x.a")
    stage.fanout.unsubscribe(first)
    assert stage.flush() == []
    assert stage.taken(b"c2") == [(0, ["x.a"], 0)]


def test_what_is_kept_for_the_slow_is_asked_again_when_the_policy_changes():
    denied = set()
    stage = Stage(lambda _label, subject: subject not in denied)
    subscription = stage.subscribe(window=1)
    stage.publish("x.a", "x.b", "x.c")
    assert stage.flush() == [(0, ["x.a"], 0)]
    denied.add("x.b")
    stage.fanout.policy_changed()
    assert stage.fanout.held == subscription.held
    stage.consume(subscription)
    assert stage.taken() == [(1, ["x.c"], 0)]
