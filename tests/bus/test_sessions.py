import pytest

from manor_bus.broker import sessions as module
from manor_bus.broker.admission import AdmissionQueue
from manor_bus.broker.sessions import Call, Peer, Sessions
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.bus import Hello


def greeted(made, name, serves=(), label="service/x"):
    peer = Peer(name.encode(), label, f"{label}@n1/{name}", b"", "", 0.0, AdmissionQueue(8, 8))
    made.admit(label, name, peer.conn)
    made.greet(peer, Hello(protocol=(1, 1), instance=name), serves, ())
    return peer


@pytest.fixture
def house():
    made = Sessions()
    return made, greeted(made, "caller", label="operator/a"), greeted(made, "callee", ("x.>",))


def call(caller, callee, name="1", deadline=10.0):
    return Call(caller, callee, name, "x.do", deadline, 0.0)


def test_nobody_is_picked_for_what_nobody_serves(house):
    made, _, callee = house
    assert made.pick("x.do") is callee
    assert made.pick("y.do") is None
    assert made.pick("x") is None


def test_who_greets_or_leaves_changes_who_is_picked(house):
    made, _, callee = house
    made.pick("x.do")
    second = greeted(made, "second", ("x.do",))
    assert made.pick("x.do") is second
    made.remove(second)
    assert made.pick("x.do") is callee
    made.remove(callee)
    assert made.pick("x.do") is None


def test_who_waits_for_a_service_is_told_once(house):
    made, caller, _ = house
    made.remember_wait(caller, "y.do")
    assert greeted(made, "z", ("z.>",)) is not None
    waiting = Peer(b"y", "service/y", "service/y@n1/y", b"", "", 0.0, AdmissionQueue(8, 8))
    hello = Hello(protocol=(1, 1), instance="y")
    assert made.greet(waiting, hello, ("y.>",), ()) == [caller]
    assert made.greet(waiting, hello, ("y.>",), ()) == []


def test_what_a_peer_waits_for_is_bounded(house):
    made, caller, _ = house
    for number in range(module.WAITS_MAX + 5):
        made.remember_wait(caller, f"y.{number}")
    assert len(caller.waits) == module.WAITS_MAX


def test_deadlines_come_in_order_and_forget_what_is_over(house):
    made, caller, callee = house
    calls = [call(caller, callee, name, deadline) for name, deadline in (("a", 3.0), ("b", 1.0), ("c", 2.0))]
    for one in calls:
        made.enter(one, b"")
    assert made.next_deadline() == 1.0
    assert not made.leave(calls[1], 0.0)
    assert made.next_deadline() == 2.0
    assert made.overdue(2.5) == [calls[2]]
    assert made.next_deadline() == 3.0


def test_ended_calls_with_long_budgets_do_not_pile_up(house):
    made, caller, callee = house
    for number in range(3 * module.ENDED_MAX):
        one = call(caller, callee, str(number), 86_400.0)
        made.enter(one, b"")
        list(made.leave(one, 0.0))
    assert len(made._deadlines) <= module.ENDED_MAX + 2


def test_a_peer_that_leaves_takes_its_calls_with_it(house):
    made, caller, callee = house
    there, back = call(caller, callee, "a"), call(callee, caller, "b")
    made.enter(there, b"")
    made.enter(back, b"")
    assert made.remove(callee) == ([there], [back])
    assert ("operator/a@n1/caller", "a") not in made.pending
    assert made.by_instance.get("callee") is None


def test_a_peer_that_calls_itself_loses_the_call_once(house):
    made, _, callee = house
    one = call(callee, callee)
    made.enter(one, b"")
    assert made.remove(callee) == ([one], [])


def test_instances_of_the_absent_are_remembered_up_to_a_bound(house, monkeypatch):
    made, _, callee = house
    monkeypatch.setattr(module, "INSTANCES_MAX", 3)
    old = greeted(made, "old", label="operator/b")
    made.remove(old)
    for name in ("n1", "n2"):
        made.remove(greeted(made, name, label="operator/c"))
    greeted(made, "old", label="operator/d")
    with pytest.raises(ManorError) as caught:
        made.admit("operator/d", "callee", b"other")
    assert caught.value.kind is Kind.CONFLICT
    assert callee.instance in made.by_instance


def test_who_drains_may_take_nothing_more(house):
    made, _, callee = house
    assert callee.may_take("x.do")
    assert not callee.may_take("y.do")
    made.drain(callee)
    assert not callee.may_take("x.do")
    assert made.pick("x.do") is None


def test_what_a_peer_that_leaves_had_called_is_ended_in_the_order_of_its_calls(house):
    """In every run: the order of addresses in memory made histories that could not be repeated."""
    made, caller, callee = house
    calls = [call(caller, callee, str(number)) for number in range(100)]
    taken = [one for one in calls if one not in made.enter(one, b"")]
    assert len(taken) > 10
    assert made.remove(caller)[1] == taken
