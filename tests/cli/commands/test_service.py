import os

import pytest

from manor_bus.wire.messages import Done
from manor_bus.wire.messages.bus import BusStats, Peers, PeersListed
from manor_bus.wire.messages.node import Drain, Info
from manor_cli.runner import control, systemd
from tests.cli.fake import FakeClient, run
from tests.cli.runner.test_instances import STATS, peer, told


class Supervised(FakeClient):
    """A bus and a supervisor: a restarted service comes back as another instance."""

    def __init__(self, *peers):
        super().__init__({BusStats: STATS, Peers: self.listed, Info: told(), Drain: self.drained})
        self.peers, self.wishes, self.drains = list(peers), [], []

    def listed(self, _):
        return PeersListed(peers=tuple(self.peers))

    def drained(self, request):
        self.drains.append((self.at[-1], request.deadline_ms))
        return Done()

    def wish(self, run, do, within=0.0, **more):
        self.wishes.append({"do": do, **more})
        self.peers = [peer(f"service/{more['service']}", "b2")]
        return {"pid": 77}


@pytest.fixture
def supervised(monkeypatch):
    def make(*peers):
        client = Supervised(*peers)
        monkeypatch.setattr(control, "ask", client.wish)
        return client

    return make


def test_the_list_has_the_fields_that_programs_rely_on_and_the_broker(supervised):
    rows = run("service", "list", "-o", "json", client=supervised(peer("service/config", "a1"))).json
    assert [row["name"] for row in rows] == ["bus", "config"]
    assert all(row.keys() >= {"name", "instance", "pid", "ready", "version", "node"} for row in rows)


def test_a_restart_ends_when_another_instance_is_ready(supervised):
    client = supervised(peer("service/config", "a1"))
    ran = run("service", "restart", "config", client=client)
    assert client.wishes == [{"do": "restart", "service": "config"}]
    assert ran.out == "config is ready again as b2 (pid 77)\n"


def test_a_restart_that_does_not_come_back_is_a_timeout(supervised, monkeypatch):
    client = supervised(peer("service/config", "a1"))
    monkeypatch.setattr(control, "ask", lambda *_, **__: {})
    ran = run("--timeout", "0.1", "service", "restart", "config", client=client)
    assert ran.code == 9
    assert "manor service logs config" in ran.err


def test_an_instance_is_drained_by_name(supervised):
    client = supervised(peer("service/config", "a1"))
    assert run("service", "drain", "config", "--deadline", "3", client=client).out == "config.a1 drains\n"
    assert client.drains == [("n1/a1", 3000)]


def test_of_two_instances_one_must_be_named(supervised):
    client = supervised(peer("service/config", "a1"), peer("service/config", "b2"))
    assert run("service", "drain", "config", client=client).code == 3
    run("service", "drain", "config.b", client=client)
    assert client.drains == [("n1/b2", 10_000)]


def test_a_replacement_is_waited_for_by_its_pid(supervised):
    client = supervised(peer("service/config", "a1"))
    ran = run("service", "replace", "config", client=client)
    assert client.wishes == [{"do": "replace", "service": "config"}]
    assert ran.out == "config is b2 now (pid 77)\n"


def test_units_of_systemd_are_restarted_by_systemd_and_not_replaced(supervised, monkeypatch):
    client = supervised(peer("service/config", "a1"))
    unit = systemd.Unit("manor-config.service", "active", 7, 0)
    monkeypatch.setattr(systemd, "units", lambda _: {"config": unit})
    ran = run("service", "replace", "config", client=client)
    assert ran.code == 2
    assert "manor service restart config" in ran.err
    monkeypatch.setattr(systemd, "act", lambda verb, name: client.wish(name, verb, service="config"))
    assert run("service", "restart", "config", client=client).code == 0
    assert client.wishes == [{"do": "restart", "service": "config"}]


def test_the_broker_is_not_replaced_but_restarted(supervised):
    ran = run("service", "replace", "bus", client=supervised())
    assert ran.code == 2
    assert "manor service restart bus" in ran.err


def test_the_end_of_a_log_is_printed_without_its_control_characters(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "config.log").write_text("one\ntwo\x1b[2J\nthree\n")
    assert run("service", "logs", "config", "-n", "2", directory=tmp_path).out == "two\\x1b[2J\nthree\n"


def test_a_log_that_is_not_there_is_empty(tmp_path):
    assert run("service", "logs", "devices", directory=tmp_path).out == ""


def test_a_supervisor_that_is_not_there_is_told(supervised, tmp_path, monkeypatch):
    client = supervised(peer("service/config", "a1"))
    monkeypatch.undo()
    ran = run("service", "restart", "config", client=client, directory=tmp_path)
    assert ran.code == 8
    assert os.fspath(tmp_path) in ran.err


def test_only_services_that_there_are_can_be_named(supervised):
    assert run("service", "restart", "kitchen", client=supervised()).code == 2
