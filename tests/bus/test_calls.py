"""Requests: rules 3 and 4 of the switch."""

import pytest

from manor_bus.broker.admission import QUEUED_BYTES_MAX
from manor_bus.broker.policy import Decision
from manor_bus.broker.switch import LIMITS
from manor_bus.wire import codec
from manor_bus.wire.envelope import Envelope
from manor_bus.wire.envelope import Kind as Frame
from manor_bus.wire.errors import Kind, Origin
from manor_bus.wire.messages import bus as words
from tests.testkit.bench import Bench, body


def pair(**limits):
    """A caller and a service."""
    changed = {**{f: getattr(LIMITS, f) for f in LIMITS.__struct_fields__}, **limits}
    bench = Bench(limits=words.Limits(**changed))
    return bench, bench.join(), bench.join("service/config", ("config.>",))


def requests(service):
    return [down.items[0].envelope for down in service.downs if down.items[0].envelope.k == Frame.REQ]


def test_a_request_is_delivered_byte_for_byte_with_its_caller_and_its_deadline():
    bench, caller, service = pair()
    frame = codec.encode(
        {
            "k": 3,
            "id": "r1",
            "to": "config.get",
            "timeout": 1500,
            "data": {"a": 1},
            "further": [1, {"x": b""}],
        }
    )
    caller.say_bytes(frame)
    down = service.downs[-1]
    assert down.n == int((bench.now + 1.5) * 1000)
    assert down.items[0].sender == caller.address
    assert service.frames[-1].endswith(frame)


def test_the_reply_of_the_called_instance_ends_the_call():
    bench, caller, service = pair()
    caller.ask("config.get")
    service.reply(caller.address, "r1", part=True)
    service.reply(caller.address, "r1")
    assert caller.kinds()[-2:] == [Frame.PART, Frame.REP]
    assert caller.downs[-1].items[0].sender == service.address
    service.reply(caller.address, "r1")
    assert caller.kinds().count(Frame.REP) == 1
    assert bench.switch.outbox.counters["replies_dropped"] == 1
    assert not bench.switch.sessions.pending


def test_a_reply_from_anybody_else_is_dropped():
    bench, caller, _ = pair()
    other = bench.join("service/config", ())
    caller.ask("config.get")
    other.reply(caller.address, "r1")
    assert Frame.REP not in caller.kinds()
    assert bench.switch.outbox.counters["replies_dropped"] == 1


def test_a_request_is_sent_once_to_one_instance():
    bench, caller, first = pair()
    second = bench.join("service/config", ("config.>",))
    caller.ask("config.get")
    bench.wait(0.9)
    assert len(requests(first)) + len(requests(second)) == 1


def test_nobody_to_ask_is_said_at_once_and_nothing_was_done():
    bench = Bench()
    caller = bench.join()
    caller.ask("config.get")
    assert caller.error().kind is Kind.UNAVAILABLE
    assert caller.error().delivered is False
    assert caller.error().origin is Origin.BROKER
    assert not bench.switch.sessions.pending


@pytest.mark.parametrize(
    ("wire", "path"),
    [
        (Envelope(k=3, id="x", to="", timeout=5), "to"),
        (Envelope(k=3, id="x", to="config..get", timeout=5), "to"),
        (Envelope(k=3, id="x", to="config.*", timeout=5), "to"),
        (Envelope(k=3, id="", to="config.get", timeout=5), "id"),
        (Envelope(k=3, id="x" * 65, to="config.get", timeout=5), "id"),
        (Envelope(k=3, id="x", to="config.get"), "timeout"),
        (Envelope(k=3, id="x", to="config.get", timeout=-1), "timeout"),
        (Envelope(k=3, id="x", to="config.get", timeout=86_400_001), "timeout"),
    ],
)
def test_a_request_that_is_not_one_is_refused_with_the_field(wire, path):
    _, caller, service = pair()
    caller.say(wire)
    assert caller.error().kind is Kind.BAD_REQUEST
    assert [problem.path for problem in caller.error().problems] == [path]
    assert not requests(service)


def test_an_id_that_is_under_way_cannot_be_used_again():
    _, caller, service = pair()
    caller.ask("config.get")
    caller.ask("config.get")
    assert caller.error().problems[0].path == "id"
    service.reply(caller.address, "r1")
    caller.ask("config.get")
    assert len(requests(service)) == 2


