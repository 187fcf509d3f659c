from __future__ import annotations

from typing import Any

import msgspec
import pytest

from manor_bus.wire.errors import ManorError
from manor_bus.wire.messages.devices import Descriptor
from manor_bus.wire.messages.documents import Channel, Disk, DomainSpec, Nic
from manor_lifecycle.hypervisors import Attachment
from manor_lifecycle.hypervisors.qemu.frontends import Reach, attach, front_end, hot, release
from manor_lifecycle.hypervisors.qemu.record import Plugged, Record, added
from manor_lifecycle.hypervisors.seen import Device

FILE = Descriptor(type="file", args={"path": "/x", "format": "raw"})
NBD = Descriptor(type="nbd", args={"path": "/run/nbd.sock", "export": "e", "reconnect_s": 30})


def plugged(device: Device, descriptor: Descriptor, machine: str = "pc-q35-7.2") -> tuple[Record, Plugged]:
    there = Record(
        uuid="u1", name="web", incarnation=1, spec=DomainSpec(), uid=0, machine=machine, accelerator="tcg",
        cpus=1, memory_mib=64, slots=3, created=1.0,
    )  # fmt: skip
    return added(there, Attachment(device, descriptor))


def said(
    device: Device, descriptor: Descriptor, reach: Reach | None = None
) -> list[tuple[str, dict[str, Any]]]:
    record, one = plugged(device, descriptor)
    return attach(record, one, reach or Reach())


def only(commands: list[tuple[str, dict[str, Any]]], verb: str) -> list[dict[str, Any]]:
    return [arguments for name, arguments in commands if name == verb]


@pytest.mark.parametrize(
    ("device", "descriptor"),
    [
        (Disk(id="a", source="/x"), FILE),
        (Disk(id="a", source="/x", iops=100), FILE),
        (Disk(id="a", nbd="nbd://x"), NBD),
        (Nic(id="n"), Descriptor(type="user")),
        (Channel(id="c", path="/run/c"), Descriptor(type="channel", args={"path": "/run/c"})),
    ],
)
def test_everything_that_is_added_is_taken_away_again(device: Device, descriptor: Descriptor) -> None:
    pairs = {"blockdev-add": "blockdev-del", "netdev_add": "netdev_del", "chardev-add": "chardev-remove"}
    pairs |= {"object-add": "object-del"}
    record, one = plugged(device, descriptor)
    made = [name for name, _ in attach(record, one, Reach()) if name != "device_add"]
    assert sorted(pairs[name] for name in made) == sorted(name for name, _ in release(one))


def test_the_front_end_comes_last_and_has_the_name_of_its_number() -> None:
    record, one = plugged(Disk(id="a", source="/x"), FILE)
    name, arguments = attach(record, one, Reach())[-1]
    assert name == "device_add"
    assert arguments["id"] == front_end(one)


def test_a_read_only_disk_is_read_only_on_every_level() -> None:
    commands = said(Disk(id="a", source="/x", readonly=True), FILE)
    assert all(node["read-only"] for node in only(commands, "blockdev-add"))


def test_a_file_that_cannot_do_direct_io_is_cached() -> None:
    def direct(reach: Reach) -> list[Any]:
        nodes = only(said(Disk(id="a", source="/x"), FILE, reach), "blockdev-add")
        return [node.get("cache", {}).get("direct") for node in nodes]

    assert True in direct(Reach(direct=True))
    assert True not in direct(Reach(direct=False))


def test_a_network_block_device_waits_for_its_server_to_return() -> None:
    nodes = only(said(Disk(id="a", nbd="nbd://x"), NBD), "blockdev-add")
    (node,) = [one for one in nodes if one["driver"] == "nbd"]
    assert node["reconnect-delay"] == 30


def test_limits_are_kept_by_a_throttle() -> None:
    commands = said(Disk(id="a", source="/x", iops=100, bytes_per_second=1_000_000), FILE)
    (group,) = only(commands, "object-add")
    assert group["limits"] == {"iops-total": 100, "bps-total": 1_000_000}
    assert "throttle" in {node["driver"] for node in only(commands, "blockdev-add")}


def test_a_fake_back_end_is_refused() -> None:
    with pytest.raises(ManorError):
        said(Disk(id="a", source="/x"), Descriptor(type="fake"))


@pytest.mark.parametrize(
    ("device", "machine", "can"),
    [
        (Disk(id="a", source="/x"), "pc-q35-7.2", True),
        (Nic(id="n"), "pc-q35-7.2", True),
        (Disk(id="a", source="/x", bus="sata"), "pc-q35-7.2", False),
        (Disk(id="a", source="/x", bus="scsi"), "pc-q35-7.2", False),  # no controller was there at the start
        (Disk(id="a", source="/x"), "microvm", False),
    ],
)
def test_what_cannot_come_while_the_guest_lives_says_why(device: Device, machine: str, can: bool) -> None:
    record, _ = plugged(Disk(id="other", source="/y"), FILE, machine)
    assert (hot(record, device) == "") is can


@pytest.mark.parametrize(("newer", "again"), [(False, {"reconnect": 1}), (True, {"reconnect-ms": 1000})])
def test_a_channel_reconnects_in_the_words_of_its_qemu(newer: bool, again: dict[str, int]) -> None:
    record, one = plugged(Channel(id="c"), Descriptor(type="channel", args={"path": "/run/c"}))
    commands = attach(msgspec.structs.replace(record, reconnect_ms=newer), one, Reach())
    (stream,) = only(commands, "chardev-add")
    told = stream["backend"]["data"]
    assert {name: told[name] for name in told if name.startswith("reconnect")} == again
