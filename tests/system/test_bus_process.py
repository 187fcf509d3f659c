"""A real broker process against peers that do not keep to the rules. All traffic stays on this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import zmq

from manor_bus import keys
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import bus
from tests.testkit.brokers import RealBroker, real_broker

pytestmark = pytest.mark.system
WAIT_MS = 1_500


def free_endpoint() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def broker() -> Iterator[RealBroker]:
    with real_broker(free_endpoint()) as made:
        with made.client() as client:
            client.call(bus.BusStats(), bus.BusStatsAnswer, timeout=20)
        yield made


Dealer = Callable[[], "zmq.Socket[bytes]"]


@pytest.fixture
def dealer() -> Iterator[Dealer]:
    """Make sockets of our own, and close them all."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made: list[zmq.Socket[bytes]] = []

    def make() -> zmq.Socket[bytes]:
        made.append(context.socket(zmq.DEALER))
        return made[-1]

    yield make
    for one in made:
        one.close(0)
    context.term()


def lives(broker: RealBroker) -> bus.BusStatsAnswer:
    with broker.client() as client:
        return client.call(bus.BusStats(), bus.BusStatsAnswer, timeout=10)


def attached(dealer: Dealer, broker: RealBroker, principal: str = "operator/admin") -> zmq.Socket[bytes]:
    pair = keys.load(keys.key_file(broker.directory / "keys", principal))
    made = dealer()
    made.curve_publickey, made.curve_secretkey = pair.public.encode(), pair.secret.encode()
    made.curve_serverkey = (broker.directory / "keys" / "broker.pub").read_text().strip().encode()
    made.connect(broker.settings().endpoint)
    return made


def test_no_end_point_takes_a_peer_without_a_key(broker: RealBroker, dealer: Dealer) -> None:
    for endpoint in (broker.settings().endpoint, broker.tcp):
        bare = dealer()
        bare.connect(endpoint)
        bare.send(b"\x81\xa1k\x01")
        assert not bare.poll(WAIT_MS), f"{endpoint} answers without CURVE"
    assert lives(broker).peers == 1


def test_a_key_that_was_never_authorised_is_refused(broker: RealBroker, dealer: Dealer) -> None:
    stranger = dealer()
    pair = keys.generate()
    stranger.curve_publickey, stranger.curve_secretkey = pair.public.encode(), pair.secret.encode()
    stranger.curve_serverkey = (broker.directory / "keys" / "broker.pub").read_text().strip().encode()
    stranger.connect(broker.tcp)
    stranger.send(b"\x81\xa1k\x01")
    assert not stranger.poll(WAIT_MS)


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"\xff" * 100, b"\x91" * 5_000, b"\x82\xa1k\x03\xa1k\x01"])
def test_garbage_ends_its_sender_and_nobody_else(broker: RealBroker, dealer: Dealer, garbage: bytes) -> None:
    with broker.client() as good:
        good.call(bus.BusStats(), bus.BusStatsAnswer, timeout=10)
        bad = attached(dealer, broker, "service/config")
        bad.send(garbage)
        assert bad.poll(10_000), "the reason is told"
        assert good.call(bus.BusStats(), bus.BusStatsAnswer, timeout=10).counters["protocol_errors"] >= 1


def test_a_second_frame_is_a_violation_and_memory_stays_bounded(broker: RealBroker, dealer: Dealer) -> None:
    before = lives(broker).resident_kib
    bad = attached(dealer, broker, "service/config")
    bad.sndtimeo = 200
    sent = 0
    try:
        for _ in range(20_000):
            bad.send_multipart([b"x" * 60_000] * 4)
            sent += 1
    except zmq.Again:
        pass  # it is cut off, so its queue fills and stays full
    assert sent < 20_000
    assert lives(broker).resident_kib - before < 256 * 1024


def test_automatic_routing_ids_do_not_start_where_libc_starts() -> None:
    script = (
        "from manor_bus.broker.server import harden; harden()\nimport ctypes; print(ctypes.CDLL(None).rand())"
    )
    drawn = {
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(drawn) == 2
    assert str(0x6B8B4567) not in {one.strip() for one in drawn}


def test_a_stopped_broker_is_a_timeout_and_going_on_is_enough(broker: RealBroker) -> None:
    with broker.client() as client:
        client.call(bus.BusStats(), bus.BusStatsAnswer, timeout=10)
        os.kill(broker.process.pid, signal.SIGSTOP)
        try:
            with pytest.raises(ManorError) as late:
                client.call(bus.BusStats(), bus.BusStatsAnswer, timeout=0.5)
            assert late.value.kind in (Kind.TIMEOUT, Kind.UNAVAILABLE)
        finally:
            os.kill(broker.process.pid, signal.SIGCONT)
        assert client.call(bus.BusStats(), bus.BusStatsAnswer, timeout=20).peers == 1