def test_what_the_policy_forbids_is_refused_and_names_the_rule():
    bench = Bench(lambda _label, verb, _subject: Decision(verb != "call", "no calls today"))
    caller, service = bench.join(), bench.join("service/config", ("config.>",))
    caller.ask("config.get")
    assert caller.error().kind is Kind.FORBIDDEN
    assert "no calls today" in caller.error().message
    assert "manor bus explain" in caller.error().hint
    assert not requests(service)


def test_a_call_ends_at_its_budget_and_the_callee_is_told():
    bench, caller, service = pair()
    caller.ask("config.get", timeout=500)
    bench.wait(0.499)
    assert Frame.REP not in caller.kinds()
    bench.wait(0.002)
    assert caller.error().kind is Kind.TIMEOUT
    assert caller.error().delivered is True
    assert (service.last().k, service.last().re) == (Frame.CANCEL, "r1")


def test_a_deadline_on_the_shared_clock_shortens_the_budget_and_never_lengthens_it():
    bench, caller, service = pair()
    caller.ask("config.get", "late", timeout=5_000, deadline=int(bench.now * 1000) - 1)
    assert caller.error().kind is Kind.TIMEOUT
    assert caller.error().delivered is False
    caller.ask("config.get", "short", timeout=5_000, deadline=int(bench.now * 1000) + 100)
    assert service.downs[-1].n == int((bench.now + 0.1) * 1000)
    caller.ask("config.get", "long", timeout=200, deadline=int(bench.now * 1000) + 60_000)
    assert service.downs[-1].n == int((bench.now + 0.2) * 1000)


def test_when_the_callee_leaves_its_calls_end_at_once():
    bench, caller, service = pair()
    caller.ask("config.get")
    bench.gone(service, "crash")
    assert caller.error().kind is Kind.UNAVAILABLE
    assert caller.error().delivered is True
    assert "crash" in caller.error().message


def test_when_the_caller_leaves_the_callee_is_told():
    bench, caller, service = pair()
    caller.ask("config.get")
    address = caller.address
    bench.gone(caller)
    assert service.last().k == Frame.CANCEL
    assert service.downs[-1].items[0].sender == address
    assert not bench.switch.sessions.pending


def test_a_wish_to_cancel_is_passed_on_and_the_reply_still_counts():
    _, caller, service = pair()
    caller.ask("config.get")
    caller.say(Envelope(k=Frame.CANCEL, re="r1"))
    assert service.last().k == Frame.CANCEL
    service.reply(caller.address, "r1")
    assert caller.last().k == Frame.REP


def test_nobody_can_cancel_anothers_call():
    bench, caller, service = pair()
    other = bench.join()
    caller.ask("config.get")
    other.say(Envelope(k=Frame.CANCEL, re="r1"))
    assert service.last().k == Frame.REQ


def test_beyond_its_window_calls_wait_in_order_and_then_are_refused():
    _, caller, service = pair(in_flight_per_callee=4, queued_per_callee=2)
    for number in range(5):
        caller.ask("config.get", f"r{number}")
    assert [one.id for one in requests(service)] == ["r0", "r1"]
    assert (caller.error().kind, caller.error().delivered) == (Kind.NO_CAPACITY, False)
    service.reply(caller.address, "r1")
    service.reply(caller.address, "r0")
    assert [one.id for one in requests(service)] == ["r0", "r1", "r2", "r3"]


def test_who_fills_an_instance_does_not_keep_it_from_others():
    bench, caller, service = pair(in_flight_per_callee=4, queued_per_callee=4)
    greedy = bench.join("operator/greedy")
    for number in range(7):
        greedy.ask("config.get", f"g{number}")
    assert greedy.error().kind is Kind.NO_CAPACITY
    caller.ask("config.get", "r1")
    caller.ask("config.get", "r2")
    assert [one.id for one in requests(service)] == ["g0", "g1", "r1", "r2"]
    caller.ask("config.get", "r3")  # the queue is full of the greedy one's calls: its newest gives way
    assert (greedy.last().re, greedy.error().kind, greedy.error().delivered) == (
        "g5", Kind.NO_CAPACITY, False,
    )  # fmt: skip
    assert Frame.REP not in caller.kinds()
    service.reply(caller.address, "r1")
    assert requests(service)[-1].id == "r3"


