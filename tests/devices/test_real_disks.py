"""Disks of real back ends through the whole driver: deaths, stops, restarts, one image for two domains."""

import asyncio
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.devices import Connect, DeviceKey
from manor_bus.wire.messages.documents import Disk
from manor_devices import images
from manor_devices.backends import Target, daemons, nbd
from manor_devices.connections import Connections
from manor_devices.driver import Driver
from manor_devices.modules import Modules, installed
from manor_devices.records import Records

pytestmark = pytest.mark.skipif(
    shutil.which("qemu-storage-daemon") is None, reason="qemu-storage-daemon is not installed"
)
WITHIN_S = 60.0


def request(domain, path, provider, device="vda", **fields):
    disk = Disk(id=device, source=str(path), provider=provider, **fields)
    key = DeviceKey(uuid=f"{domain}-uuid", incarnation=1, id=device)
    return Connect(key=key, domain=domain, type="disk", disk=disk)


async def resolve(wanted, deadline):
    return Target(wanted.disk.provider, path=wanted.disk.source, format=wanted.disk.format or "raw")


class Service:
    """The driver and its back ends, without a bus; restarted at will."""

    def __init__(self, folder):
        self.folder, self.seen = folder, []
        self.news = asyncio.Event()

    def changed(self, connection):
        self.seen.append((connection.state.value, connection.generation, connection.epoch))
        self.news.set()
        self.calls.forget_if_over(connection)

    async def start(self):
        self.records = Records(self.folder / "records")
        self.driver = Driver(self.records, self.changed, lambda name: None, lambda *found: None)
        kept = {name: entry for name, entry in installed().items() if name in ("file", "nbd")}
        self.modules = Modules(self.records, self.folder, "mark", kept, self.driver)
        self.driver.modules = self.modules
        self.calls = Connections(self.records, self.driver, resolve)
        await self.modules.start()

    async def stop(self):
        await self.driver.close()
        await self.modules.close()
        await self.records.close()

    def now(self):
        return asyncio.get_running_loop().time()

    async def attach(self, wanted):
        descriptor = await self.calls.connect(wanted, self.now() + WITHIN_S)
        await self.calls.connected(wanted.key, descriptor.generation)
        return descriptor

    async def end(self, *domains):
        for domain in domains:
            await self.calls.domain_gone(f"{domain}-uuid", 1, self.now() + WITHIN_S)

    async def until(self, *wanted):
        async with asyncio.timeout(WITHIN_S):
            while not self.seen or self.seen[-1] not in wanted:
                self.news.clear()
                await self.news.wait()


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="manor-disks-") as name:
        yield Path(name)


@pytest.fixture
async def service(folder):
    made = Service(folder)
    await made.start()
    yield made
    await made.end("web", "db")
    await made.stop()


@pytest.fixture
async def image(folder):
    await images.create(folder / "disk.raw", "raw", 4)
    return folder / "disk.raw"


def server(descriptor):
    mark = nbd._listen(Path(descriptor.args["path"]))
    return daemons.find(nbd.PROGRAM, mark).get(mark)


async def test_a_killed_storage_daemon_is_an_orphan_for_a_moment_and_then_connected_again(service, image):
    first = await service.attach(request("web", image, "nbd"))
    service.seen.clear()
    os.kill(server(first), signal.SIGKILL)
    await service.news.wait()
    await service.until(("CONNECTED", 2, 2))
    assert [state for state, _, _ in service.seen] == ["ORPHANED", "REQUESTED", "PREPARING", "CONNECTED"]
    (status,) = service.calls.listed("web")
    assert status.descriptor.args == first.args
    assert server(first) is not None


async def test_a_stopped_storage_daemon_is_replaced(service, image, monkeypatch):
    monkeypatch.setattr(nbd, "GREET_S", 0.2)
    await service.modules.configure("quick", "nbd", {"probe_s": "0.05"})
    first = await service.attach(request("web", image, "quick"))
    stopped = server(first)
    os.kill(stopped, signal.SIGSTOP)
    await service.until(("CONNECTED", 2, 2))
    assert server(first) not in (None, stopped)


async def test_a_restart_of_the_service_leaves_the_storage_daemon_and_the_connection_alone(service, image):
    first = await service.attach(request("web", image, "nbd"))
    pid = server(first)
    await service.stop()
    await service.start()
    (status,) = service.calls.listed("web")
    assert (status.state.value, status.generation, status.provider_epoch) == ("CONNECTED", 1, 1)
    assert server(first) == pid
    os.kill(pid, signal.SIGKILL)
    await service.until(("CONNECTED", 2, 2))


async def test_a_storage_daemon_that_died_with_the_service_is_started_again(service, image):
    first = await service.attach(request("web", image, "nbd"))
    await service.stop()
    os.kill(server(first), signal.SIGKILL)
    await service.start()
    await service.until(("CONNECTED", 2, 1), ("CONNECTED", 2, 2))  # its death may be seen a little later
    assert server(first) is not None


async def test_a_storage_daemon_without_a_record_is_ended_at_the_next_start(service, image, folder):
    first = await service.attach(request("web", image, "nbd"))
    held = daemons.hold(server(first), nbd._listen(Path(first.args["path"])))
    ended = asyncio.Event()
    held.watch(ended.set)
    await service.stop()
    (folder / "records").unlink()
    await service.start()
    await asyncio.wait_for(ended.wait(), WITHIN_S)


@pytest.mark.parametrize(("mine", "theirs"), [("file", "file"), ("file", "nbd"), ("nbd", "file")])
async def test_one_image_is_not_written_by_two_domains(service, image, mine, theirs):
    await service.attach(request("web", image, mine))
    with pytest.raises(ManorError, match="is being written by web/vda") as caught:
        await service.attach(request("db", image, theirs))
    assert caught.value.kind is Kind.DENIED_STATE
    assert "shareable" in caught.value.hint
    await service.end("web")
    await service.attach(request("db", image, theirs))


async def test_one_image_may_be_shared_when_both_say_so_or_read_by_many(service, image):
    for domain in ("web", "db"):
        await service.attach(request(domain, image, "file", shareable=True))
    await service.end("web", "db")
    for domain in ("mail", "shop"):
        await service.attach(request(domain, image, "file", readonly=True))
    await service.end("mail", "shop")


async def test_a_clone_in_use_protects_its_base(service, image, folder):
    await images.create(folder / "top.qcow2", "qcow2", 4, below=(str(image), "raw"))
    await service.attach(request("web", folder / "top.qcow2", "nbd", format="qcow2"))
    with pytest.raises(ManorError, match="is being read by web/vda"):
        await service.attach(request("db", image, "file"))
