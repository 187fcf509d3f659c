from __future__ import annotations

import msgspec
import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.devices import Descriptor
from manor_bus.wire.messages.documents import Channel, Disk, DomainSpec, Nic
from manor_lifecycle.hypervisors import Attachment
from manor_lifecycle.hypervisors.qemu.record import (
    Record,
    added,
    find,
    mac_of,
    needs_slot,
    relinked,
    removed,
    replaced,
)
from manor_lifecycle.hypervisors.seen import Device

SLOTS = 3


def record(machine: str = "pc-q35-7.2") -> Record:
    return Record(
        uuid="u1", name="web", incarnation=1, spec=DomainSpec(), uid=0, machine=machine, accelerator="tcg",
        cpus=1, memory_mib=64, slots=SLOTS, created=1.0,
    )  # fmt: skip


def with_device(there: Record, device: Device) -> Record:
    return added(there, Attachment(device, Descriptor(type="fake")))[0]


def test_it_survives_its_file() -> None:
    there = with_device(record(), Disk(id="a", source="/x"))
    assert msgspec.json.decode(msgspec.json.encode(there), type=Record) == there


def test_numbers_are_never_used_again_but_places_are() -> None:
    there = with_device(with_device(record(), Disk(id="a", source="/x")), Nic(id="n"))
    first = find(there, "a")
    assert first is not None
    again = with_device(removed(there, first.number), Disk(id="b", source="/x"))
    second = find(again, "b")
    assert second is not None
    assert second.slot == first.slot
    assert second.number > max(one.number for one in there.plugged)


def test_when_all_places_are_taken_it_says_so() -> None:
    there = record()
    for n in range(SLOTS):
        there = with_device(there, Disk(id=f"d{n}", source="/x"))
    with pytest.raises(ManorError) as full:
        with_device(there, Disk(id="more", source="/x"))
    assert full.value.kind is Kind.NO_CAPACITY


def test_channels_and_scsi_disks_take_no_pci_place() -> None:
    there = record()
    for n in range(SLOTS):
        there = with_device(there, Disk(id=f"d{n}", source="/x"))
    there = with_device(there, Channel(id="c1"))
    there = with_device(there, Channel(id="c2"))
    there = with_device(there, Disk(id="s", source="/x", bus="scsi"))
    places = [one.slot for one in there.plugged if one.channel is not None]
    assert places == [1, 2]  # port 0 is the console's
    assert not needs_slot(Disk(id="s", source="/x", bus="scsi"))


def test_a_microvm_has_no_places_to_give() -> None:
    there = with_device(record("microvm"), Disk(id="a", source="/x"))
    assert there.plugged[0].slot == -1
    assert there.microvm
    assert not there.pcie


def test_a_new_back_end_keeps_the_front_end() -> None:
    there = with_device(record(), Disk(id="a", source="/x"))
    before = there.plugged[0]
    after, linked = relinked(there, before, Descriptor(type="nbd", generation=2))
    assert (linked.number, linked.slot) == (before.number, before.slot)
    assert linked.link != before.link
    assert after.plugged == (linked,)


def test_what_is_forced_out_is_not_found_but_keeps_its_place() -> None:
    there = with_device(record(), Disk(id="a", source="/x"))
    gone = msgspec.structs.replace(there.plugged[0], gone=True)
    assert find(replaced(there, gone), "a") is None
    assert len(replaced(there, gone).plugged) == 1


def test_a_card_has_always_the_same_address_and_the_documents_wins() -> None:
    assert mac_of("u1", Nic(id="n")) == mac_of("u1", Nic(id="n"))
    assert mac_of("u1", Nic(id="n")) != mac_of("u2", Nic(id="n"))
    assert mac_of("u1", Nic(id="n")).startswith("52:54:00:")
    assert mac_of("u1", Nic(id="n", mac="52:54:00:00:00:01")) == "52:54:00:00:00:01"
