import errno
import json
import os

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import Done
from manor_bus.wire.messages.bus import BusStats, Peers, PeersListed
from manor_bus.wire.messages.guests import GuestsStart
from manor_bus.wire.messages.node import Info
from manor_cli.runner import control, guests, present, starting, stopping, systemd
from manor_cli.settings import lock_of
from manor_host import durable, locks
from manor_host.processes import Identity
from tests.cli.fake import FakeClient, run
from tests.cli.runner.test_instances import STATS, peer, told

SERVICES = ("config", "discovery", "lifecycle", "devices")


def bus(*names):
    peers = tuple(peer(f"service/{name}", f"{name}1") for name in names)
    return FakeClient({BusStats: STATS, Peers: PeersListed(peers=peers), Info: told()})


def supervisor(*names):
    services = [{"name": name, "phase": "running", "pid": 7, "since": 1.0, "restarts": 0} for name in names]
    return lambda *_, **__: {"pid": 99, "services": services}


def test_a_state_directory_is_made_and_said(tmp_path):
    ran = run("init", "--node", "n1", directory=tmp_path / "state")
    assert ran.code == 0
    assert "created node name n1" in ran.out
    assert "manor up" in ran.err
    assert "complete already" in run("init", directory=tmp_path / "state").out


@pytest.mark.parametrize("nodes", ["0", "2"])
def test_several_nodes_on_a_machine_are_refused(tmp_path, nodes):
    ran = run("up", "--detach", "--nodes", nodes, directory=tmp_path / "state")
    assert ran.code == 2
    assert "--nodes 1" in ran.err
    assert not (tmp_path / "state").exists()


def test_where_a_node_lives_no_second_one_is_started(tmp_path, monkeypatch):
    run("init", directory=tmp_path)
    monkeypatch.setattr(starting, "detach", lambda _: pytest.fail("started twice"))
    lock = locks.take(lock_of(tmp_path))
    for words in ((), ("--detach",), ("--detach", "--hypervisor", "fake")):
        ran = run("up", *words, client=bus(*SERVICES), directory=tmp_path)
        assert ran.code == 4
        assert f"a node lives in {tmp_path} already" in ran.err
        assert "manor down" in ran.err
    os.close(lock)


def test_units_of_systemd_are_part_of_the_status(tmp_path, monkeypatch):
    unit = systemd.Unit("manor-bus.service", "active", 7, 3)
    monkeypatch.setattr(systemd, "units", lambda _: {"bus": unit})
    ran = run("status", client=bus(*SERVICES), directory=tmp_path)
    assert ran.code == 0
    assert "supervisor       systemd" in ran.out


def test_a_start_that_does_not_become_ready_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(starting, "detach", lambda _: None)
    ran = run(
        "--timeout", "0.1", "up", "--detach", "--hypervisor", "fake", client=bus("config"), directory=tmp_path
    )
    assert ran.code == 8
    assert "not ready in time: discovery, lifecycle, devices" in ran.err


def test_the_status_names_every_service(tmp_path, monkeypatch):
    monkeypatch.setattr(control, "ask", supervisor("bus", *SERVICES))
    ran = run("status", client=bus(*SERVICES), directory=tmp_path)
    assert ran.code == 0
    assert "supervisor       pid 99" in ran.out
    assert "answers" in ran.out


def test_the_status_is_an_error_when_not_everything_is_ready(tmp_path, monkeypatch):
    monkeypatch.setattr(control, "ask", supervisor("bus", *SERVICES))
    ran = run("status", "-o", "json", client=bus("config"), directory=tmp_path)
    assert ran.code == 8
    assert json.loads(ran.out)["missing"] == ["discovery", "lifecycle", "devices"]


def test_the_status_of_nothing_needs_no_bus(tmp_path):
    ran = run("status", directory=tmp_path)
    assert ran.code == 8
    assert "not running" in ran.out


