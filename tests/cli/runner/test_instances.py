import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.bus import BusStats, BusStatsAnswer, Peers, PeersListed, PeerView
from manor_bus.wire.messages.node import Info, InfoAnswer
from manor_cli.app import App
from manor_cli.runner import instances
from tests.cli.fake import FakeClient

STATS = BusStatsAnswer(
    epoch="e7", uptime_s=5.0, peers=2, subscriptions=0, pending=0, ring=0, resident_kib=1, counters={}
)


def peer(name, instance, serves=("x.>",), draining=False):
    return PeerView(
        address=f"{name}@n1/{instance}",
        name=name,
        instance=instance,
        version="0.1.0",
        pid=77,
        serves=serves,
        owns=(),
        subscriptions=0,
        calls_pending=0,
        calls_in_flight=0,
        received=1,
        sent=1,
        draining=draining,
        connected_s=3.0,
    )


def told(ready=True, draining=False):
    return InfoAnswer(
        name="config", instance="a", node="n1", pid=77, version="0.1.0", ready=ready, draining=draining
    )


def app(*peers, info=None):
    client = FakeClient(
        {BusStats: STATS, Peers: PeersListed(peers=peers), Info: info or told()},
    )
    made = App(connect=lambda _: client, environment={"MANOR_DIR": "/nowhere", "MANOR_NODE": "n1"})
    return made, client


def test_the_broker_and_every_service_instance_are_there_and_people_are_not():
    made, client = app(peer("service/config", "a1"), peer("operator/admin", "b2", serves=()))
    rows = instances.instances(made)
    assert [(row["name"], row["instance"], row["ready"]) for row in rows] == [
        ("bus", "e7", True),
        ("config", "a1", True),
    ]
    assert rows[1]["pid"] == 77
    assert all(row.keys() >= {"name", "instance", "pid", "ready", "version", "node"} for row in rows)
    assert client.at[-1] == "n1/a1"


@pytest.mark.parametrize(
    ("one", "info"),
    [
        (peer("service/config", "a1", serves=()), told()),
        (peer("service/config", "a1"), told(ready=False)),
        (peer("service/config", "a1"), told(draining=True)),
        (peer("service/config", "a1", draining=True), told()),
        (peer("service/config", "a1"), ManorError(Kind.TIMEOUT, "silent")),
    ],
)
def test_an_instance_is_ready_when_it_says_so_and_takes_calls(one, info):
    assert not instances.instances(app(one, info=info)[0])[1]["ready"]


def test_what_is_missing_is_what_no_instance_is_ready_for():
    rows = [
        {"name": "config", "ready": False},
        {"name": "config", "ready": True},
        {"name": "bus", "ready": False},
    ]
    assert instances.missing(rows, ("bus", "config", "devices")) == ["bus", "devices"]


def test_waiting_ends_when_there_is_enough():
    made, _ = app(peer("service/config", "a1"))
    rows = instances.wait(made, lambda rows: len(rows) == 2, 60.0, alive=lambda: None)
    assert len(rows) == 2


def test_waiting_ends_when_the_time_is_over():
    made, _ = app()
    assert instances.wait(made, lambda _: False, 0.0, alive=lambda: None) != []


def test_waiting_ends_when_there_is_nothing_left_to_wait_for():
    def dead():
        raise ManorError(Kind.UNAVAILABLE, "it died")

    with pytest.raises(ManorError, match="it died"):
        instances.wait(app()[0], lambda _: True, 60.0, alive=dead)


def test_a_bus_that_is_not_there_yet_is_asked_again_over_a_new_connection():
    answers = iter([ManorError(Kind.UNAVAILABLE, "not yet"), STATS])
    client = FakeClient({BusStats: lambda _: next(answers), Peers: PeersListed(peers=())})
    made = App(connect=lambda _: client, environment={"MANOR_DIR": "/nowhere"})
    assert len(instances.wait(made, bool, 60.0, alive=lambda: None)) == 1
    assert client.closed == 1
