"""The health check of containers: what it asks, and what it makes of the answers."""

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from manor_bus import check, keys
from manor_bus.broker.server import Broker
from manor_bus.settings import BrokerSettings
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.bus import BusStats, Peers, PeersListed, PeerView
from manor_bus.wire.messages.node import Info, InfoAnswer


def attached(name, instance, serves=("lifecycle.>",)):
    return PeerView(
        address=f"service/{name}@n1/{instance}", name=f"service/{name}", instance=instance, version="", pid=1,
        serves=serves, owns=(), subscriptions=0, calls_pending=0, calls_in_flight=0, received=0, sent=0,
        draining=False, connected_s=1.0,
    )  # fmt: skip


class Answers:
    """A client whose calls are answered from a table: instance -> InfoAnswer or the error it gives."""

    def __init__(self, peers, told):
        self._peers, self._told, self.asked = peers, told, []

    def call(self, request, reply, *, timeout, at=""):
        self.asked.append((type(request), at))
        if isinstance(request, Peers):
            return PeersListed(peers=self._peers)
        told = self._told.get(at.partition("/")[2])
        if isinstance(told, ManorError):
            raise told
        return told


def told(instance, **changes):
    facts = {"name": "lifecycle", "instance": instance, "node": "n1", "pid": 1, "version": "", "ready": True}
    return InfoAnswer(**(facts | changes))


def test_a_service_with_a_ready_instance_is_well():
    client = Answers((attached("config", "c1"), attached("lifecycle", "l1")), {"l1": told("l1")})
    check.check(client, "lifecycle")
    assert client.asked == [(Peers, ""), (Info, "n1/l1")]


def test_one_ready_instance_is_enough_while_another_leaves_or_hangs():
    hangs = ManorError(Kind.TIMEOUT, "no reply", delivered=None)
    peers = tuple(attached("lifecycle", name) for name in ("l1", "l2", "l3"))
    check.check(Answers(peers, {"l1": hangs, "l2": told("l2", draining=True), "l3": told("l3")}), "lifecycle")


@pytest.mark.parametrize(
    ("peers", "answers"),
    [
        ((), {}),
        ((attached("config", "c1"),), {"c1": told("c1")}),
        ((attached("lifecycle", "l1", serves=()),), {"l1": told("l1")}),
        ((attached("lifecycle", "l1"),), {"l1": told("l1", ready=False)}),
        ((attached("lifecycle", "l1"),), {"l1": told("l1", draining=True)}),
    ],
    ids=["nobody", "another service", "only a client with its key", "not ready yet", "leaving"],
)
def test_a_service_without_a_ready_instance_is_not_well(peers, answers):
    with pytest.raises(ManorError) as caught:
        check.check(Answers(peers, answers), "lifecycle")
    assert caught.value.kind is Kind.UNAVAILABLE


def test_the_broker_is_asked_for_its_counters():
    client = Answers((), {})
    check.check(client, "bus")
    assert client.asked == [(BusStats, "")]


def run_check(directory, name):
    return subprocess.run(
        [sys.executable, "-m", "manor_bus.check", name],
        env={**os.environ, "MANOR_DIR": str(directory), "MANOR_NODE": "n1"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_as_a_command_it_says_by_its_exit_code_how_a_real_broker_is():
    with tempfile.TemporaryDirectory(prefix="manor") as name:
        directory = Path(name)
        keys.create(directory / "keys")
        keys.add(directory / "keys", "service/health")
        assert run_check(directory, "bus").returncode == 1
        broker = Broker(BrokerSettings("n1", (f"ipc://{directory}/run/bus.sock",), directory / "keys"))
        serving = threading.Thread(target=broker.run)
        serving.start()
        try:
            assert run_check(directory, "bus").returncode == 0
            absent = run_check(directory, "config")
            assert absent.returncode == 1
            assert "no instance of config is ready" in absent.stderr
        finally:
            broker.stop()
            serving.join()
            broker.close()
