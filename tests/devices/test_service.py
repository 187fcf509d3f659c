"""The devices service on the bus."""

import asyncio
from contextlib import aclosing

import pytest

from manor_bus.peer.aio import Synced
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import Done
from manor_bus.wire.messages.devices import (
    BackendList,
    BackendLoad,
    BackendsListed,
    BackendStatus,
    BackendUnload,
    Connect,
    Connected,
    Descriptor,
    Detach,
    DeviceList,
    DevicesListed,
    DomainGone,
    Refused,
    Released,
    VolumeList,
    VolumesListed,
)
from manor_bus.wire.messages.documents import Metadata, Network, NetworkSpec, Nic, Provider, ProviderSpec
from manor_devices.backends import Leftover, Observation
from manor_devices.backends.fake import FakeBackend
from tests.devices.driving import UUID, key, on_virtual_time, request
from tests.devices.rooms import place


async def states(watch, count):
    """Take `count` changes from a watch as (subject, state or None)."""
    seen = []
    async for change in watch:
        if not isinstance(change, Synced):
            seen.append((change.subject, change.value.state if change.value else None))
        if len(seen) >= count:
            return seen
    return seen


@on_virtual_time
async def test_a_device_lives_its_life_over_the_bus_and_everybody_can_watch(tmp_path):
    async with (
        place(tmp_path) as made,
        aclosing(made.house.peer().watch("device.*.*", policy="gap")) as watch,
    ):
        following = asyncio.ensure_future(states(watch, 9))
        await asyncio.sleep(1)
        descriptor = await made.ask(request(), Descriptor)
        assert descriptor.generation == 1
        await made.ask(Connected(key=key(), generation=1), Done)
        listed = await made.ask(DeviceList(domain="web"), DevicesListed)
        assert [(device.state, device.provider) for device in listed.devices] == [("CONNECTED", "fake")]
        await made.ask(Detach(key=key()), Done)
        await made.ask(Refused(key=key(), generation=1, reason="busy"), Done)
        await made.ask(Released(key=key(), generation=1), Done)
        seen = [state for _, state in await following]
        assert seen[:6] == ["REQUESTED", "PREPARING", "READY", "CONNECTING", "CONNECTED", "CLOSING"]
        assert await made.ask(DeviceList(), DevicesListed) == DevicesListed(devices=())
        await made.ask(DomainGone(uuid=UUID, incarnation=1), Done)
        await made.ask(DomainGone(uuid=UUID, incarnation=1), Done)
        assert made.world.served == {}


@on_virtual_time
async def test_a_killed_service_starts_again_and_nothing_of_the_guests_changed(tmp_path):
    async with place(tmp_path) as made:
        await made.ask(request(), Descriptor)
        await made.ask(Connected(key=key(), generation=1), Done)
        before = (await made.ask(DeviceList(), DevicesListed)).devices
        for kill in (True, False, True):
            await made.restart(kill=kill)
        assert (await made.ask(DeviceList(), DevicesListed)).devices == before
        assert list(made.world.served) == [key()]


@on_virtual_time
async def test_a_restart_shows_watchers_no_false_changes(tmp_path):
    async with place(tmp_path) as made, aclosing(made.house.peer().watch("device.*.*")) as watch:
        await made.ask(request(), Descriptor)
        await made.ask(Connected(key=key(), generation=1), Done)
        seen = []

        async def follow():
            async for change in watch:
                if not isinstance(change, Synced):
                    seen.append((change.subject, change.value.state if change.value else None))

        following = asyncio.ensure_future(follow())
        await asyncio.sleep(5)
        await made.restart(kill=True)
        await asyncio.sleep(30)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        assert {state for _, state in seen} == {"CONNECTED"}


@on_virtual_time
async def test_back_ends_are_listed_loaded_and_unloaded_over_the_bus(tmp_path):
    async with place(tmp_path) as made:
        listed = await made.ask(BackendList(), BackendsListed)
        assert [(backend.name, backend.state) for backend in listed.backends] == [
            ("console", "loaded"),
            ("fake", "loaded"),
            ("file", "loaded"),
            ("usernet", "loaded"),
        ]
        await made.ask(request(), Descriptor)
        with pytest.raises(ManorError, match="in use by web/vda") as caught:
            await made.ask(BackendUnload(name="fake"), BackendStatus)
        assert caught.value.kind is Kind.DENIED_STATE
        unloaded = await made.ask(BackendUnload(name="fake", force=True), BackendStatus)
        assert unloaded.state == "available"
        await made.restart(kill=True)
        assert (await made.ask(BackendLoad(name="fake"), BackendStatus)).epoch == 2


