"""The broker's process against real peers; hostile ones are in tests/system."""

from __future__ import annotations

import bisect
import os
import shutil
import stat
import subprocess
import sys
import time

import pytest

from manor_bus import keys
from manor_bus.peer.blocking import Client
from manor_bus.wire import codec
from manor_bus.wire.envelope import Down
from manor_bus.wire.errors import ManorError
from manor_bus.wire.messages import bus
from manor_host import processes
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


def readable(depth: int) -> bool:
    """Whether this process can skip over what is nested so deep, in a message as the broker hands it on."""
    try:
        codec.decode(b"\x93\x00\x00\x91\x92\xa0\x82\xa1k\x0b\xa4data" + b"\x91" * depth + b"\xc0", Down)
    except ManorError:
        return False
    return True


@pytest.mark.parametrize("key", ["new", "data", "err"])
def test_what_is_nested_too_deep_in_a_head_ends_its_sender_and_nobody_else(key: str) -> None:
    """The broker looks at the head alone, and hands on nothing that a reader cannot skip over. How deep that
    is Python decides: 1,000 calls in all until 3.11, 10,000 of C alone since."""
    deepest = bisect.bisect(range(20_000), False, key=lambda depth: not readable(depth))
    with real_broker() as broker, broker.client() as good, broker.client("service/config") as bad:
        for depth in (deepest - 100, deepest, deepest + 1, 1_000_000):
            before = stats(good).counters.get("protocol_errors", 0)
            stats(bad)  # it is attached (again)
            head = b"\x82" + codec.encode("k") + codec.encode(11) + codec.encode(key)
            assert bad._link.send(head + b"\x91" * depth + b"\xc0", 5.0)
            assert any(stats(good).counters.get("protocol_errors", 0) > before for _ in range(500))


def stats(client: Client) -> bus.BusStatsAnswer:
    return client.call(bus.BusStats(), bus.BusStatsAnswer, timeout=10)


def test_a_broker_without_keys_says_what_to_do() -> None:
    with real_broker() as broker:
        broker.kill()
        (broker.directory / "keys" / "broker.key").unlink()
        broker.start()
        assert broker.process.wait(20) == 8


def test_a_socket_that_was_cleaned_away_comes_back_and_nobody_is_cut_off() -> None:
    with real_broker() as broker, broker.client() as client:
        before = client.call(bus.BusStats(), bus.BusStatsAnswer, timeout=10)
        session = client.address
        shutil.rmtree(broker.directory / "run")
        with broker.client("service/config") as other:
            assert other.call(bus.BusStats(), bus.BusStatsAnswer, timeout=10).epoch == before.epoch
        client.call(bus.BusStats(), bus.BusStatsAnswer, timeout=10)
        assert client.address == session
        assert (broker.directory / "run" / "bus.sock").stat().st_mode & 0o077 == 0


def test_a_second_broker_waits_and_takes_no_socket_away() -> None:
    with real_broker() as broker, broker.client() as client:
        before = client.call(bus.BusStats(), bus.BusStatsAnswer, timeout=10)
        second = subprocess.Popen([sys.executable, "-m", "manor_bus"], env=broker.environment)
        try:
            lock = str(broker.directory / "bus" / "lock")
            while lock not in processes.open_files(second.pid):
                time.sleep(0.01)
            with broker.client("service/config") as other:
                assert other.call(bus.BusStats(), bus.BusStatsAnswer, timeout=10).epoch == before.epoch
            broker.kill()
            after = client.call(bus.BusStats(), bus.BusStatsAnswer, timeout=10)
            assert after.epoch != before.epoch
        finally:
            second.terminate()
            second.wait(10)
