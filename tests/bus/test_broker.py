"""The broker's process against real peers; hostile ones are in tests/system."""

from __future__ import annotations

import os
import stat

from manor_bus import keys
from manor_bus.wire.errors import ManorError
from manor_bus.wire.messages import bus
from tests.testkit.brokers import real_broker


def test_the_socket_is_open_to_its_owner_alone() -> None:
    with real_broker() as broker, broker.client() as client:
        client.call(bus.BusStats(), bus.BusStatsAnswer, timeout=10)
        mode = (broker.directory / "run" / "bus.sock").stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert mode & 0o077 == 0


def test_the_broker_knows_which_process_of_which_user_a_peer_is() -> None:
    with real_broker() as broker, broker.client() as client:
        (me,) = client.call(bus.Peers(), bus.PeersListed, timeout=10).peers
        assert me.where == f"{os.getuid()}:{os.getgid()}:{os.getpid()}"
        assert me.address == client.address


def test_a_peer_that_left_is_forgotten() -> None:
    with real_broker() as broker, broker.client() as client:
        other = broker.client("service/config")
        other.call(bus.BusStats(), bus.BusStatsAnswer, timeout=10)
        gone = other.address
        other.close()
        for _ in range(200):
            listed = client.call(bus.Peers(), bus.PeersListed, timeout=10).peers
            if gone not in {peer.address for peer in listed}:
                return
        raise AssertionError("it is still listed")


def test_a_revoked_key_ends_the_live_session_and_opens_no_new_one() -> None:
    with real_broker() as broker, broker.client() as client, broker.client("service/config") as victim:
        victim.call(bus.BusStats(), bus.BusStatsAnswer, timeout=10)
        keys.revoke(broker.directory / "keys", "service/config")
        assert client.call(bus.Reload(), bus.Reloaded, timeout=10).ended == 1
        try:
            victim.call(bus.BusStats(), bus.BusStatsAnswer, timeout=2)
        except ManorError:
            return
        raise AssertionError("the revoked key still works")


def test_a_broker_without_keys_says_what_to_do() -> None:
    with real_broker() as broker:
        broker.kill()
        (broker.directory / "keys" / "broker.key").unlink()
        broker.start()
        assert broker.process.wait(20) == 8
