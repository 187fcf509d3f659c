from __future__ import annotations

import asyncio
import errno
import os
import threading

import pytest

from manor_host import blocking
from manor_host.blocking import Lanes, Stuck


async def test_what_a_call_returns_or_raises_comes_back():
    lanes = Lanes()
    assert await lanes.call("/a", "a sum", lambda: 1 + 1, 10) == 2
    with pytest.raises(OSError, match="I/O") as caught:
        await lanes.call("/a", "a read", lambda: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")), 10)
    assert caught.value.errno == errno.EIO


async def test_a_lane_that_hangs_is_told_at_once_harms_no_other_and_comes_back(tmp_path):
    lanes, fifo = Lanes(), tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(Stuck, match="look at the disk: no answer from /dead"):
        await lanes.call("/dead", "look at the disk", fifo.read_bytes, 0.05)
    with pytest.raises(Stuck, match="look at the disk has not returned yet"):
        await lanes.call("/dead", "another", os.getpid, 60)
    assert lanes.stuck() == {"/dead": "look at the disk"}
    assert await lanes.call("/alive", "the time", os.getpid, 10) == os.getpid()
    fifo.write_bytes(b"it answers again")
    async with asyncio.timeout(10):
        for _ in iter(lanes.stuck, {}):
            await asyncio.sleep(0)
    assert await lanes.call("/dead", "the time", os.getpid, 10) == os.getpid()


async def test_what_waited_behind_a_late_call_never_begins():
    lanes, gate, began = Lanes(), threading.Event(), []
    first = asyncio.create_task(lanes.call("/a", "the first", gate.wait, 0.05))
    second = asyncio.create_task(lanes.call("/a", "the second", lambda: began.append(1), 0.05))
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Stuck, Stuck]
    gate.set()
    async with asyncio.timeout(10):
        for _ in iter(lanes.stuck, {}):
            await asyncio.sleep(0)
    await lanes.call("/a", "the third", os.getpid, 10)
    assert began == []


async def test_a_call_that_is_cancelled_before_it_begins_never_begins():
    lanes, gate, began = Lanes(), threading.Event(), []
    first = asyncio.create_task(lanes.call("/a", "the first", gate.wait, 30))
    second = asyncio.create_task(lanes.call("/a", "the second", lambda: began.append(1), 30))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    gate.set()
    await first
    await lanes.call("/a", "the third", os.getpid, 10)
    assert began == []


async def test_lanes_and_what_waits_in_them_are_bounded(monkeypatch):
    monkeypatch.setattr(blocking, "LANES_MAX", 2)
    monkeypatch.setattr(blocking, "WAITING_MAX", 1)
    lanes, gate = Lanes(), threading.Event()
    busy = [asyncio.create_task(lanes.call(name, "wait", gate.wait, 30)) for name in ("/a", "/b")]
    await asyncio.sleep(0)
    with pytest.raises(Stuck, match="2 mounts are in use"):
        await lanes.call("/c", "one more", os.getpid, 30)
    gate.set()
    await asyncio.gather(*busy)


async def test_threads_that_have_nothing_to_do_end(monkeypatch):
    monkeypatch.setattr(blocking, "IDLE_S", 0.01)
    monkeypatch.setattr(blocking, "LANES_MAX", 1)
    lanes = Lanes()
    await lanes.call("/idle", "one", os.getpid, 10)
    async with asyncio.timeout(10):
        for _ in iter(lambda: any(one.name == "lane /idle" for one in threading.enumerate()), False):
            await asyncio.sleep(0)
    assert await lanes.call("/b", "two", os.getpid, 10) == os.getpid()
