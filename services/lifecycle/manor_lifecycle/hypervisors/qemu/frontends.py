"""Devices as QEMU's monitor commands: what to say to attach one, to take it away, to give it a new back end.

Pure. The same commands are said to a running QEMU and written into the command line of a new one. Names in
QEMU: `dev<number>` the front end, `t<number>` the node it holds for ever, and below that, with the number of
the present link, `f<link>` the image format, `p<link>` the file or network block device, `n<link>` the
network, `c<link>` the stream of a channel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from manor_bus.wire.errors import Problem, bad_request
from manor_bus.wire.messages.documents import Channel, Disk, DomainSpec, Nic
from manor_lifecycle.hypervisors.qemu.record import Plugged, Record, mac_of
from manor_lifecycle.hypervisors.seen import Device, IoStatus

Command = tuple[str, dict[str, Any]]  # a QMP command and its arguments

NIC_DRIVERS: Final[Mapping[str, str]] = {
    "virtio": "virtio-net-pci",
    "e1000": "e1000",
    "e1000e": "e1000e",
    "rtl8139": "rtl8139",
    "vmxnet3": "vmxnet3",
}
RECONNECT_S: Final = 1  # of a channel's stream
SERIAL_MAX: Final = 20  # characters of a disk's serial number


@dataclass(frozen=True)
class Reach:
    """What was found out when the back end was looked at: the file allows direct I/O, tap descriptors."""

    direct: bool = True
    taps: tuple[str, ...] = ()  # names or numbers of open descriptors, one for each queue
    vhosts: tuple[str, ...] = ()


def front_end(plugged: Plugged) -> str:
    """Return the name of the front end in QEMU."""
    return f"dev{plugged.number}"


def io_status(record: Record, blocks: Sequence[Mapping[str, Any]]) -> dict[str, IoStatus]:
    """Return what became of the requests of each disk, from the answer to `query-block`."""
    found: dict[str, IoStatus] = {}
    for block in blocks:
        status = block.get("io-status", "ok")
        for one in record.plugged:
            if front_end(one) in str(block.get("qdev", "")).split("/"):
                found[one.device.id] = status if status in ("ok", "failed", "nospace") else "failed"
    return found


def hot(record: Record, device: Device) -> str:
    """Say why a device cannot come or go while the guest lives; empty when it can."""
    if isinstance(device, Channel):
        return ""
    if record.microvm:
        return "the machine type microvm has no hot plug"
    if isinstance(device, Disk) and device.bus == "scsi" and not record.scsi:
        return "the guest was started without a SCSI disk, so it has no controller for one"
    if isinstance(device, Disk) and device.bus not in ("virtio", "nvme", "scsi"):
        return f"disks on the bus {device.bus} have no hot plug"
    return ""


def attach(record: Record, plugged: Plugged, reach: Reach) -> list[Command]:
    """Return the commands that attach a device, in order. Raises `bad_request`."""
    device = plugged.device
    if isinstance(device, Disk):
        made: list[Command] = []
        if limits := _limits(device):
            group = {"qom-type": "throttle-group", "id": f"g{plugged.number}", "limits": limits}
            made.append(("object-add", group))
        return [
            *made,
            *disk_nodes(plugged, device, reach),
            ("blockdev-add", _top(plugged, device)),
            ("device_add", _disk_device(record, plugged, device)),
        ]
    if isinstance(device, Nic):
        return [
            ("netdev_add", _network(plugged, device, reach)),
            ("device_add", _nic_device(record, plugged, device)),
        ]
    return [_stream(record, plugged, device), ("device_add", _channel_device(plugged, device))]


def release(plugged: Plugged) -> list[Command]:
    """Return the commands that take everything behind a front end away, once that is gone."""
    if plugged.disk is not None:
        top: list[Command] = [("blockdev-del", {"node-name": f"t{plugged.number}"})]
        if _limits(plugged.disk):
            top.append(("object-del", {"id": f"g{plugged.number}"}))
        return [*top, *release_link(plugged)]
    return release_link(plugged)


def release_link(plugged: Plugged) -> list[Command]:
    """Return the commands that take the present back end away, once nothing uses it."""
    if plugged.disk is not None:
        return [("blockdev-del", {"node-name": f"{kind}{plugged.link}"}) for kind in "fp"]
    if plugged.nic is not None:
        return [("netdev_del", {"id": f"n{plugged.link}"})]
    return [("chardev-remove", {"id": f"c{plugged.link}"})]


def dead_end(plugged: Plugged, size: int) -> list[Command]:
    """Return the commands that put a disk of that size, where every request fails, behind a front end."""
    fails = {"event": "none", "errno": 5, "once": False, "immediately": True}
    return [
        ("blockdev-add", {"driver": "null-co", "node-name": f"p{plugged.link}", "size": size}),
        (
            "blockdev-add",
            {
                "driver": "blkdebug",
                "node-name": f"f{plugged.link}",
                "image": f"p{plugged.link}",
                "inject-error": [fails],
            },
        ),
    ]


def redirect(plugged: Plugged) -> Command:
    """Return the command that makes the present link of a disk the one that its front end uses."""
    assert plugged.disk is not None
    return "blockdev-reopen", {"options": [_top(plugged, plugged.disk)]}


def _top(plugged: Plugged, disk: Disk) -> dict[str, Any]:
    """Return the node that the front end of a disk holds for ever, above its present link."""
    limited = {"driver": "throttle", "throttle-group": f"g{plugged.number}"}
    return {
        "node-name": f"t{plugged.number}",
        "file": f"f{plugged.link}",
        "read-only": _readonly(plugged, disk),
        "discard": "unmap" if disk.discard else "ignore",
        **(limited if _limits(disk) else {"driver": "raw"}),
    }


def disk_nodes(plugged: Plugged, disk: Disk, reach: Reach) -> list[Command]:
    """Return the commands that open the back end of a disk. The format is always said, never guessed."""
    args = plugged.descriptor.args
    cache = str(args.get("cache", disk.cache))
    shared: dict[str, Any] = {
        "cache": {
            "direct": reach.direct and cache in ("none", "directsync"),
            "no-flush": cache == "unsafe",
        },
        "discard": "unmap" if args.get("discard", disk.discard) else "ignore",
        "read-only": _readonly(plugged, disk),
    }
    file: dict[str, Any] = {"node-name": f"p{plugged.link}", **shared}
    if plugged.descriptor.type == "file":
        path = str(args["path"])
        file |= {"driver": "host_device" if path.startswith("/dev/") else "file", "filename": path}
    elif plugged.descriptor.type == "nbd":
        server: dict[str, Any] = {"type": "unix", "path": args.get("path", "")}
        if not args.get("path"):
            server = {"type": "inet", "host": args["host"], "port": str(args["port"])}
        file |= {"driver": "nbd", "server": server, "export": str(args.get("export", ""))}
        file |= {"reconnect-delay": int(args.get("reconnect_s", 0))}
    else:
        raise _unknown(plugged)
    form = {"driver": str(args.get("format", "raw")), "node-name": f"f{plugged.link}"}
    return [("blockdev-add", file), ("blockdev-add", {**form, **shared, "file": f"p{plugged.link}"})]


def boot_index(spec: DomainSpec, device: Disk | Nic) -> int | None:
    """Return the boot rank of a device: its own, or its first mention in the boot order."""
    if isinstance(device, Disk) and device.boot is not None:
        return device.boot
    kind = "network" if isinstance(device, Nic) else device.device
    for place, wanted in enumerate(spec.boot.order):
        if wanted in (device.id, kind):
            peers: Sequence[Disk | Nic] = spec.nics if isinstance(device, Nic) else spec.disks
            position = next((index for index, one in enumerate(peers) if one.id == device.id), len(peers))
            return 1000 + place * 100 + position
    return None


def _readonly(plugged: Plugged, disk: Disk) -> bool:
    return bool(plugged.descriptor.args.get("readonly", disk.readonly)) or disk.device == "cdrom"


def _limits(disk: Disk) -> dict[str, int]:
    limits = {"iops-total": disk.iops or 0, "bps-total": disk.bytes_per_second or 0}
    return {name: value for name, value in limits.items() if value}


def _place(record: Record, plugged: Plugged) -> dict[str, Any]:
    if record.microvm:
        return {}
    if record.pcie:
        return {"bus": f"port{plugged.slot}"}
    return {"bus": "pci.0", "addr": f"{0x10 + plugged.slot:#x}"}


def _ide_place(record: Record, plugged: Plugged) -> dict[str, Any]:
    """SATA has a bus for each disk, IDE one for two."""
    there = [one.number for one in record.plugged if one.disk is not None and one.disk.bus in ("sata", "ide")]
    position = there.index(plugged.number)
    if record.pcie:
        return {"bus": f"ide.{position}"}
    return {"bus": f"ide.{position // 2}", "unit": position % 2}


def _disk_device(record: Record, plugged: Plugged, disk: Disk) -> dict[str, Any]:
    drive = "cd" if disk.device == "cdrom" else "hd"
    device: dict[str, Any] = {"id": front_end(plugged), "drive": f"t{plugged.number}"}
    if disk.bus in ("virtio", "nvme"):
        virtio = "virtio-blk-device" if record.microvm else "virtio-blk-pci"
        device |= {"driver": virtio if disk.bus == "virtio" else "nvme", **_place(record, plugged)}
        if disk.bus == "virtio":  # said, because QEMU's own choice changes when processors are plugged
            device["num-queues"] = record.spec.cpu.count
    elif disk.bus == "scsi":
        device |= {"driver": f"scsi-{drive}", "bus": "scsi.0"}
    elif disk.bus == "usb":
        device |= {"driver": "usb-storage", "bus": "usb.0"}
    else:
        device |= {"driver": f"ide-{drive}", **_ide_place(record, plugged)}
    if (rank := boot_index(record.spec, disk)) is not None:
        device["bootindex"] = rank
    device["serial"] = (disk.serial or disk.id)[:SERIAL_MAX]
    if disk.shareable:
        device["share-rw"] = True
    if disk.cache in ("writethrough", "directsync"):
        device["write-cache"] = "off"
    return device


def _network(plugged: Plugged, nic: Nic, reach: Reach) -> dict[str, Any]:
    args, name = plugged.descriptor.args, f"n{plugged.link}"
    if plugged.descriptor.type == "user":
        return {"type": "user", "id": name, **({"net": args["cidr"]} if args.get("cidr") else {})}
    if plugged.descriptor.type != "tap":
        raise _unknown(plugged)
    if reach.taps:
        tap: dict[str, Any] = {"type": "tap", "id": name, "fds": ":".join(reach.taps)}
        return tap | ({"vhost": True, "vhostfds": ":".join(reach.vhosts)} if reach.vhosts else {})
    tap = {"type": "tap", "id": name, "ifname": args["ifname"], "script": "no", "downscript": "no"}
    return tap | ({"queues": nic.queues} if nic.queues > 1 else {})


def _nic_device(record: Record, plugged: Plugged, nic: Nic) -> dict[str, Any]:
    driver = "virtio-net-device" if record.microvm else NIC_DRIVERS[nic.model]
    device: dict[str, Any] = {"driver": driver, "id": front_end(plugged), "netdev": f"n{plugged.link}"}
    device |= {"mac": mac_of(record.uuid, nic), **_place(record, plugged)}
    if (rank := boot_index(record.spec, nic)) is not None:
        device["bootindex"] = rank
    elif not record.microvm:
        device["romfile"] = ""  # no boot from the network: no program for it
    if nic.mtu is not None and nic.model == "virtio":
        device["host_mtu"] = nic.mtu
    if nic.queues > 1 and nic.model == "virtio":
        device |= {"mq": True} | ({} if record.microvm else {"vectors": 2 * nic.queues + 2})
    return device


def _stream(record: Record, plugged: Plugged, channel: Channel) -> Command:
    if plugged.descriptor.type != "channel":
        raise _unknown(plugged)
    path = str(plugged.descriptor.args.get("path") or channel.path)
    address = {"type": "unix", "data": {"path": path}}
    again = {"reconnect-ms": 1000 * RECONNECT_S} if record.reconnect_ms else {"reconnect": RECONNECT_S}
    stream = {"addr": address, "server": False, **again}
    return "chardev-add", {"id": f"c{plugged.link}", "backend": {"type": "socket", "data": stream}}


def _channel_device(plugged: Plugged, channel: Channel) -> dict[str, Any]:
    return {
        "driver": "virtserialport",
        "id": front_end(plugged),
        "bus": "vserial.0",
        "nr": plugged.slot,
        "chardev": f"c{plugged.link}",
        "name": channel.name,
    }


def _unknown(plugged: Plugged) -> Exception:
    kind = type(plugged.device).__name__.lower()
    reason = f"qemu cannot reach a {kind} through a descriptor of type {plugged.descriptor.type!r}"
    return bad_request(reason, Problem(path=f"{kind}s[{plugged.device.id}]", reason=reason))
