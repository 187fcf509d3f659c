"""Which provider serves a device, and what its names resolve to."""

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.devices import Connect, DeviceKey, VolumeStatus
from manor_bus.wire.messages.documents import Channel, Console, Disk, NetworkSpec, Nic
from manor_devices.backends import Target
from manor_devices.routes import NotYet, route

BRIDGE = NetworkSpec(type="bridge", bridge="br0")
USER = NetworkSpec(cidr="10.9.0.0/24")


def volume(state, **fields):
    return VolumeStatus(name="root", uuid="", state=state, **fields)


VOLUME = volume("ready", path="/v/root.qcow2", format="qcow2")


def connect(device, **fields):
    kind = type(device).__name__.lower()
    key = DeviceKey(uuid="u", incarnation=1, id=getattr(device, "id", "console"))
    return Connect(**{"key": key, "domain": "web", "type": kind, kind: device, **fields})


def routed(device, **volumes):
    return route(connect(device), {"lan": BRIDGE, "nat": USER}, volumes)


@pytest.mark.parametrize(
    ("device", "target"),
    [
        (Disk(id="a", source="/x", format="qcow2"), Target("file", path="/x", format="qcow2")),
        (Disk(id="a", source="/x", provider="nbd"), Target("nbd", path="/x")),
        (Disk(id="a", nbd="nbd://h/x"), Target("nbd", path="nbd://h/x")),
        (Disk(id="a", nbd="nbd://h/x", provider="far"), Target("far", path="nbd://h/x")),
        (Disk(id="a", provider="fake"), Target("fake")),
        (Disk(id="a", volume="any", provider="fake"), Target("fake")),
        (Nic(id="n"), Target("usernet", network=NetworkSpec())),
        (Nic(id="n", network="nat"), Target("usernet", network=USER)),
        (Nic(id="n", network="lan"), Target("bridge", network=BRIDGE)),
        (Nic(id="n", network="lan", provider="fake"), Target("fake")),
        (Console(), Target("console")),
        (Channel(id="c"), Target("channel")),
    ],
)
def test_a_device_goes_to_the_provider_it_names_or_its_kind_has(device, target):
    assert routed(device) == target


def test_a_volume_is_the_file_behind_it_in_its_own_format():
    disk = Disk(id="a", volume="root", format="raw")
    assert routed(disk, root=VOLUME) == Target("file", path="/v/root.qcow2", format="qcow2")


@pytest.mark.parametrize(
    ("device", "volumes", "document"),
    [
        (Nic(id="n", network="nowhere"), {}, ("Network", "nowhere")),
        (Disk(id="a", volume="root"), {}, ("Volume", "root")),
        (Disk(id="a", volume="root"), {"root": volume("creating")}, ("", "")),
        (Disk(id="a", volume="root"), {"root": volume("resizing")}, ("", "")),
    ],
)
def test_what_is_not_there_yet_is_told_with_the_document_that_is_missing(device, volumes, document):
    found = routed(device, **volumes)
    assert isinstance(found, NotYet)
    assert (found.kind, found.name) == document


@pytest.mark.parametrize(
    ("volume", "reason"),
    [
        (volume("failed", path="/v", format="raw", reason="disk full"), "failed: disk full"),
        (volume("deleting", path="/v", format="raw"), "deleting"),
    ],
)
def test_a_volume_that_cannot_be_used_is_refused_with_the_reason(volume, reason):
    with pytest.raises(ManorError, match=reason) as caught:
        routed(Disk(id="a", volume="root"), root=volume)
    assert caught.value.kind is Kind.DENIED_STATE


@pytest.mark.parametrize(
    ("request_", "path"),
    [
        (connect(Disk(id="a")), "disk"),
        (connect(Disk(id="a", source="/x", volume="v")), "disk"),
        (connect(Disk(id="a", source="/x"), type="nic"), "nic"),
        (connect(Disk(id="a", source="/x"), domain="a.b"), "domain"),
        (connect(Disk(id="../x", source="/x")), "key.id"),
        (connect(Disk(id="x" * 64, source="/x")), "key.id"),
        (connect(Nic(id="n"), key=DeviceKey(uuid="", incarnation=1, id="n")), "key.uuid"),
        (connect(Nic(id="n"), key=DeviceKey(uuid="u", incarnation=0, id="n")), "key.incarnation"),
    ],
)
def test_a_wrong_request_is_refused_with_the_field(request_, path):
    with pytest.raises(ManorError) as caught:
        route(request_, {}, {})
    assert caught.value.kind is Kind.BAD_REQUEST
    assert [problem.path for problem in caught.value.problems] == [path]
