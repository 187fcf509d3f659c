from __future__ import annotations

import asyncio

import pytest

from manor_bus import keys
from manor_bus.peer.serving import connect
from manor_bus.peer.transport import BlockingLink
from manor_bus.wire.errors import ManorError
from manor_bus.wire.messages import bus
from tests.testkit.brokers import real_broker


def test_every_key_pair_is_another_one() -> None:
    pairs = {keys.generate() for _ in range(4)}
    assert len(pairs) == 4
    assert all(len(half) == 40 for pair in pairs for half in (pair.public, pair.secret))


async def test_many_calls_at_once_come_back_each_to_its_caller() -> None:
    with real_broker() as broker:
        peer = connect(broker.settings())
        await peer.ready()
        asked = [bus.Explain(label="operator/x", verb="call", subject=f"a.b{n}") for n in range(2_000)]
        replies = await asyncio.gather(*(peer.call(one, bus.Explained, timeout=30) for one in asked))
        assert len(replies) == len(asked)
        assert all(reply.allowed for reply in replies)
        await peer.close()


async def test_a_peer_finds_the_broker_again_after_its_death() -> None:
    with real_broker() as broker:
        peer = connect(broker.settings())
        await peer.ready()
        before = (await peer.call(bus.BusStats(), bus.BusStatsAnswer, timeout=10)).epoch
        broker.kill()
        call = asyncio.get_running_loop().create_task(
            peer.call(bus.BusStats(), bus.BusStatsAnswer, timeout=20)
        )
        await asyncio.sleep(0)
        broker.start()
        assert (await call).epoch != before
        await peer.close()


async def test_a_peer_whose_key_is_unknown_is_told_so() -> None:
    with real_broker() as broker:
        with broker.client() as client:  # now the broker has read the keys, and does not again
            client.call(bus.BusStats(), bus.BusStatsAnswer, timeout=10)
        keys.add(broker.directory / "keys", "operator/eve")
        peer = connect(broker.settings("operator/eve"))
        with pytest.raises(ManorError):
            await peer.ready(timeout=5)
        await peer.close()


def test_nothing_is_queued_for_a_broker_that_is_not_there() -> None:
    with real_broker() as broker:
        broker.kill()
        pair = keys.load(keys.key_file(broker.directory / "keys", "operator/admin"))
        public = (broker.directory / "keys" / "broker.pub").read_text().strip()
        link = BlockingLink(broker.settings().endpoint, pair, public)
        assert link.send(b"\x80", 0.05) is False
        link.close()
        broker.start()
