"""What any devices service must do, seen from the bus alone. Beside it: our config."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from manor_bus.peer.aio import Change, Peer
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import Done, config
from manor_bus.wire.messages import devices as m
from manor_bus.wire.messages.documents import Disk
from tests.contract.place import Place, end, place

pytestmark = pytest.mark.system

IMPLEMENTATIONS = ("ours",)
UUID = "6f8a1d5e-0b1c-4f6e-9a53-3f0c8a3f1d01"


@pytest.fixture(params=IMPLEMENTATIONS)
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """A bus with the devices service under test."""
    async with place() as made:
        for name in ("config", "devices"):
            await made.serve(name)
        yield made


async def until(peer: Peer, subject: str, wanted: Callable[[Any], bool]) -> Any:
    """Watch one object until it is as wanted (None: gone)."""
    async with asyncio.timeout(30):
        async for change in peer.watch(subject):
            if isinstance(change, Change) and wanted(change.value):
                return change.value
    raise AssertionError("the watch ended")


async def volume(peer: Peer, name: str = "root", **spec: Any) -> m.VolumeStatus:
    """Apply a volume and wait for it."""
    document = {"kind": "Volume", "metadata": {"name": name}, "spec": {"size_mib": 8, **spec}}
    await peer.call(config.Apply(documents=(document,)), config.Applied, timeout=10)
    ready = await until(peer, f"volume.{name}", lambda status: status is not None and status.state == "ready")
    assert isinstance(ready, m.VolumeStatus)
    return ready


def key(device: str = "vda", incarnation: int = 1) -> m.DeviceKey:
    return m.DeviceKey(uuid=UUID, incarnation=incarnation, id=device)


def connect(device: str = "vda", incarnation: int = 1, name: str = "root") -> m.Connect:
    disk = Disk(id=device, volume=name)
    return m.Connect(key=key(device, incarnation), domain="web", type="disk", disk=disk)


async def attached(bus: Place) -> tuple[Peer, m.Descriptor]:
    """Be lifecycle, which has connected a disk."""
    peer = await bus.peer("service/lifecycle")
    await volume(peer)
    descriptor = await peer.call(connect(), m.Descriptor, timeout=20)
    await peer.call(m.Connected(key=key(), generation=descriptor.generation), Done, timeout=10)
    return peer, descriptor


async def listed(peer: Peer) -> list[tuple[str, str, str]]:
    found = await peer.call(m.DeviceList(), m.DevicesListed, timeout=10)
    return [(device.domain, device.key.id, device.state.value) for device in found.devices]


async def test_back_ends_are_listed_and_told_as_providers(bus: Place) -> None:
    peer = await bus.peer()
    found = await peer.call(m.BackendList(), m.BackendsListed, timeout=10)
    loaded = [backend.name for backend in found.backends if backend.state == "loaded"]
    assert "file" in loaded
    provider = await until(peer, "provider.n1-file", lambda status: status is not None)
    assert (provider.backend, provider.node, provider.state) == ("file", "n1", "ready")
    assert "disk" in provider.classes


async def test_a_volume_is_made_told_and_removed(bus: Place) -> None:
    peer = await bus.peer()
    made = await volume(peer)
    assert os.path.exists(made.path)  # noqa: ASYNC240
    assert made.size_mib == 8
    resource = await until(
        peer, "resource.root", lambda status: status is not None and status.state == "ready"
    )
    assert (resource.type, resource.node) == ("volume", "n1")
    seen = asyncio.Event()
    gone = asyncio.create_task(until(peer, "volume.root", lambda status: seen.set() or status is None))
    await seen.wait()
    delete = config.Delete(references=(config.Reference(kind="Volume", name="root"),))
    await peer.call(delete, config.Applied, timeout=10)
    await gone
    assert not os.path.exists(made.path)  # noqa: ASYNC240


async def test_a_connection_goes_its_way_and_is_told(bus: Place) -> None:
    peer, descriptor = await attached(bus)
    assert descriptor.generation == 1
    connected = await until(peer, "device.web.vda", lambda s: s is not None and s.state == "CONNECTED")
    assert connected.key == key()
    assert await listed(peer) == [("web", "vda", "CONNECTED")]
    (status,) = (await peer.call(m.VolumeList(), m.VolumesListed, timeout=10)).volumes
    assert [user.partition("/")[0] for user in status.users] == ["web"]
    await peer.call(m.Detach(key=key()), Done, timeout=10)
    await peer.call(m.Released(key=key(), generation=1), Done, timeout=10)
    assert await listed(peer) == []


async def test_what_is_repeated_has_one_effect(bus: Place) -> None:
    peer, descriptor = await attached(bus)
    assert await peer.call(connect(), m.Descriptor, timeout=20) == descriptor
    for _ in range(2):
        await peer.call(m.Connected(key=key(), generation=1), Done, timeout=10)
        await peer.call(m.DomainGone(uuid=UUID, incarnation=1), Done, timeout=10)
        await peer.call(m.Released(key=key(), generation=1), Done, timeout=10)
        if await listed(peer) == []:
            break
    assert await listed(peer) == []


async def test_an_earlier_generation_acts_on_nothing(bus: Place) -> None:
    peer, _ = await attached(bus)
    with pytest.raises(ManorError) as refused:
        await peer.call(m.Connected(key=key(), generation=7), Done, timeout=10)
    assert refused.value.kind is Kind.STALE
    assert await listed(peer) == [("web", "vda", "CONNECTED")]


async def test_the_end_of_a_run_releases_all_it_had_and_no_other(bus: Place) -> None:
    peer, _ = await attached(bus)
    await peer.call(m.DomainGone(uuid=UUID, incarnation=0), Done, timeout=10)
    assert await listed(peer) == [("web", "vda", "CONNECTED")]
    await peer.call(m.DomainGone(uuid=UUID, incarnation=1), Done, timeout=10)
    assert await listed(peer) == []


async def test_a_device_without_its_body_is_a_bad_request(bus: Place) -> None:
    peer = await bus.peer("service/lifecycle")
    with pytest.raises(ManorError) as refused:
        await peer.call(m.Connect(key=key(), domain="web", type="disk"), m.Descriptor, timeout=10)
    assert refused.value.kind is Kind.BAD_REQUEST


async def test_a_back_end_in_use_is_not_unloaded_unless_by_force(bus: Place) -> None:
    peer, _ = await attached(bus)
    with pytest.raises(ManorError) as refused:
        await peer.call(m.BackendUnload(name="file"), m.BackendStatus, timeout=10)
    assert (refused.value.kind, "web" in refused.value.message) == (Kind.DENIED_STATE, True)


async def test_after_a_kill_connections_and_volumes_are_what_they_were(bus: Place) -> None:
    peer, descriptor = await attached(bus)
    await end(bus.begun[-1], kill=True)
    await bus.serve("devices")
    assert await listed(peer) == [("web", "vda", "CONNECTED")]
    assert await peer.call(connect(), m.Descriptor, timeout=20) == descriptor
    (status,) = (await peer.call(m.VolumeList(), m.VolumesListed, timeout=10)).volumes
    assert status.state == "ready"