def test_a_bus_that_does_not_answer_is_part_of_the_status(tmp_path, monkeypatch):
    monkeypatch.setattr(control, "ask", supervisor("bus"))
    client = FakeClient({BusStats: ManorError(Kind.TIMEOUT, "no reply within the budget")})
    assert "no reply within the budget" in run("status", client=client, directory=tmp_path).out


def test_down_where_nothing_runs_is_no_error(tmp_path):
    ran = run("down", directory=tmp_path)
    assert ran.code == 0
    assert ran.out == "everything is stopped\n"


@pytest.mark.parametrize(
    ("words", "halted"), [((), [None]), (("--deadline", "5"), [5.0]), (("--keep-domains",), [])]
)
def test_down_asks_the_guests_unless_they_shall_go_on(tmp_path, monkeypatch, words, halted):
    asked = []
    monkeypatch.setattr(stopping, "stop_everything", lambda _, guests: [])
    deaf = guests.Ended(cut_off=("deaf",))
    monkeypatch.setattr(guests, "shut_down", lambda _, limit, why: asked.append(limit) or deaf)
    ran = run("down", *words, directory=tmp_path)
    assert ran.code == 0
    assert asked == halted
    assert ("cut off, for they did not shut down in time: deaf" in ran.out) == bool(halted)


def test_the_guests_of_a_node_are_shut_down_while_its_services_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(guests, "shut_down", lambda *_: guests.Ended(cut_off=("deaf",)))
    ran = run("node", "shutdown-guests", directory=tmp_path)
    assert ran.code == 0
    assert ran.out == "cut off, for they did not shut down in time: deaf\n"


def test_guests_that_nobody_could_ask_to_shut_down_are_an_error(tmp_path, monkeypatch):
    assert run("node", "shutdown-guests", directory=tmp_path).code == 0
    monkeypatch.setattr(present, "guests", lambda _: [1])
    ran = run("node", "shutdown-guests", directory=tmp_path)
    assert ran.code == 8
    assert "1 guest processes could not be asked" in ran.err


def test_what_the_host_ended_is_started_when_all_services_are_ready(tmp_path):
    client = bus(*SERVICES)
    client.answers = {**client.answers, GuestsStart: Done()}
    ran = run("node", "start-guests", client=client, directory=tmp_path)
    assert ran.code == 0
    assert GuestsStart(reason="manor node start-guests") in client.asked


def test_down_that_leaves_something_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(stopping, "stop_everything", lambda _, guests: [Identity(4711, 1, "")])
    ran = run("down", directory=tmp_path)
    assert ran.code == 1
    assert "4711" in ran.err


def test_guests_that_go_on_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(present, "guests", lambda _: [1, 2])
    assert "2 guest processes go on" in run("down", "--keep-domains", directory=tmp_path).out


@pytest.mark.parametrize(
    ("words", "cut"), [((), False), (("--deadline", "0"), True), (("--deadline", "1"), False)]
)
def test_guests_that_nobody_could_ask_are_cut_off_only_when_that_is_said(tmp_path, monkeypatch, words, cut):
    ended = []
    monkeypatch.setattr(stopping, "stop_everything", lambda _, guests: ended.append(guests) or [])
    monkeypatch.setattr(present, "guests", lambda _: [] if cut else [1])
    ran = run("down", *words, directory=tmp_path)
    assert ended == [cut]
    assert ran.code == (0 if cut else 8)
    assert cut or "lifecycle not running" in ran.err


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EIO, errno.EDQUOT, errno.ESTALE])
@pytest.mark.parametrize("command", ["init", "up"])
def test_a_state_directory_that_cannot_be_used_is_one_line(tmp_path, monkeypatch, command, number):
    def refused(*_, **__):
        raise OSError(number, os.strerror(number), str(tmp_path))

    monkeypatch.setattr(durable, "replace", refused)
    ran = run(command, directory=tmp_path / "state")
    assert ran.code not in (0, 1)
    assert os.strerror(number) in ran.err
    assert "Traceback" not in ran.err
    assert "this is a bug" not in ran.err