def test_what_waits_is_bounded_in_bytes_too():
    _, caller, _ = pair(in_flight_per_callee=1)
    caller.ask("config.get", "first")
    fill = body({"fill": "x" * 1_000_000})
    for number in range(QUEUED_BYTES_MAX // 1_000_000):
        caller.ask("config.get", f"r{number}", data=fill)
    assert Frame.REP not in caller.kinds()
    caller.ask("config.get", "last", data=fill)
    assert caller.error().kind is Kind.NO_CAPACITY


def test_a_waiting_call_that_ends_was_not_delivered():
    bench, caller, service = pair(in_flight_per_callee=1)
    caller.ask("config.get", "first", timeout=5_000)
    caller.ask("config.get", "cancelled", timeout=5_000)
    caller.ask("config.get", "late", timeout=100)
    caller.ask("config.get", "lost", timeout=5_000)
    caller.say(Envelope(k=Frame.CANCEL, re="cancelled"))
    assert (caller.last().re, caller.error().delivered) == ("cancelled", False)
    bench.wait(0.2)
    assert (caller.last().re, caller.error().delivered) == ("late", False)
    bench.gone(service)
    ends = {d.items[0].envelope.re: d.items[0].envelope.err for d in caller.downs if d.items[0].envelope.err}
    assert (ends["first"].delivered, ends["lost"].delivered) == (True, False)
    assert [one.id for one in requests(service)] == ["first"]


def test_a_call_whose_budget_ends_together_with_the_one_before_it_is_not_delivered_late():
    bench, caller, service = pair(in_flight_per_callee=1)
    caller.ask("config.get", "first", timeout=100)
    caller.ask("config.get", "second", timeout=100)
    bench.wait(1.0)
    assert [one.id for one in requests(service)] == ["first"]
    assert (caller.last().re, caller.error().delivered) == ("first", True)


def test_a_waiting_call_is_not_delivered_after_its_budget_even_if_time_was_not_told_yet():
    bench, caller, service = pair(in_flight_per_callee=1)
    caller.ask("config.get", "first", timeout=9_000)
    caller.ask("config.get", "second", timeout=100)
    bench.now += 0.2
    service.reply(caller.address, "first")
    assert [one.id for one in requests(service)] == ["first"]
    bench.wait(0.0)
    assert (caller.last().re, caller.error().delivered) == ("second", False)


def test_one_peer_has_a_bounded_number_of_calls_under_way():
    _, caller, _ = pair(pending_calls=3)
    for number in range(4):
        caller.ask("config.get", f"r{number}")
    assert (caller.last().re, caller.error().kind) == ("r3", Kind.NO_CAPACITY)


def test_the_least_loaded_instance_is_asked_and_the_newest_among_equals():
    bench, caller, first = pair()
    second = bench.join("service/config", ("config.>",))
    caller.ask("config.get", "r1")
    caller.ask("config.get", "r2")
    assert [one.id for one in requests(second)] == ["r1"]
    assert [one.id for one in requests(first)] == ["r2"]


def test_a_draining_instance_gets_no_new_calls_and_hands_the_waiting_ones_on():
    bench, caller, first = pair(in_flight_per_callee=1)
    caller.ask("config.get", "r1")
    caller.ask("config.get", "r2")
    second = bench.join("service/config", ("config.>",))
    first.say(Envelope(k=Frame.DRAIN))
    assert first.last().k == Frame.DRAIN
    assert [one.id for one in requests(second)] == ["r2"]
    caller.ask("config.get", "r3")
    assert [one.id for one in requests(first)] == ["r1"]
    first.reply(caller.address, "r1")
    assert caller.last().re == "r1"


def test_calls_that_wait_for_a_draining_instance_come_back_when_there_is_no_other():
    _, caller, only = pair(in_flight_per_callee=1)
    caller.ask("config.get", "r1")
    caller.ask("config.get", "r2")
    only.say(Envelope(k=Frame.DRAIN))
    assert (caller.last().re, caller.error().kind, caller.error().delivered) == (
        "r2", Kind.UNAVAILABLE, False,
    )  # fmt: skip


def test_a_call_to_one_instance_goes_to_no_other():
    bench, caller, first = pair(in_flight_per_callee=1)
    bench.join("service/config", ("config.>",))
    place = first.address.partition("@")[2]
    caller.ask(f"config.get@{place}", "r1")
    caller.ask(f"config.get@{place}", "r2")
    assert [one.id for one in requests(first)] == ["r1"]
    first.say(Envelope(k=Frame.DRAIN))
    assert (caller.last().re, caller.error().delivered) == ("r2", False)
    caller.ask(f"config.get@{place}", "r3")
    assert caller.error().kind is Kind.UNAVAILABLE
    caller.ask(f"srv.info@{place}", "r4")
    assert Frame.REP in caller.kinds()
    assert bench.switch.sessions.pending[caller.address, "r4"].queued


def test_an_instance_is_asked_only_what_it_serves_and_about_itself():
    bench, caller, _ = pair()
    other = bench.join("operator/eve")
    place = other.address.partition("@")[2]
    caller.ask(f"config.get@{place}")
    assert caller.error().kind is Kind.UNAVAILABLE
    caller.ask(f"srv.ping@{place}", "r2")
    assert other.last().to == f"srv.ping@{place}"


def test_another_node_cannot_be_reached():
    _, caller, _ = pair()
    for number, to in enumerate(("config.get@n2", "bus.stats@n2", "config.get@n2/x")):
        caller.ask(to, f"r{number}")
        assert caller.error().kind is Kind.UNAVAILABLE
        assert "n2" in caller.error().message


def test_a_subject_the_broker_does_not_answer_is_refused():
    _, caller, _ = pair()
    caller.ask("bus.nothing")
    assert caller.error().kind is Kind.BAD_REQUEST


def test_a_tap_sees_calls_replies_refusals_and_what_the_broker_answers():
    bench, caller, service = pair()
    tap = bench.join()
    tap.subscribe(">", tap=True)
    caller.ask("config.get", "r1")
    service.reply(caller.address, "r1", part=True)
    service.reply(caller.address, "r1")
    caller.ask("lifecycle.x", "r2")
    caller.ask("bus.stats", "r3")
    bench.flush()
    seen = [
        (item.sender, item.envelope.k, item.envelope.id or item.envelope.re)
        for down in tap.batches()
        for item in down.items
        if not item.envelope.subject.startswith("bus.")
    ]
    me, them, broker = caller.address, service.address, bench.switch.address
    assert seen == [
        (me, Frame.REQ, "r1"), (them, Frame.PART, "r1"), (them, Frame.REP, "r1"),
        (me, Frame.REQ, "r2"), (broker, Frame.REP, "r2"), (me, Frame.REQ, "r3"), (broker, Frame.REP, "r3"),
    ]  # fmt: skip


def test_a_tap_sees_only_what_lies_under_its_pattern():
    bench, caller, _ = pair()
    tap = bench.join()
    tap.subscribe("lifecycle.>", tap=True)
    caller.ask("config.get")
    bench.flush()
    assert not [down for down in tap.batches() if down.items]


def test_only_operators_may_tap():
    bench, _, service = pair()
    service.subscribe(">", tap=True)
    assert service.error().kind is Kind.FORBIDDEN
    assert not bench.switch.fanout.taps


def test_a_service_may_say_for_whom_it_calls_and_the_callee_reads_it_as_it_was_sent():
    bench, caller, service = pair()
    lifecycle = bench.join("service/lifecycle")
    lifecycle.ask("config.get", on_behalf_of=caller.address)
    assert requests(service)[-1].on_behalf_of == caller.address


def test_nobody_but_a_service_may_speak_for_others():
    bench, caller, service = pair()
    other = bench.join("operator/bob")
    caller.ask("config.get", on_behalf_of=other.address)
    assert caller.error().kind is Kind.FORBIDDEN
    assert requests(service) == []


@pytest.mark.parametrize(
    "whom", ["operator/bob", "bob@n1/i", "operator/bob@n1/i i", "operator/bob@n1/" + "i" * 33]
)
def test_a_service_acts_only_for_what_can_be_an_address(whom):
    bench, _, service = pair()
    lifecycle = bench.join("service/lifecycle")
    lifecycle.ask("config.get", on_behalf_of=whom)
    assert lifecycle.error().kind is Kind.BAD_REQUEST
    assert lifecycle.error().problems[0].path == "on_behalf_of"
    assert requests(service) == []


def test_a_service_cannot_put_one_principals_instance_into_anothers_name():
    bench, caller, service = pair()
    lifecycle = bench.join("service/lifecycle")
    lifecycle.ask("config.get", on_behalf_of=caller.address.replace("operator/admin", "operator/bob"))
    assert lifecycle.error().kind is Kind.BAD_REQUEST
    assert requests(service) == []
