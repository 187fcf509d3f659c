import pytest

from manor_bus.wire import codec
from manor_bus.wire.errors import Kind
from manor_bus.wire.messages import Done, bus
from manor_bus.wire.messages.catalogue import CALL_BY_REQUEST
from tests.testkit.bench import Bench, body


def answer(hand, request):
    call = CALL_BY_REQUEST[type(request)]
    hand.ask(call.subject, "q", data=body(request))
    wire = hand.last()
    assert wire.err is None, wire.err
    return codec.decode(wire.data, call.reply)


def test_peers_are_listed_with_what_they_serve_and_do():
    bench = Bench()
    service = bench.join("service/config", ("config.>",), ("config.>",))
    admin = bench.join()
    admin.subscribe("config.>")
    admin.ask("config.get")
    bench.now += 2.0
    listed = answer(admin, bus.Peers()).peers
    assert [peer.address for peer in listed] == [admin.address, service.address]
    mine, theirs = listed
    assert (mine.subscriptions, mine.calls_pending, theirs.calls_in_flight) == (1, 1, 1)
    assert (theirs.serves, theirs.owns, theirs.name) == (("config.>",), ("config.>",), "service/config")
    assert theirs.connected_s == 2.0
    assert theirs.where == "test"


def test_subscriptions_are_listed_with_what_they_missed():
    bench = Bench()
    service, admin = bench.join("service/lifecycle"), bench.join()
    admin.subscribe("operation.*", policy="gap", window=1)
    service.publish("operation.a")
    service.publish("operation.b")
    bench.flush()
    [one] = answer(admin, bus.Subs()).subs
    assert (one.pattern, one.policy, one.sent, one.dropped, one.outstanding) == (
        "operation.*", "gap", 1, 1, 1,
    )  # fmt: skip


def test_calls_under_way_are_listed_oldest_first_with_their_age():
    bench = Bench()
    service, admin = bench.join("service/config", ("config.>",)), bench.join()
    admin.ask("config.get", "first", timeout=1_000)
    bench.now += 0.25
    admin.ask("config.get", "second", timeout=1_000)
    pending = answer(admin, bus.Pending()).pending
    assert [(one.id, one.age_ms, one.left_ms) for one in pending] == [
        ("first", 250, 750), ("second", 0, 1_000),
    ]  # fmt: skip
    assert pending[0].callee == service.address


def test_statistics_count_what_happened():
    bench = Bench()
    admin = bench.join()
    admin.ask("config.get")
    bench.now += 5
    told = answer(admin, bus.BusStats())
    assert (told.epoch, told.uptime_s, told.peers) == ("ep", 5.0, 1)
    assert told.counters["refused_calls"] == 1


def test_the_policy_explains_itself_without_doing_anything():
    bench = Bench()
    told = answer(bench.join(), bus.Explain(label="observer/x", verb="call", subject="config.get"))
    assert not told.allowed
    assert "only watch" in told.rule or "deny" in told.rule


def test_past_events_can_be_read_from_the_ring():
    bench = Bench()
    service, admin = bench.join("service/lifecycle"), bench.join()
    for name in "abc":
        service.publish(f"operation.{name}")
    listed = answer(admin, bus.RingRead(pattern="operation.*", limit=2))
    assert [event.sender for event in listed.events] == [service.address] * 2
    assert codec.decode(listed.events[0].envelope, dict)["subject"] == "operation.a"


def test_a_peer_can_be_kicked_by_its_address():
    bench = Bench()
    victim, admin = bench.join("observer/x"), bench.join()
    assert answer(admin, bus.Kick(address=victim.address)) == Done()
    assert victim.cut


@pytest.mark.parametrize(
    ("request_", "kind"),
    [(bus.Kick(address="nobody@n1/x"), Kind.NOT_FOUND), (bus.RingRead(pattern="a..b"), Kind.BAD_REQUEST)],
)
def test_what_cannot_be_answered_is_refused(request_, kind):
    hand = Bench().join()
    hand.ask(CALL_BY_REQUEST[type(request_)].subject, data=body(request_))
    assert hand.error().kind is kind


def test_a_question_without_a_body_is_the_question_with_nothing_set():
    hand = Bench().join()
    hand.ask("bus.stats")
    assert codec.decode(hand.last().data, bus.BusStatsAnswer).peers == 1


def test_a_question_with_a_wrong_body_is_refused_with_the_field():
    hand = Bench().join()
    hand.ask("bus.ring", data=body({"limit": "many"}))
    assert hand.error().problems[0].path == "limit"


def test_keys_can_be_read_again():
    assert answer(Bench().join(), bus.Reload()) == bus.Reloaded(keys=1, ended=0)


def test_services_and_observers_end_no_sessions():
    bench = Bench()
    for label in ("service/config", "observer/x"):
        hand = bench.join(label)
        for subject in ("bus.kick", "bus.reload"):
            hand.ask(subject, data=body({"address": "x"}))
            assert hand.error().kind is Kind.FORBIDDEN
