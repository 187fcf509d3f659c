"""A driver with its back ends in a loop of virtual time, without a bus: restarts and deaths at will."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from manor_bus.wire.messages.devices import Connect, DeviceKey
from manor_bus.wire.messages.documents import Disk
from manor_devices import storage
from manor_devices.backends import Target
from manor_devices.backends.fake import FakeBackend, World
from manor_devices.connections import Connections
from manor_devices.driver import Driver
from manor_devices.modules import Installed, Modules
from manor_devices.records import Records
from tests.testkit import virtual

UUID = "11111111-1111-1111-1111-111111111111"


async def inline(work):
    work()


def key(device="vda", incarnation=1, uuid=UUID):
    return DeviceKey(uuid=uuid, incarnation=incarnation, id=device)


def request(device="vda", incarnation=1, uuid=UUID, domain="web", **fields):
    disk = Disk(id=device, provider="fake", **fields)
    return Connect(key=key(device, incarnation, uuid), domain=domain, type="disk", disk=disk)


async def resolve(request, deadline):
    return Target(request.disk.provider if request.disk else request.type)


@dataclass
class Bench:
    """One service after another over the same folder and the same world."""

    folder: object
    world: World = field(default_factory=lambda: World(fresh=False))
    factory: object = None
    seen: list = field(default_factory=list)
    leftovers: list = field(default_factory=list)

    def __post_init__(self):
        self.factory = self.factory or (lambda settings: FakeBackend(settings, self.world))

    async def start(self):
        self.records = Records(self.folder / "records", inline)
        self.driver = Driver(
            self.records, self.changed, lambda name: None, lambda *found: self.leftovers.append(found)
        )
        found = {"fake": Installed("1", lambda: self.factory)}
        self.modules = Modules(self.records, self.folder, "mark", found, self.driver)
        self.driver.modules = self.modules
        self.calls = Connections(self.records, self.driver, resolve)
        await self.modules.start()
        self.driver.awake()

    def changed(self, connection):
        self.seen.append((connection.request.key.id, connection.state.value, connection.generation))
        self.calls.forget_if_over(connection)

    async def stop(self):
        await self.driver.close()
        await self.modules.close()
        await self.records.close()

    async def restart(self):
        await self.stop()
        await self.start()

    def states(self):
        return {
            (
                slot.connection.request.key.id,
                slot.connection.request.key.incarnation,
            ): slot.connection.state.value
            for slot in self.driver.slots.values()
        }

    def connection(self, device="vda", incarnation=1, uuid=UUID):
        return self.driver.slots[uuid, incarnation, device].connection

    async def connect(self, device="vda", incarnation=1, within=100.0, **fields):
        return await self.calls.connect(request(device, incarnation, **fields), self.now() + within)

    async def attach(self, device="vda", incarnation=1, **fields):
        descriptor = await self.connect(device, incarnation, **fields)
        await self.calls.connected(key(device, incarnation), descriptor.generation)
        return descriptor

    def now(self):
        return asyncio.get_running_loop().time()

    def soon(self):
        return self.now() + 100.0


@asynccontextmanager
async def bench(folder, **fields):
    made = Bench(folder, **fields)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


class Inline:
    """Makes calls that may hang at once: in virtual time nobody can wait for a thread."""

    async def call(self, lane, what, work, timeout):
        """Make it."""
        return work()


def on_virtual_time(test):
    """Run an async test on virtual time."""

    def run(tmp_path):
        before, storage.lanes = storage.lanes, Inline()
        try:
            virtual.run(test(tmp_path))
        finally:
            storage.lanes = before

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run
