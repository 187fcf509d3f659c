"""The fake back end does as it is told."""

import asyncio

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_devices.backends.fake import WORLDS, open_backend
from tests.devices.backends.orders import disk_order, settings


async def test_what_it_serves_outlives_it_within_one_process(tmp_path):
    order = disk_order("any")
    backend = open_backend(settings(tmp_path))
    await backend.observe([])
    await backend.prepare(order)
    await backend.close()
    again = open_backend(settings(tmp_path))
    observation = await again.observe([])
    assert [leftover.ours for leftover in observation.leftovers] == [True]
    await again.discard(observation.leftovers[0])
    assert WORLDS.pop(tmp_path).served == {}


async def test_in_a_new_process_it_believes_what_the_service_remembers(tmp_path):
    order = disk_order("any")
    backend = open_backend(settings(tmp_path))
    assert (await backend.observe([order])).present == (order.key,)
    del WORLDS[tmp_path]


@pytest.mark.parametrize(("word", "kind"), [("fail", Kind.INTERNAL), ("refuse", Kind.DENIED_STATE)])
async def test_it_fails_as_told_by_the_source_or_by_its_settings(tmp_path, word, kind):
    for backend, source in (
        (open_backend(settings(tmp_path)), f"fake:{word}"),
        (open_backend(settings(tmp_path, prepare=word)), "any"),
    ):
        with pytest.raises(ManorError) as caught:
            await backend.prepare(disk_order(source))
        assert caught.value.kind is kind
    del WORLDS[tmp_path]


async def test_it_hangs_as_told(tmp_path):
    hanging = asyncio.ensure_future(open_backend(settings(tmp_path)).prepare(disk_order("fake:hang")))
    await asyncio.sleep(0)
    assert not hanging.done()
    hanging.cancel()
    del WORLDS[tmp_path]


async def test_it_tells_what_happens_to_what_it_serves(tmp_path):
    notices = []
    backend = open_backend(settings(tmp_path, notices))
    order = disk_order("any", generation=4, epoch=2)
    await backend.prepare(order)
    world = WORLDS.pop(tmp_path)
    world.take_away(order.key)
    world.kill(order.key)
    world.kill(order.key)
    world.die()
    assert [(notice.what, notice.key, notice.generation, notice.epoch) for notice in notices] == [
        ("gone", order.key, 4, 2),
        ("lost", order.key, 4, 2),
        ("lost", None, 0, 0),
    ]
