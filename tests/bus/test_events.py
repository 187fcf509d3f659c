"""Publishing and subscribing through the switch."""

import pytest

from manor_bus.broker.events import WINDOW_BYTES_MAX, WINDOW_MAX
from manor_bus.broker.policy import Decision
from manor_bus.wire import codec
from manor_bus.wire.envelope import Envelope
from manor_bus.wire.envelope import Kind as Frame
from manor_bus.wire.errors import Kind
from manor_bus.wire.messages import bus as words
from tests.testkit.bench import Bench


def owner(bench):
    return bench.join("service/lifecycle", owns=("operation.*",))


def test_an_event_reaches_every_subscriber_byte_for_byte():
    bench = Bench()
    service, watchers = owner(bench), [bench.join() for _ in range(3)]
    for watcher in watchers:
        watcher.subscribe("operation.*")
    frame = codec.encode({"k": 7, "subject": "operation.a", "epoch": "e", "rev": 1, "own": {"kept": True}})
    service.say_bytes(frame)
    bench.flush()
    for watcher in watchers:
        down = watcher.batches()[-1]
        assert (down.n, len(down.items)) == (0, 1)
        assert down.items[0].sender == service.address
        assert watcher.frames[-1].endswith(frame)


def test_events_of_one_cycle_travel_together_and_are_numbered_in_sequence():
    bench = Bench()
    service, watcher = owner(bench), bench.join()
    watcher.subscribe("operation.*")
    for name in "abc":
        service.publish(f"operation.{name}")
    bench.flush()
    service.publish("operation.d")
    bench.flush()
    assert [(down.n, len(down.items)) for down in watcher.batches()] == [(0, 3), (3, 1)]


def test_a_new_subscriber_takes_nothing_from_others_and_gets_only_what_comes_after():
    bench = Bench()
    service, first, second = owner(bench), bench.join(), bench.join()
    first.subscribe("operation.*")
    service.publish("operation.before")
    second.subscribe("operation.*")
    service.publish("operation.after")
    bench.flush()
    assert first.subjects() == ["operation.before", "operation.after"]
    assert second.subjects() == ["operation.after"]
    assert second.batches()[0].n == 0


def test_the_answer_names_the_owners_of_matching_state():
    bench = Bench()
    service, watcher = owner(bench), bench.join()
    bench.join("service/devices", owns=("device.>",))
    done = codec.decode(watcher.subscribe("operation.web").data, words.Subscribed)
    assert (done.sid, done.seq) == (1, 0)
    assert done.owners == (words.Owner(address=service.address, owns=("operation.*",)),)


@pytest.mark.parametrize(
    ("pattern", "wish", "kind"),
    [
        ("a..b", {}, Kind.BAD_REQUEST),
        ("a.>.b", {}, Kind.BAD_REQUEST),
        ("", {}, Kind.BAD_REQUEST),
        ("a", {"sid": 0}, Kind.BAD_REQUEST),
        ("a", {"sid": -1}, Kind.BAD_REQUEST),
        ("a", {"window": 0}, Kind.BAD_REQUEST),
        ("a", {"window_bytes": 0}, Kind.BAD_REQUEST),
        ("a", {"policy": "whatever"}, Kind.BAD_REQUEST),
        ("a", {"window": WINDOW_MAX + 1}, Kind.NO_CAPACITY),
        ("a", {"window_bytes": WINDOW_BYTES_MAX + 1}, Kind.NO_CAPACITY),
    ],
)
def test_a_wrong_subscription_is_refused(pattern, wish, kind):
    hand = Bench().join()
    hand.subscribe(pattern, **wish)
    assert hand.error().kind is kind
    assert not hand.cut


def test_a_number_that_is_taken_is_refused():
    hand = Bench().join()
    hand.subscribe("a")
    hand.subscribe("b")
    assert hand.error().kind is Kind.BAD_REQUEST


def test_one_peer_has_a_bounded_number_of_subscriptions_and_of_messages_under_way():
    hand = Bench().join()
    for sid in range(1, 257):
        assert hand.subscribe("a", sid, window=1, window_bytes=1).err is None
    hand.subscribe("a", 257, window=1)
    assert hand.error().kind is Kind.NO_CAPACITY
    other = Bench().join()
    other.subscribe("a", 1, window=WINDOW_MAX - 1)
    other.subscribe("a", 2, window=2)
    assert other.error().kind is Kind.NO_CAPACITY


def test_who_may_not_watch_is_refused():
    bench = Bench(lambda _label, verb, _subject: Decision(verb != "watch", "eyes shut"))
    hand = bench.join()
    hand.subscribe("a")
    assert hand.error().kind is Kind.FORBIDDEN
    assert "eyes shut" in hand.error().message


def test_a_wide_subscription_shows_only_what_its_label_may_see():
    def decide(label, verb, subject):
        return Decision(not (verb == "watch" and label == "observer/a" and subject == "operation.secret"), "")

    bench = Bench(decide)
    service, watcher, admin = owner(bench), bench.join("observer/a"), bench.join()
    watcher.subscribe("operation.>")
    admin.subscribe("operation.>")
    service.publish("operation.open")
    service.publish("operation.secret")
    bench.flush()
    assert watcher.subjects() == ["operation.open"]
    assert admin.subjects() == ["operation.open", "operation.secret"]


def test_what_may_not_be_published_reaches_nobody_and_is_counted():
    bench = Bench()
    service, watcher = owner(bench), bench.join()
    watcher.subscribe(">")
    bench.flush()
    for subject in ("device.web.root", "bus.peer.x", "operation.a.b", "", "operation.*", "operation. "):
        service.publish(subject)
    bench.flush()
    assert watcher.subjects() == []
    assert bench.switch.outbox.counters["forbidden"] == 6


