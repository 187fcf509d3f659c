"""The documents the room follows, and what devices name in them."""

import asyncio

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import Done
from manor_bus.wire.messages.devices import (
    Connect,
    Connected,
    Descriptor,
    DeviceList,
    DevicesListed,
    DomainGone,
    VolumeList,
    VolumesListed,
)
from manor_bus.wire.messages.documents import Disk, Metadata, Network, NetworkSpec, Nic, Volume, VolumeSpec
from manor_devices import images
from tests.devices.driving import UUID, key, on_virtual_time
from tests.devices.rooms import place

VOLUME = Volume(metadata=Metadata(name="root", uuid="v1", revision=3), spec=VolumeSpec(size_mib=8))


def disk(device="vda"):
    return Connect(key=key(device), domain="web", type="disk", disk=Disk(id=device, volume="root"))


def nic(network):
    return Connect(key=key("net0"), domain="web", type="nic", nic=Nic(id="net0", network=network))


def network(cidr):
    return Network(metadata=Metadata(name="nat", uuid="n"), spec=NetworkSpec(cidr=cidr))


@pytest.fixture
def instant_images(monkeypatch):
    """Images made without a process: the clock is virtual."""

    async def create(path, *_, **__):
        path.write_bytes(b"image".ljust(65_536))

    async def chain(path, format_, field="source"):
        resolved, identity = images.identify(path)
        return (images.Layer(resolved, format_, 8 << 20, 0, identity),)

    monkeypatch.setattr(images, "create", create)
    monkeypatch.setattr(images, "chain", chain)


@pytest.fixture
def virtual_place(tmp_path, instant_images):
    return tmp_path


def test_a_volume_applied_with_its_user_is_made_before_it_is_used(virtual_place):
    @on_virtual_time
    async def scenario(tmp_path):
        async with place(tmp_path) as made:
            made.config.apply(VOLUME)
            descriptor = await made.ask(disk(), Descriptor)
            assert descriptor.type == "file"
            assert descriptor.args["path"].endswith("volumes/default/root-v1.qcow2")
            assert descriptor.args["format"] == "qcow2"
            (volume,) = (await made.ask(VolumeList(), VolumesListed)).volumes
            assert (volume.state, volume.users) == ("ready", ("web/vda",))

    scenario(virtual_place)


def test_a_deleted_document_deletes_the_file_once_nobody_uses_it_even_over_a_restart(virtual_place):
    @on_virtual_time
    async def scenario(tmp_path):
        async with place(tmp_path) as made:
            made.config.apply(VOLUME)
            path = (await made.ask(disk(), Descriptor)).args["path"]
            made.config.delete("volume", "root")
            await asyncio.sleep(1)
            (volume,) = (await made.ask(VolumeList(), VolumesListed)).volumes
            assert (volume.state, volume.path) == ("deleting", path)
            await made.restart(kill=True)
            await asyncio.sleep(100)
            assert (tmp_path / path).exists()
            await made.ask(DomainGone(uuid=UUID, incarnation=1), Done)
            await asyncio.sleep(1)
            assert not (tmp_path / path).exists()

    scenario(virtual_place)


def test_a_volume_that_goes_under_a_guest_is_broken_and_failed_within_seconds(virtual_place):
    @on_virtual_time
    async def scenario(tmp_path):
        async with place(tmp_path) as made:
            made.config.apply(VOLUME)
            descriptor = await made.ask(disk(), Descriptor)
            await made.ask(Connected(key=disk().key, generation=1), Done)
            await asyncio.sleep(10)
            (tmp_path / descriptor.args["path"]).unlink()
            await asyncio.sleep(7)
            (device,) = (await made.ask(DeviceList(), DevicesListed)).devices
            assert device.state == "BROKEN"
            assert "is gone" in device.reason
            (volume,) = (await made.ask(VolumeList(), VolumesListed)).volumes
            assert volume.state == "failed"
            assert "is gone" in volume.reason

    scenario(virtual_place)


def test_a_config_that_lost_its_documents_deletes_nothing(virtual_place):
    @on_virtual_time
    async def scenario(tmp_path):
        async with place(tmp_path) as made:
            made.config.apply(VOLUME)
            path = (await made.ask(disk(), Descriptor)).args["path"]
            await made.ask(DomainGone(uuid=UUID, incarnation=1), Done)
            await made.house.stop("config")
            await made.house.start("config", type(made.config)().open_room, None)
            await asyncio.sleep(200)
            await made.restart(kill=True)
            await asyncio.sleep(200)
            assert (tmp_path / path).exists()
            (volume,) = (await made.ask(VolumeList(), VolumesListed)).volumes
            assert volume.state == "failed"
            assert "never deleted" in volume.reason

    scenario(virtual_place)


@on_virtual_time
async def test_a_network_that_was_not_told_yet_is_asked_for(tmp_path):
    async with place(tmp_path) as made:
        made.config.documents["Network", "nat"] = network("10.5.0.0/24")
        assert (await made.ask(nic("nat"), Descriptor)).args == {"cidr": "10.5.0.0/24"}


@on_virtual_time
async def test_a_changed_network_is_used_by_the_next_device(tmp_path):
    async with place(tmp_path) as made:
        made.config.apply(network("10.5.0.0/24"))
        await made.ask(nic("nat"), Descriptor)
        made.config.apply(network("10.6.0.0/24"))
        await asyncio.sleep(1)
        other = Connect(key=key("net1"), domain="web", type="nic", nic=Nic(id="net1", network="nat"))
        assert (await made.ask(other, Descriptor)).args == {"cidr": "10.6.0.0/24"}


@on_virtual_time
async def test_a_name_without_a_document_is_not_found_at_once(tmp_path):
    async with place(tmp_path) as made:
        for wanted in (nic("gone"), disk()):
            begun = asyncio.get_running_loop().time()
            with pytest.raises(ManorError, match="there is no") as caught:
                await made.ask(wanted, Descriptor, within=60)
            assert caught.value.kind is Kind.NOT_FOUND
            assert asyncio.get_running_loop().time() - begun < 1


@on_virtual_time
async def test_a_volume_that_is_never_made_is_told_within_the_callers_time(tmp_path):
    async with place(tmp_path) as made:
        waiting = Volume(metadata=VOLUME.metadata, spec=VolumeSpec(size_mib=8, clone_of="gone"))
        made.config.apply(waiting)
        with pytest.raises(ManorError, match="volume root is creating") as caught:
            await made.ask(disk(), Descriptor, within=20)
        assert caught.value.kind is Kind.UNAVAILABLE
