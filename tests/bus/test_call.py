"""The blocking client against a real broker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from manor_bus.peer.events import Change, Synced
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import bus
from tests.testkit.brokers import RealBroker, real_broker


@pytest.fixture(scope="module")
def broker() -> Iterator[RealBroker]:
    with real_broker() as made:
        yield made


def test_a_typed_call_gets_a_typed_reply(broker: RealBroker) -> None:
    with broker.client() as client:
        stats = client.call(bus.BusStats(), bus.BusStatsAnswer, timeout=10)
        assert stats.peers >= 1
        assert client.address.startswith("operator/admin@n1/")


def test_a_plain_call_gets_plain_values(broker: RealBroker) -> None:
    with broker.client() as client:
        asked = {"label": "observer/x", "verb": "watch", "subject": "domain.web"}
        assert client.raw_call("bus.explain", asked, timeout=10) == {
            "allowed": True, "rule": "observers may only watch",
        }  # fmt: skip


def test_a_refusal_names_the_field_and_the_reason(broker: RealBroker) -> None:
    with broker.client() as client, pytest.raises(ManorError) as refused:
        client.raw_call("bus.explain", {"label": "x", "verb": "fly", "subject": "a"}, timeout=10)
    assert refused.value.kind is Kind.BAD_REQUEST
    assert refused.value.problems[0].path == "verb"


def test_an_absent_service_is_waited_for_until_the_budget_is_over(broker: RealBroker) -> None:
    with broker.client() as client, pytest.raises(ManorError) as refused:
        client.raw_call("lifecycle.domain.start", {"name": "web"}, timeout=0.3)
    assert refused.value.kind is Kind.UNAVAILABLE
    assert refused.value.delivered is False


def test_news_reaches_a_watcher(broker: RealBroker) -> None:
    with broker.client() as watcher, broker.client() as speaker:
        for change in watcher.watch("operator.admin.>", timeout=20):
            if isinstance(change, Synced):
                speaker.publish("operator.admin.greeting", "greeting.v1", {"text": "hello"})
            elif isinstance(change, Change):
                assert change.value == {"text": "hello"}
                assert change.sender == speaker.address
                return
    raise AssertionError("nothing came")


def test_what_a_watcher_may_not_see_is_refused(broker: RealBroker) -> None:
    with broker.client("service/config") as client, pytest.raises(ManorError) as refused:
        for _ in client.items(">", tap=True, timeout=5):
            pass
    assert refused.value.kind is Kind.FORBIDDEN


def test_a_call_and_a_watch_survive_the_death_of_the_broker() -> None:
    with real_broker() as broker, broker.client() as client, broker.client() as speaker:
        first = client.call(bus.BusStats(), bus.BusStatsAnswer, timeout=10).epoch
        synced = 0
        for change in client.watch("operator.admin.>", timeout=30):
            if isinstance(change, Synced):
                synced += 1
                if synced == 1:
                    broker.kill()
                    broker.start()
                else:
                    speaker.publish("operator.admin.greeting", "greeting.v1", {}, timeout=10)
            else:
                break
        assert synced == 2
        assert client.call(bus.BusStats(), bus.BusStatsAnswer, timeout=10).epoch != first


def test_an_unreachable_bus_says_what_to_do() -> None:
    with real_broker() as broker:
        broker.kill()
        with broker.client() as client, pytest.raises(ManorError) as refused:
            client.call(bus.BusStats(), bus.BusStatsAnswer, timeout=0.3)
        assert refused.value.kind is Kind.UNAVAILABLE
        assert "manor up" in refused.value.hint
        broker.start()
