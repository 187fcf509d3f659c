"""Files that guests have open, and what becomes of them."""

import asyncio
import os
import threading

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_devices import storage
from manor_devices.backends.file import open_backend
from manor_devices.backends.watch import Watch
from manor_host.blocking import Lanes
from tests.devices.backends.orders import disk_order, settings


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(1 << 20))
    return path


@pytest.fixture
async def watch():
    notices = []
    made = Watch(notices.append)
    made.notices = notices
    yield made
    await made.close()


def unlink(path):
    path.unlink()


def truncate(path):
    os.truncate(path, 4096)


def replace(path):
    other = path.with_name("other")
    other.write_bytes(bytes(1 << 20))
    other.rename(path)


@pytest.mark.parametrize(
    ("happen", "reason"), [(unlink, "is gone"), (truncate, "was truncated"), (replace, "was replaced")]
)
async def test_a_file_that_goes_under_a_guest_is_told_once(watch, disk, happen, reason):
    order = disk_order(disk, generation=3, epoch=2)
    watch.follow(order, [str(disk)])
    await watch.look()
    assert watch.notices == []
    happen(disk)
    await watch.look()
    await watch.look()
    (notice,) = watch.notices
    assert (notice.what, notice.key, notice.generation, notice.epoch) == ("gone", order.key, 3, 2)
    assert reason in notice.reason


async def test_a_file_that_grows_or_was_released_is_no_news(watch, disk):
    watch.follow(disk_order(disk), [str(disk)])
    await watch.look()
    os.truncate(disk, 2 << 20)
    await watch.look()
    watch.forget(disk_order(disk).key)
    disk.unlink()
    await watch.look()
    assert watch.notices == []


class Mounts:
    """Lanes in which one mount hangs until it is let go."""

    def __init__(self, dead):
        self.lanes, self.dead, self.back = Lanes(), dead, threading.Event()

    async def call(self, lane, what, work, timeout):
        """Make the call, or never."""
        if str(self.dead) in what and not self.back.is_set():
            lane, work, timeout = f"{lane}dead", self.back.wait, 0.05
        return await self.lanes.call(lane, what, work, timeout)


@pytest.fixture
def mounts(tmp_path, monkeypatch):
    made = Mounts(tmp_path / "nfs")
    made.dead.mkdir()
    monkeypatch.setattr(storage, "lanes", made)
    monkeypatch.setattr("manor_devices.backends.watch.mount_of", lambda path: "nfs" if "nfs" in path else "/")
    yield made
    made.back.set()


async def test_a_mount_that_does_not_answer_is_told_and_harms_only_what_lies_on_it(watch, disk, mounts):
    there = mounts.dead / "disk.raw"
    there.write_bytes(bytes(4096))
    watch.follow(disk_order(there, id="vda"), [str(there)])
    watch.follow(disk_order(disk, id="vdb"), [str(disk)])
    await watch.look()
    disk.unlink()
    await watch.look()
    assert [(notice.what, notice.key.id) for notice in watch.notices] == [("silent", "vda"), ("gone", "vdb")]
    mounts.back.set()
    await asyncio.to_thread(mounts.back.wait)
    while watch.notices[-1].what != "answers":
        await watch.look()
    assert [notice.what for notice in watch.notices] == ["silent", "gone", "answers"]


async def test_a_disk_on_a_dead_mount_is_refused_in_time_and_others_are_served(tmp_path, disk, mounts):
    backend = open_backend(settings(tmp_path))
    with pytest.raises(ManorError, match="no answer") as caught:
        await backend.claim(disk_order(mounts.dead / "x"))
    assert caught.value.kind is Kind.UNAVAILABLE
    with pytest.raises(ManorError, match="does not answer"):
        await backend.claim(disk_order(mounts.dead / "y"))
    assert await backend.claim(disk_order(disk))
    known = [disk_order(mounts.dead / "x"), disk_order(disk, id="vdb")]
    assert (await backend.observe(known)).present == tuple(order.key for order in known)
    await backend.close()