@on_virtual_time
async def test_the_status_of_back_ends_is_published(tmp_path):
    async with place(tmp_path) as made, aclosing(made.house.peer().watch("backend.*")) as watch:
        await made.ask(request(), Descriptor)
        await asyncio.sleep(1)
        shown = {}
        async for change in watch:
            if isinstance(change, Synced):
                break
            shown[change.subject] = change.value
        assert shown["backend.fake"].in_use == 1
        assert set(shown) == {"backend.console", "backend.fake", "backend.file", "backend.usernet"}


@on_virtual_time
async def test_providers_and_leftovers_are_registered_in_discovery(tmp_path):
    async with place(tmp_path) as made:
        await made.ask(request(), Descriptor)
        await asyncio.sleep(5)
        fact = made.facts["n1-fake"]
        assert (fact.backend, fact.node, fact.epoch, fact.state, fact.in_use) == ("fake", "n1", 1, "ready", 1)
        assert fact.classes == ("disk", "nic", "channel", "console")
        await made.ask(BackendUnload(name="file"), BackendStatus)
        await asyncio.sleep(5)
        assert "n1-file" not in made.facts


@on_virtual_time
async def test_what_stands_in_our_place_and_is_not_ours_is_listed_as_stale(tmp_path):
    class Strange(FakeBackend):
        async def observe(self, known):
            seen = await super().observe(known)
            return Observation(seen.present, (*seen.leftovers, Leftover("mn0", "somebody's", ours=False)))

    async with place(tmp_path, fake=Strange) as made:
        await asyncio.sleep(5)
        leftover = made.facts["fake-mn0"]
        assert (leftover.type, leftover.state) == ("leftover", "STALE")
        assert "somebody's" in leftover.reason


@on_virtual_time
async def test_a_network_card_is_served_by_what_its_network_document_says(tmp_path):
    async with place(tmp_path) as made:
        nic = Connect(key=key("net0"), domain="web", type="nic", nic=Nic(id="net0", network="nat"))
        network = Network(metadata=Metadata(name="nat", uuid="n"), spec=NetworkSpec(cidr="10.5.0.0/24"))
        made.config.apply(network)
        assert (await made.ask(nic, Descriptor)).args == {"cidr": "10.5.0.0/24"}
        missing = Connect(key=key("net1"), domain="web", type="nic", nic=Nic(id="net1", network="gone"))
        with pytest.raises(ManorError, match="there is no Network document gone") as caught:
            await made.ask(missing, Descriptor)
        assert caught.value.kind is Kind.NOT_FOUND


@on_virtual_time
async def test_a_provider_document_loads_a_back_end_with_settings_and_its_end_unloads_it(tmp_path):
    async with place(tmp_path) as made:
        spec = ProviderSpec(backend="fake", settings={"prepare": "refuse"})
        made.config.apply(Provider(metadata=Metadata(name="slow", uuid="p"), spec=spec))
        made.config.apply(
            Provider(metadata=Metadata(name="far", uuid="q"), spec=ProviderSpec(backend="fake", node="n2"))
        )
        await asyncio.sleep(5)
        names = [b.name for b in (await made.ask(BackendList(), BackendsListed)).backends]
        assert names == ["console", "fake", "file", "slow", "usernet"]
        await made.restart(kill=True)
        made.config.delete("provider", "slow")
        await asyncio.sleep(60)
        names = [b.name for b in (await made.ask(BackendList(), BackendsListed)).backends]
        assert "slow" not in names


@on_virtual_time
async def test_without_config_devices_that_need_no_document_are_served(tmp_path):
    async with place(tmp_path, config=False) as made:
        assert (await made.ask(request(), Descriptor)).type == "fake"
        nic = Connect(key=key("net0"), domain="web", type="nic", nic=Nic(id="net0", network="nat"))
        with pytest.raises(ManorError) as caught:
            await made.ask(nic, Descriptor, within=5)
        assert caught.value.kind in (Kind.UNAVAILABLE, Kind.TIMEOUT)


@on_virtual_time
async def test_a_request_with_a_wrong_field_is_refused_with_its_path(tmp_path):
    async with place(tmp_path) as made:
        with pytest.raises(ManorError) as caught:
            await made.ask(request(domain="a b"), Descriptor)
        assert caught.value.kind is Kind.BAD_REQUEST
        assert caught.value.problems[0].path == "domain"


@on_virtual_time
async def test_volumes_are_listed(tmp_path):
    async with place(tmp_path) as made:
        assert await made.ask(VolumeList(), VolumesListed) == VolumesListed(volumes=())
