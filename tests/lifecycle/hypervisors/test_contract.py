"""What every adapter keeps, asked of each of them through the seam."""

from contextlib import asynccontextmanager

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.devices import Descriptor
from manor_bus.wire.messages.documents import Disk, DomainSpec, Memory
from manor_lifecycle.hypervisors import AdapterSettings, Attachment, Creation, fake
from manor_lifecycle.hypervisors.seen import Activity, CauseWord, Feature, Run, Seen, SeenDevice
from tests.lifecycle.hypervisors.qemu.guests import UID, UUID

RUN = Run(UUID, 1)


class Fake:
    """The fake on a folder."""

    def __init__(self, folder):
        self.folder = folder

    @asynccontextmanager
    async def hypervisor(self):
        made = fake.FakeHypervisor(AdapterSettings(self.folder, "n1"))
        yield made
        await made.close()

    def disk(self, name):
        return Attachment(Disk(id=name, source="/x"), Descriptor(type="fake", generation=1))


@pytest.fixture(params=["fake", pytest.param("qemu", marks=pytest.mark.qemu)])
def house(request, tmp_path):
    """Opens an adapter, again and again on the same guests."""
    return Fake(tmp_path) if request.param == "fake" else request.getfixturevalue("place")


def creation(*attachments, incarnation=1, **fields):
    shape = {"memory": Memory(size_mib=16, max_mib=32), "rng": False, **fields}
    spec = DomainSpec(disks=tuple(one.device for one in attachments), **shape)
    return Creation(Run(UUID, incarnation), "web", spec, attachments, uid=UID)


async def look(hypervisor, uuid=UUID):
    return (await hypervisor.look(uuid))[uuid]


async def test_of_what_was_never_there_there_is_nothing_and_never_was(house):
    async with house.hypervisor() as hypervisor:
        assert await look(hypervisor, "nobody") == Seen("nobody")
        assert "nobody" not in await hypervisor.look()


async def test_a_run_says_what_it_does_and_why_also_after_a_restart(house):
    async with house.hypervisor() as hypervisor:
        wished = creation(house.disk("root"))
        await hypervisor.create(wished)
        run = (await look(hypervisor)).run
        assert (run.run, run.born, run.name, run.spec, run.ours) == (RUN, 1, "web", wished.spec, True)
        assert (run.activity, run.cause.word) == (Activity.STANDS, CauseWord.PRELAUNCH)
        assert run.devices == (SeenDevice("root", "ok"),)
        assert Feature.DISK_PLUG in run.features
        await hypervisor.resume(RUN)
        assert (await look(hypervisor)).run.activity is Activity.RUNS
        await hypervisor.pause(RUN)
    async with house.hypervisor() as hypervisor:
        seen = (await hypervisor.look())[UUID]
        assert (seen.last, seen.ended, seen.unknown) == (1, None, "")
        assert (seen.run.activity, seen.run.cause.word) == (Activity.STANDS, CauseWord.PERSON)
        assert (seen.run.spec, seen.run.started) == (wished.spec, run.started)
        assert seen.run.uptime_s >= run.uptime_s >= 0


async def test_the_spec_of_a_run_follows_what_is_changed_while_it_lives(house):
    async with house.hypervisor() as hypervisor:
        await hypervisor.create(creation(house.disk("root")))
        await hypervisor.plug(RUN, house.disk("more"))
        await hypervisor.set_memory(RUN, 24)
        await hypervisor.unplug(RUN, "root", force=True, timeout_s=0.1)
    async with house.hypervisor() as hypervisor:
        run = (await look(hypervisor)).run
        assert [one.id for one in run.spec.disks] == ["more"]
        assert [one.id for one in run.devices] == ["more"]
        assert (run.spec.memory.size_mib, run.spec.memory.max_mib) == (24, 32)


async def test_a_reset_is_another_run_with_the_links_of_the_first(house):
    async with house.hypervisor() as hypervisor:
        await hypervisor.create(creation(house.disk("root")))
        await hypervisor.reset(RUN, 4)
        seen = await look(hypervisor)
        assert (seen.last, seen.run.run.incarnation, seen.run.born) == (4, 4, 1)
        await hypervisor.destroy(Run(UUID, 4))
        assert (await look(hypervisor)).run is None


async def test_a_number_is_made_once_also_after_a_restart(house):
    async with house.hypervisor() as hypervisor:
        await hypervisor.create(creation(incarnation=3))
        await hypervisor.destroy(Run(UUID, 3))
    async with house.hypervisor() as hypervisor:
        assert await look(hypervisor) == (await hypervisor.look())[UUID] == Seen(UUID, 3)
        for number in (2, 3):
            with pytest.raises(ManorError) as refused:
                await hypervisor.create(creation(incarnation=number))
            assert refused.value.kind is Kind.STALE
        await hypervisor.create(creation(incarnation=4))
        with pytest.raises(ManorError) as refused:
            await hypervisor.remove(UUID)
        assert refused.value.kind is Kind.DENIED_STATE


async def test_a_saved_guest_has_an_id_and_comes_back_as_it_was(house, tmp_path):
    state = house.folder / "state"
    async with house.hypervisor() as hypervisor:
        await hypervisor.create(creation(house.disk("root")))
        image = await hypervisor.save(RUN, state, lambda part: None, "op-1")
        assert (image.id, image.uuid, image.incarnation, image.spec.memory.size_mib) == ("op-1", UUID, 1, 16)
        assert await hypervisor.saved_image(state) == image
        await hypervisor.destroy(RUN)
        today = creation(house.disk("root"), incarnation=2, memory=Memory(size_mib=24))
        with pytest.raises(ManorError) as refused:
            await hypervisor.restore(today, state, "op-2")
        assert refused.value.kind is Kind.STALE
        await hypervisor.restore(today, state, "op-1")
        run = (await look(hypervisor)).run
        assert (run.activity, run.born, run.spec.memory.size_mib, run.memory_mib) == (
            Activity.STANDS,
            2,
            16,
            16,
        )
        nothing, next_ = house.folder / "nothing", creation(house.disk("root"), incarnation=3)
        await hypervisor.destroy(today.run)
        for call in (hypervisor.saved_image(nothing), hypervisor.restore(next_, nothing)):
            with pytest.raises(ManorError) as refused:
                await call
            assert refused.value.kind is Kind.NOT_FOUND


async def test_what_a_domain_leaves_is_listed_and_removed(house):
    async with house.hypervisor() as hypervisor:
        assert await hypervisor.leftovers(UUID) == ()
        assert await hypervisor.last_run(UUID) is None
        await hypervisor.create(creation())
        assert await hypervisor.last_run(UUID) is None, "its first run is not over"
        await hypervisor.destroy(RUN)
        assert "note" in {one.kind for one in await hypervisor.leftovers(UUID)}
        assert await hypervisor.last_run(UUID) is not None
        await hypervisor.remove(UUID)
        assert await hypervisor.last_run(UUID) is None
        assert await hypervisor.leftovers(UUID) == ()
        assert await look(hypervisor) == Seen(UUID)
