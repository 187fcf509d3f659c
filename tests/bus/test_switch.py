"""Sessions: greetings, resets, ends. Rules 1 and 2 of the switch."""

import msgspec
import pytest

from manor_bus.broker.policy import Decision
from manor_bus.broker.sessions import PEERS_MAX
from manor_bus.broker.switch import LIMITS
from manor_bus.wire import codec
from manor_bus.wire.envelope import Down, Envelope
from manor_bus.wire.envelope import Kind as Frame
from manor_bus.wire.errors import Kind
from manor_bus.wire.messages import bus as words
from tests.testkit.bench import Bench, body

LIMITS_OF_ONE = msgspec.structs.replace(LIMITS, in_flight_per_callee=1)


def reset_of(wire):
    assert wire.k == Frame.RESET
    return codec.decode(wire.data, words.Reset)


def test_a_greeting_is_answered_with_the_verified_address_and_what_was_granted():
    bench = Bench()
    service = bench.connect("service/config")
    welcome = codec.decode(
        service.hello("a1", ("config.>", "lifecycle.>"), ("config.>",)).data, words.Welcome
    )
    assert welcome.address == "service/config@n1/a1"
    assert welcome.serves == ("config.>",)
    assert [entry.partition(":")[0] for entry in welcome.denied] == ["lifecycle.>"]
    assert welcome.broker_epoch == "ep"


@pytest.mark.parametrize(
    "hello",
    [
        {"protocol": [2, 9], "instance": "a"},
        {"protocol": [1, 1], "instance": ""},
        {"protocol": [1, 1], "instance": "a/b"},
        {"protocol": [1, 1], "instance": "é"},
        {"protocol": [1, 1], "instance": "a" * 33},
        {"protocol": [1, 1], "instance": "a", "serves": ["config..x"]},
        {"protocol": [1, 1], "instance": "a", "owns": ["x"] * 65},
        {"protocol": "1", "instance": "a"},
        {},
    ],
)
def test_a_wrong_greeting_is_refused_with_the_reason_and_makes_no_session(hello):
    bench = Bench()
    hand = bench.connect()
    hand.say(Envelope(k=Frame.HELLO, id="h", data=body(hello)))
    assert hand.last().k == Frame.WELCOME
    assert hand.error().kind is Kind.BAD_REQUEST
    assert hand.error().delivered is False
    assert not bench.switch.sessions.by_conn


@pytest.mark.parametrize("kind", [kind for kind in Frame if kind != Frame.HELLO] + [16, 99])
def test_anything_but_a_greeting_from_an_unknown_connection_is_answered_with_a_reset(kind):
    bench = Bench()
    hand = bench.connect()
    hand.say(Envelope(k=int(kind), id="x", to="bus.stats", timeout=100))
    assert reset_of(hand.last()) == words.Reset(broker_epoch="ep", reason="unknown")
    assert not hand.cut


@pytest.mark.parametrize("kind", [Frame.WELCOME, Frame.RESET, 0, 16, 31, 255])
def test_a_kind_that_is_not_for_the_broker_ends_the_session(kind):
    bench = Bench()
    hand = bench.join()
    hand.say(Envelope(k=int(kind)))
    assert reset_of(hand.last()).reason == "protocol"
    assert hand.cut


def test_what_a_frame_says_of_its_sender_is_ignored():
    bench = Bench()
    service = bench.join("service/config", ("config.>",))
    liar = bench.join("operator/eve")
    liar.ask("config.get", source="service/lifecycle@n1/x")
    assert service.downs[-1].items[0].sender == liar.address


def test_a_session_belongs_to_its_key_and_not_to_its_connection():
    bench = Bench()
    hand = bench.join("operator/admin")
    hand.label = "observer/eve"  # the routing id came back with another key behind it
    hand.ask("bus.stats")
    assert reset_of(hand.last()).reason == "unknown"


def test_greeting_again_changes_what_is_served_and_keeps_the_session():
    bench = Bench()
    service = bench.join("service/config")
    caller = bench.join()
    caller.ask("config.get")
    assert caller.error().kind is Kind.UNAVAILABLE
    service.hello("i1", ("config.>",))
    caller.ask("config.get", "r2")
    assert service.last().k == Frame.REQ
    assert len(bench.switch.sessions.by_conn) == 2


def test_the_same_instance_on_a_new_connection_replaces_the_old_session():
    bench = Bench()
    old = bench.join("service/config", ("config.>",))
    caller = bench.join()
    caller.ask("config.get")
    new = bench.connect("service/config")
    new.hello("i1", ("config.>",))
    assert old.cut
    assert not new.cut
    assert caller.error().delivered is True


def test_another_instance_on_the_same_connection_ends_the_first():
    bench = Bench()
    hand = bench.join()
    hand.hello("other")
    assert [peer.instance for peer in bench.switch.sessions.by_conn.values()] == ["other"]
    assert not hand.cut


def test_an_instance_name_stays_with_the_principal_that_used_it_first():
    bench = Bench()
    service = bench.join("service/config", ("config.>",))
    thief = bench.connect("observer/eve")
    thief.hello("i1")
    assert thief.error().kind is Kind.CONFLICT
    bench.gone(service)
    thief.hello("i1")
    assert thief.error().kind is Kind.CONFLICT


def test_a_principal_has_a_bounded_number_of_sessions():
    bench = Bench()
    for number in range(PEERS_MAX):
        bench.connect("observer/many").hello(f"x{number}")
    refused = bench.connect("observer/many")
    refused.hello("onemore")
    assert refused.error().kind is Kind.NO_CAPACITY
    other = bench.join("observer/other")
    assert other.last().err is None
    bench.gone(bench.hands[b"c0"])
    assert refused.hello("onemore").err is None