def test_an_ended_subscription_gets_nothing_more():
    bench = Bench()
    service, watcher = owner(bench), bench.join()
    watcher.subscribe("operation.*")
    end = codec.encode(words.Unsubscribe(sid=1))
    watcher.say_bytes(codec.encode({"k": 9, "id": "u", "data": codec.decode(end, object)}))
    assert watcher.last().re == "u"
    service.publish("operation.a")
    bench.flush()
    assert watcher.subjects() == []
    assert watcher.subscribe("operation.*").err is None


def test_ending_what_is_not_there_is_fine():
    hand = Bench().join()
    hand.say_bytes(codec.encode({"k": 9, "id": "u", "data": {"sid": 7}}))
    assert (hand.last().re, hand.last().err) == ("u", None)


@pytest.mark.parametrize(("messages", "size"), [(2, 0), (0, 10_000), (-1, 0), (0, -1)])
def test_credit_for_what_was_never_sent_ends_the_session(messages, size):
    bench = Bench()
    service, watcher = owner(bench), bench.join()
    watcher.subscribe("operation.*")
    service.publish("operation.a")
    bench.flush()
    watcher.credit(messages, size)
    assert watcher.last().k == Frame.RESET
    assert watcher.cut


def test_credit_that_goes_back_ends_the_session_and_repeating_it_does_not():
    bench = Bench()
    service, watcher = owner(bench), bench.join()
    watcher.subscribe("operation.*")
    service.publish("operation.a")
    bench.flush()
    watcher.credit(1, 20)
    watcher.credit(1, 20)
    assert not watcher.cut
    watcher.credit(0, 20)
    assert watcher.cut


@pytest.mark.parametrize("frame", [{"k": 10, "data": {"sid": "x"}}, {"k": 10}, {"k": 9, "data": []}])
def test_credit_and_unsubscribe_without_sense_end_the_session(frame):
    hand = Bench().join()
    hand.say_bytes(codec.encode(frame))
    assert hand.cut


def test_credit_for_a_subscription_that_has_ended_is_ignored():
    hand = Bench().join()
    hand.credit(5, 5, sid=9)
    assert not hand.cut


def test_who_falls_behind_is_news_once_a_second():
    bench = Bench()
    service, slow, admin = owner(bench), bench.join("observer/slow"), bench.join()
    slow.subscribe("operation.*", policy="gap", window=1)
    admin.subscribe("bus.slow")
    for _ in range(3):
        for number in range(4):
            service.publish("operation.a", number)
        bench.flush()
    news = [
        codec.decode(item.envelope.data, words.SlowPeer) for down in admin.batches() for item in down.items
    ]
    assert [(one.address, one.sid, one.policy, one.dropped) for one in news] == [(slow.address, 1, "gap", 3)]
    bench.wait(1.1)
    service.publish("operation.a", 9)
    bench.flush()
    assert len([item for down in admin.batches() for item in down.items]) == 2


def test_who_wants_to_be_kicked_rather_than_miss_something_is_kicked():
    bench = Bench()
    service, slow, other = owner(bench), bench.join("observer/slow"), bench.join()
    slow.subscribe("operation.*", policy="kick", window=1)
    other.subscribe("operation.*")
    service.publish("operation.a")
    service.publish("operation.b")
    bench.flush()
    assert codec.decode(slow.last().data, words.Reset).reason == "slow"
    assert slow.cut
    assert other.subjects() == ["operation.a", "operation.b"]
    assert bench.switch.outbox.counters["kicked_slow"] == 1


def test_that_somebody_was_kicked_is_news_in_the_same_cycle():
    bench = Bench()
    service, slow, admin = owner(bench), bench.join("observer/slow"), bench.join()
    admin.subscribe("bus.peer.>")
    slow.subscribe("operation.*", policy="kick", window=1)
    service.publish("operation.a")
    service.publish("operation.b")
    bench.flush()
    [item] = admin.batches()[-1].items
    assert codec.decode(item.envelope.data, words.PeerChanged).reason == "slow"


def test_a_subscriber_that_left_costs_nothing_more():
    bench = Bench()
    service, watcher = owner(bench), bench.join()
    watcher.subscribe("operation.*")
    service.publish("operation.a")
    bench.flush()
    assert bench.switch.fanout.held > 0
    bench.gone(watcher)
    bench.flush()
    assert bench.switch.fanout.held == 0
    assert [stream for stream in bench.switch.fanout.streams() if stream.pattern == "operation.*"] == []


def test_events_are_kept_in_the_ring_with_their_sender_and_time():
    bench = Bench()
    service = owner(bench)
    service.publish("operation.a")
    listed = bench.switch.events.ring.read("operation.*", 0, 10)
    assert [(event.sender, event.at) for event in listed.events] == [(service.address, bench.now)]
    assert codec.decode(listed.events[0].envelope, Envelope).subject == "operation.a"


def test_a_tap_sees_events_beside_calls():
    bench = Bench()
    service, tap = owner(bench), bench.join()
    tap.subscribe("operation.*", tap=True)
    service.publish("operation.a")
    bench.flush()
    assert tap.subjects() == ["operation.a"]


def test_a_reply_does_not_overtake_the_events_before_it():
    bench = Bench()
    service = bench.join("service/lifecycle", ("lifecycle.>",), ("operation.*",))
    caller = bench.join()
    caller.subscribe("operation.*")
    caller.ask("lifecycle.x")
    service.publish("operation.a")
    service.reply(caller.address, "r1")
    service.publish("operation.b")
    bench.flush()
    order = [(down.sid, down.items[0].envelope.k) for down in caller.downs[-3:]]
    assert order == [(1, Frame.PUB), (0, Frame.REP), (1, Frame.PUB)]
