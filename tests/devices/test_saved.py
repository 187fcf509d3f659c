"""The disks of a saved domain are its own until it is restored or discarded."""

import asyncio

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.lifecycle import State
from manor_devices.backends import Claim, Target
from manor_devices.backends.fake import FakeBackend, World
from manor_devices.saved import Saved
from tests.devices.driving import UUID, bench, on_virtual_time, request
from tests.devices.test_sweeps import Lifecycle, domain

OTHER = "22222222-2222-2222-2222-222222222222"


class Claiming(FakeBackend):
    """Claims to write what a disk names."""

    async def claim(self, order):
        """Name it."""
        disk = order.request.disk
        return (Claim(order.target.path, disk.volume, write=not disk.read_only),)


class House:
    """A bench whose disks are volumes, with a lifecycle that may be asked."""

    def __init__(self, made):
        self.made, self.lifecycle, self.files, self.freed = made, Lifecycle(), {"root": "1:1"}, []
        made.calls._resolve = self.resolve
        self.wake()

    def wake(self):
        self.saved = Saved(self.made.records, self.made.driver.uses, self.lifecycle.ask, self.freed.append)
        self.made.driver.saved = self.saved

    async def resolve(self, wanted, deadline):
        file = self.files[wanted.disk.volume]
        return Target("fake", path=file, volume=f"volume-{file}")

    async def attach(self, uuid=UUID, incarnation=1, name="web", **fields):
        wanted = request("vda", incarnation, uuid, name, volume="root", **fields)
        descriptor = await self.made.calls.connect(wanted, self.made.soon())
        await self.made.calls.connected(wanted.key, descriptor.generation)

    async def save(self, state=State.SUSPENDED):
        await self.attach()
        self.lifecycle.domains = (domain(state),)
        await self.made.calls.domain_gone(UUID, 1, self.made.soon())


def house(folder):
    world = World(fresh=False)
    return bench(folder, world=world, factory=lambda settings: Claiming(settings, world))


@on_virtual_time
async def test_nobody_else_writes_the_disk_of_a_saved_domain_even_over_a_restart(tmp_path):
    async with house(tmp_path) as made:
        there = House(made)
        await there.save()
        for _ in range(2):
            with pytest.raises(ManorError, match="is being written by saved domain web") as caught:
                await there.attach(OTHER, name="db")
            assert caught.value.kind is Kind.DENIED_STATE
            assert "discard" in caught.value.hint
            await made.restart()
            made.calls._resolve = there.resolve
            there.wake()
        assert made.driver.uses.of_volume("root") == (("saved domain web", True),)
        await there.attach(incarnation=2)


@pytest.mark.parametrize("state", [State.DEFINED, State.RUNNING])
def test_a_domain_that_was_not_saved_holds_nothing(tmp_path, state):
    @on_virtual_time
    async def body(folder):
        async with house(folder) as made:
            there = House(made)
            await there.save(state)
            await there.attach(OTHER, name="db")
            assert there.freed == ["root"]
            assert made.records.keys("held/") == ()

    body(tmp_path)


@on_virtual_time
async def test_while_lifecycle_is_silent_a_domain_may_be_saved(tmp_path):
    async with house(tmp_path) as made:
        there = House(made)
        await there.save(State.DEFINED)
        there.lifecycle.silent = True
        with pytest.raises(ManorError, match="saved domain web"):
            await there.attach(OTHER, name="db")


@on_virtual_time
async def test_a_domain_is_not_restored_over_another_volume_of_that_name_and_may_be_started_over_it(tmp_path):
    async with house(tmp_path) as made:
        there = House(made)
        await there.save()
        there.files["root"] = "1:2"
        there.lifecycle.domains = (domain(State.RESTORING, operation="o1"),)
        with pytest.raises(ManorError, match="was saved with another disk vda"):
            await there.attach(incarnation=2)
        there.lifecycle.domains = (domain(State.STARTING, operation="o2"),)
        await there.attach(incarnation=2)


@on_virtual_time
async def test_what_is_held_goes_by_itself_after_a_discard(tmp_path):
    async with house(tmp_path) as made:
        there = House(made)
        keeping = asyncio.ensure_future(there.saved.keep())
        await there.save()
        await asyncio.sleep(200)
        assert there.freed == []
        there.lifecycle.domains = (domain(State.DEFINED),)
        await asyncio.sleep(100)
        assert there.freed == ["root"]
        keeping.cancel()
