"""What is remembered of one guest, in its folder: all a restarted service needs to find it again. Pure."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.devices import Descriptor
from manor_bus.wire.messages.documents import Channel, Disk, DomainSpec, Nic
from manor_lifecycle.hypervisors import Attachment
from manor_lifecycle.hypervisors.seen import (
    Activity,
    Cause,
    Device,
    EndReason,
    IoStatus,
    Run,
    SeenDevice,
    SeenRun,
    resized,
    with_devices,
)

CHANNEL_PORTS: Final = 30  # of one virtio-serial device; port 0 is the virtio console's
PCI_SLOTS: Final = 15  # for devices of the machine `pc`


class Plugged(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A device of the run. Exactly one of `disk`, `nic`, `channel` is set.

    `number` names its objects in QEMU and is never used again in the run; `link` names the present back end
    and is a new number after each reconnect. `slot` is its place: root port, PCI slot or port of the serial
    device; -1 where places are not ours to give. `gone`: forced out, but the guest still holds the front end.
    """

    number: int
    link: int
    descriptor: Descriptor
    disk: Disk | None = None
    nic: Nic | None = None
    channel: Channel | None = None
    slot: int = -1
    gone: bool = False

    @property
    def device(self) -> Device:
        """The device of the document."""
        device = self.disk or self.nic or self.channel
        assert device is not None
        return device


class Trouble(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a run suffers from. `device`: empty for the guest itself; in an event what QEMU calls it. `stays`:
    also when it goes on.
    """

    device: str
    detail: str
    io: IoStatus = "failed"
    stays: bool = True


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """See the module. Until `pid` is known the process is being launched with exactly `argv`.

    `machine` is a versioned machine type, so that saved states fit; `slots`: how many devices it can take.
    `ended`: why the run ended without being destroyed; it `lasted_s`, or up to that when nobody watched.
    """

    uuid: str
    name: str
    incarnation: int
    spec: DomainSpec
    uid: int
    machine: str
    accelerator: str
    cpus: int
    memory_mib: int
    slots: int
    created: float  # seconds since 1970
    born: int = 0  # the incarnation that the machine was made under, before any reset
    asked_mib: int = 0  # what the balloon was asked for; 0: as in `spec`
    scsi: bool = False  # has a controller for SCSI disks
    reconnect_ms: bool = False  # this QEMU counts the time to reconnect a stream in milliseconds
    plugged: tuple[Plugged, ...] = ()
    numbers: int = 0  # the next free one
    argv: tuple[str, ...] = ()
    pid: int = 0
    started_ticks: int = 0
    boot_id: str = ""
    troubles: tuple[Trouble, ...] = ()
    ended: EndReason | None = None
    detail: str = ""
    lasted_s: float = 0.0

    @property
    def microvm(self) -> bool:
        """A machine without PCI and without hot plug."""
        return self.machine.startswith("microvm")

    @property
    def pcie(self) -> bool:
        """A machine whose devices sit on root ports."""
        return "q35" in self.machine


def find(record: Record, device: str) -> Plugged | None:
    """Return an attached device by its id."""
    return next((one for one in record.plugged if one.device.id == device and not one.gone), None)


def ids(record: Record) -> tuple[str, ...]:
    """Return the devices that the guest has."""
    return tuple(one.device.id for one in record.plugged if not one.gone)


def spec_now(record: Record) -> DomainSpec:
    """Return the spec that the run has, with all that was changed while it lived."""
    spec = with_devices(record.spec, [one.device for one in record.plugged if not one.gone])
    return resized(spec, record.asked_mib or spec.memory.size_mib, record.cpus)


def needs_slot(device: Device) -> bool:
    """Say whether it is a PCI device of its own."""
    return isinstance(device, Nic) or (isinstance(device, Disk) and device.bus in ("virtio", "nvme"))


def added(record: Record, attachment: Attachment) -> tuple[Record, Plugged]:
    """Give a device its numbers and its place. Raises `no_capacity` when there is none left."""
    device, number = attachment.device, record.numbers
    slot = -1
    if isinstance(device, Channel):
        taken = {one.slot for one in record.plugged if one.channel is not None}
        slot = _free(taken, range(1, CHANNEL_PORTS + 1), device)
    elif needs_slot(device) and not record.microvm:
        taken = {one.slot for one in record.plugged if one.channel is None}
        slot = _free(taken, range(record.slots), device)
    plugged = Plugged(
        number=number,
        link=number,
        descriptor=attachment.descriptor,
        disk=device if isinstance(device, Disk) else None,
        nic=device if isinstance(device, Nic) else None,
        channel=device if isinstance(device, Channel) else None,
        slot=slot,
    )
    changed = msgspec.structs.replace(record, plugged=(*record.plugged, plugged), numbers=number + 1)
    return changed, plugged


def _free(taken: set[int], places: range, device: Device) -> int:
    for place in places:
        if place not in taken:
            return place
    raise ManorError(
        Kind.NO_CAPACITY,
        f"no place is left for device {device.id}: all {len(places)} are taken",
        hint="Detach a device, or restart the domain with the option spare_slots set higher.",
    )


def relinked(record: Record, plugged: Plugged, descriptor: Descriptor) -> tuple[Record, Plugged]:
    """Give a device a new back end."""
    changed = msgspec.structs.replace(plugged, descriptor=descriptor, link=record.numbers)
    return msgspec.structs.replace(replaced(record, changed), numbers=record.numbers + 1), changed


def replaced(record: Record, plugged: Plugged) -> Record:
    """Put a changed device in the place of the old one."""
    there = tuple(plugged if one.number == plugged.number else one for one in record.plugged)
    return msgspec.structs.replace(record, plugged=there)


def removed(record: Record, number: int) -> Record:
    """Forget a device; its place is free."""
    return msgspec.structs.replace(
        record, plugged=tuple(one for one in record.plugged if one.number != number)
    )


def mac_of(uuid: str, nic: Nic) -> str:
    """Return a card's address: the document's, or one that this card always has."""
    digest = hashlib.sha256(f"{uuid}/{nic.id}".encode()).digest()
    return nic.mac or "52:54:00:" + ":".join(f"{byte:02x}" for byte in digest[:3])


def of_node(record: Record, name: str) -> str:
    """Return the device that a front end or a node of QEMU's belongs to; empty when it is none."""
    for one in record.plugged:
        if name in (f"dev{one.number}", f"t{one.number}", f"f{one.link}", f"p{one.link}"):
            return one.device.id
    return ""


def troubled(record: Record, trouble: Trouble) -> Record:
    """Note a trouble, the latest of each device."""
    others = tuple(one for one in record.troubles if one.device != trouble.device)
    return msgspec.structs.replace(record, troubles=(*others, trouble))


def going_on(record: Record) -> Record:
    """Forget what was over when the guest went on."""
    return msgspec.structs.replace(record, troubles=tuple(one for one in record.troubles if one.stays))


def over(record: Record) -> SeenRun:
    """Return what is seen of a run that ended."""
    return SeenRun(
        run=Run(record.uuid, record.incarnation),
        born=record.born or record.incarnation,
        name=record.name,
        activity=Activity.ENDED,
        cause=Cause(detail=record.detail),
        spec=spec_now(record),
        devices=tuple(SeenDevice(one) for one in ids(record)),
        cpus=record.cpus,
        memory_mib=record.memory_mib,
        started=record.created,
        uptime_s=record.lasted_s,
        end=record.ended,
        end_detail=record.detail,
    )