def test_a_ping_is_answered():
    bench = Bench()
    hand = bench.join()
    hand.say(Envelope(k=Frame.PING, id="p"))
    assert (hand.last().k, hand.last().re) == (Frame.PING, "p")


def test_who_is_kicked_hears_why_and_is_cut():
    bench = Bench()
    hand = bench.join()
    assert bench.switch.kick(hand.address, "kicked", bench.now)
    bench.collect()
    assert reset_of(hand.last()).reason == "kicked"
    assert hand.cut
    assert not bench.switch.kick("nobody@n1/x", "kicked", bench.now)


def test_a_changed_policy_ends_the_sessions_that_have_what_they_may_no_longer_have():
    bench = Bench()
    watcher, other = bench.join("observer/a"), bench.join("observer/b")
    watcher.subscribe("domain.*")
    bench.switch.change_policy(lambda *_: Decision(False, "closed"), bench.now)
    bench.collect()
    assert reset_of(watcher.last()).reason == "revoked"
    assert watcher.cut
    assert not other.cut
    other.subscribe("domain.*")
    assert other.error().kind is Kind.FORBIDDEN


def test_what_may_be_served_and_owned_follows_the_policy_without_a_new_greeting():
    allowed = {"x"}
    bench = Bench(lambda _label, verb, _subject: Decision(verb in allowed or verb in ("call", "watch"), ""))
    service = bench.join("service/lifecycle", ("lifecycle.>",), ("operation.*",))
    watcher = bench.join()
    watcher.subscribe("operation.*")
    watcher.ask("lifecycle.x")
    assert watcher.error().kind is Kind.UNAVAILABLE
    for verbs, present in (({"serve", "publish"}, True), (set(), False)):
        allowed = verbs
        bench.switch.change_policy(bench.switch.decide._decide, bench.now)
        bench.flush()
        news = codec.decode(watcher.batches()[-1].items[-1].envelope.data, words.OwnerChanged)
        assert (news.present, news.owner.address) == (present, service.address)
        assert bool(bench.switch.sessions.pick("lifecycle.x")) is present
    assert watcher.last().type == "bus.serving.v1"
    assert not service.cut


def test_a_changed_policy_ends_what_waits_and_lets_go_what_was_taken_before():
    bench = Bench(limits=LIMITS_OF_ONE)
    service = bench.join("service/lifecycle", ("lifecycle.>",), ("operation.*",))
    caller = bench.join()
    caller.subscribe("operation.*")
    caller.ask("lifecycle.x", "r1")
    caller.ask("lifecycle.x", "r2")
    service.publish("operation.a")
    bench.switch.change_policy(lambda _label, verb, _subject: Decision(verb != "call", "no calls"), bench.now)
    bench.collect()
    assert (caller.last().re, caller.error().kind, caller.error().delivered) == ("r2", Kind.FORBIDDEN, False)
    assert caller.subjects() == ["operation.a"]
    service.reply(caller.address, "r1")
    assert caller.last().re == "r1"


def test_peers_that_come_and_go_are_news():
    bench = Bench()
    watcher = bench.join("operator/admin")
    watcher.subscribe("bus.peer.>")
    service = bench.join("service/config", ("config.>",))
    bench.gone(service, "disconnected")
    bench.flush()
    news = [item.envelope for down in watcher.batches() for item in down.items]
    assert [one.subject for one in news] == ["bus.peer.service.config.i2"] * 2
    changes = [codec.decode(one.data, words.PeerChanged) for one in news]
    assert [(one.present, one.reason) for one in changes] == [(True, ""), (False, "disconnected")]


def test_watchers_of_an_owners_state_hear_that_it_came_and_went():
    bench = Bench()
    concerned, other = bench.join(), bench.join()
    concerned.subscribe("domain.web")
    other.subscribe("config.>")
    owner = bench.join("service/lifecycle", owns=("domain.*", "operation.*"))
    bench.flush()
    bench.gone(owner, "crash")
    bench.flush()
    news = [
        codec.decode(item.envelope.data, words.OwnerChanged)
        for down in concerned.batches()
        for item in down.items
    ]
    assert [(one.present, one.reason) for one in news] == [(True, ""), (False, "crash")]
    assert news[0].owner == words.Owner(address="service/lifecycle@n1/i3", owns=("domain.*", "operation.*"))
    assert [down for down in other.batches() if down.items] == []


def test_a_peer_that_asked_in_vain_hears_when_the_service_has_come():
    bench = Bench()
    caller, other = bench.join(), bench.join()
    caller.ask("config.get")
    bench.join("service/config", ("config.>",))
    assert caller.last().type == "bus.serving.v1"
    assert codec.decode(caller.last().data, words.Serving).group == "service/config"
    assert other.kinds() == [Frame.WELCOME]


def test_what_the_broker_sends_is_one_array_with_its_own_address():
    bench = Bench()
    hand = bench.join()
    assert hand.downs[0].sid == 0
    assert hand.downs[0].items[0].sender == "bus@n1/ep"
    assert msgspec.msgpack.decode(hand.frames[0])[0] == 0
    assert isinstance(hand.downs[0], Down)


def test_the_switch_wants_to_be_called_at_the_next_heartbeat_or_deadline():
    bench = Bench()
    bench.join("service/config", ("config.>",))
    caller = bench.join()
    bench.wait(0.0)
    assert bench.switch.next_timer() == bench.now + 1.0
    caller.ask("config.get", timeout=200)
    assert bench.switch.next_timer() == bench.now + 0.2
