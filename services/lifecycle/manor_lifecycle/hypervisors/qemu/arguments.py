"""The command line of a guest's process. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from manor_bus.wire.messages.documents import DomainSpec
from manor_lifecycle.hypervisors.qemu.events import SHUTDOWN_TRACE
from manor_lifecycle.hypervisors.qemu.frontends import Command, Reach, attach
from manor_lifecycle.hypervisors.qemu.record import Record

SANDBOX: Final = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
ACTIONS: Final = "reboot=shutdown,shutdown=pause,panic=pause,watchdog=pause"  # the service decides, not QEMU
MONITOR: Final = "manor-monitor"  # marks a process as one of ours
LOG_SET: Final = 1  # descriptor set of the console's log
VARIABLES_SET: Final = 2  # descriptor set of the firmware's variables
COLD_OPTIONS: Final[Mapping[str, str]] = {
    "blockdev-add": "-blockdev",
    "netdev_add": "-netdev",
    "object-add": "-object",
    "device_add": "-device",
}
VIDEO: Final[Mapping[str, str]] = {
    "std": "VGA",
    "virtio": "virtio-vga",
    "qxl": "qxl-vga",
    "cirrus": "cirrus-vga",
}


@dataclass(frozen=True)
class Firmware:
    """UEFI: the program and the template of its variables."""

    code: str
    variables: str


@dataclass(frozen=True)
class Wiring:
    """Descriptors and paths that the process is given. -1: not there."""

    binary: str
    monitor_fd: int
    console_fd: int = -1
    log_fd: int = -1
    variables_fd: int = -1
    kernel: str = ""
    initrd: str = ""
    firmware: Firmware | None = None
    incoming: bool = False
    reach: Mapping[int, Reach] = field(default_factory=dict)  # by number of the device


def command_line(record: Record, wiring: Wiring) -> list[str]:
    """Return the whole command line; equal input gives equal output, so the machine is the same again."""
    spec = record.spec
    return [
        wiring.binary,
        *("-name", f"guest={_escaped(record.name)},debug-threads=on", "-uuid", record.uuid),
        *("-S", "-nodefaults", "-no-user-config", "-display", "none", "-action", ACTIONS),
        *("-sandbox", SANDBOX, "-trace", SHUTDOWN_TRACE),
        *_machine(record, wiring),
        *_monitor(wiring),
        *_boot(spec, wiring),
        *_console(record, wiring),
        *_fixed_devices(record),
        *_screen(spec),
        *_ports(record),
        *(part for one in record.plugged for part in _cold(record, wiring, one.number)),
        *(("-incoming", "defer") if wiring.incoming else ()),
    ]


def cpu_model(record: Record) -> str:
    """Return the argument of `-cpu`: as much as the accelerator can, less what was not asked for."""
    spec, kvm = record.spec, record.accelerator == "kvm"
    parts = [spec.cpu.model or ("host" if kvm else "max")]
    if kvm and not spec.cpu.nested and not spec.cpu.model:  # under TCG, QEMU 7.2 then computes wrongly
        parts += ["svm=off", "vmx=off"]
    if not spec.apic:
        parts.append("apic=off")
    if spec.viridian and kvm:
        parts += ["hv-relaxed=on", "hv-vapic=on", "hv-spinlocks=0x1fff", "hv-time=on", "hv-vpindex=on"]
    return ",".join(parts)


def _machine(record: Record, wiring: Wiring) -> Iterator[str]:
    spec, cpu = record.spec, record.spec.cpu
    machine = [record.machine]
    if record.microvm:
        machine.append(f"acpi={'on' if spec.acpi else 'off'}")
    elif not spec.acpi:
        machine.append("acpi=off")
    size = max(spec.memory.max_mib or 0, spec.memory.size_mib)
    if spec.memory.hugepages:
        yield from ("-object", f"memory-backend-memfd,id=memory,hugetlb=on,size={size}M")
        machine.append("memory-backend=memory")
    if wiring.firmware is not None:
        machine += ["pflash0=code", "pflash1=variables"]
        code = {"driver": "file", "node-name": "code", "filename": wiring.firmware.code, "read-only": True}
        kept = {
            "driver": "file",
            "node-name": "variables",
            "filename": f"/dev/fdset/{VARIABLES_SET}",
        }
        yield from ("-add-fd", f"fd={wiring.variables_fd},set={VARIABLES_SET}")
        yield from ("-blockdev", json.dumps(code), "-blockdev", json.dumps(kept))
    yield from ("-machine", ",".join(machine))
    for sleep, wished in (("s3", spec.acpi_s3), ("s4", spec.acpi_s4)):
        if wished is not None and not record.microvm:
            chip = "ICH9-LPC" if record.pcie else "PIIX4_PM"
            yield from ("-global", f"{chip}.disable_{sleep}={0 if wished else 1}")
    yield from ("-accel", "kvm" if record.accelerator == "kvm" else "tcg,thread=multi,tb-size=256")
    yield from ("-cpu", cpu_model(record), "-m", f"{size}M")
    topology = {"sockets": cpu.sockets, "cores": cpu.cores, "threads": cpu.threads}
    told = [f"{name}={count}" for name, count in topology.items() if count is not None]
    most = max(cpu.max or cpu.count, record.cpus)
    yield from ("-smp", ",".join([f"cpus={record.cpus}", f"maxcpus={most}", *told]))
    start = datetime.fromtimestamp(record.created + spec.clock_offset_s, UTC)
    start = start.astimezone() if spec.clock == "localtime" else start
    yield from ("-rtc", f"base={start:%Y-%m-%dT%H:%M:%S}" if spec.clock_offset_s else f"base={spec.clock}")
    if spec.smbios:
        fields = (f"{name}={_escaped(text)}" for name, text in sorted(spec.smbios.items()))
        yield from ("-smbios", ",".join(["type=1", *fields]))


def _monitor(wiring: Wiring) -> Iterator[str]:
    yield from ("-chardev", f"socket,id={MONITOR},fd={wiring.monitor_fd},server=on,wait=off")
    yield from ("-mon", f"chardev={MONITOR},mode=control")


def _boot(spec: DomainSpec, wiring: Wiring) -> Iterator[str]:
    if wiring.kernel:
        yield from ("-kernel", wiring.kernel)
        if wiring.initrd:
            yield from ("-initrd", wiring.initrd)
        if spec.boot.cmdline:
            yield from ("-append", spec.boot.cmdline)
    if spec.boot.menu:
        yield from ("-boot", "menu=on,splash-time=3000")


def _console(record: Record, wiring: Wiring) -> Iterator[str]:
    if record.spec.console.type == "none":
        return
    chardev = f"socket,id=console,fd={wiring.console_fd},server=on,wait=off"
    if wiring.log_fd >= 0:
        yield from ("-add-fd", f"fd={wiring.log_fd},set={LOG_SET}")
        chardev += f",logfile=/dev/fdset/{LOG_SET},logappend=on"
    yield from ("-chardev", chardev)
    if record.spec.console.type == "serial":
        yield from ("-serial", "chardev:console")


def _fixed_devices(record: Record) -> Iterator[str]:
    """Yield what every guest has, on places that never change."""
    spec, kind = record.spec, "device" if record.microvm else "pci"
    balloon = {"driver": f"virtio-balloon-{kind}", "id": "balloon", "free-page-reporting": True}
    yield from _device(balloon)
    yield from _device({"driver": f"virtio-serial-{kind}", "id": "vserial"})
    if spec.console.type == "virtio":
        yield from _device({"driver": "virtconsole", "bus": "vserial.0", "nr": 0, "chardev": "console"})
    if spec.rng:
        yield from _device({"driver": f"virtio-rng-{kind}"})
    yield from _device({"driver": "pvpanic" if record.microvm else "pvpanic-pci"})
    if spec.watchdog:
        yield from _device({"driver": spec.watchdog})
    if record.scsi:
        yield from _device({"driver": "virtio-scsi-pci", "id": "scsi", "num_queues": spec.cpu.count})
    if spec.usb or any(disk.bus == "usb" for disk in spec.disks):
        yield from _device({"driver": "qemu-xhci", "id": "usb"})
        for one in spec.usb:
            mouse = {"keyboard": "usb-kbd"}.get(one.emulated, f"usb-{one.emulated}")
            yield from _device({"driver": mouse, "bus": "usb.0"})


def _screen(spec: DomainSpec) -> Iterator[str]:
    graphics = spec.graphics
    video = graphics.video or ("std" if graphics.type != "none" else "none")
    if video != "none":
        yield from _device({"driver": VIDEO[video]})
    if graphics.type == "vnc":
        where = f"{graphics.listen or '127.0.0.1'}:{(graphics.port or 0) - 5900}"
        yield from ("-vnc", "none" if graphics.port is None else where)  # none: visitors are handed over
        if graphics.keymap:
            yield from ("-k", graphics.keymap)


def _ports(record: Record) -> Iterator[str]:
    """Yield the root ports: each takes one device, now or while the guest lives."""
    for index in range(record.slots if record.pcie else 0):
        port = {"driver": "pcie-root-port", "id": f"port{index}", "chassis": index + 1, "slot": index + 1}
        place = {"bus": "pcie.0", "addr": f"{0x10 + index // 8:#x}.{index % 8}", "multifunction": True}
        yield from _device(port | place)


def _cold(record: Record, wiring: Wiring, number: int) -> Iterator[str]:
    plugged = next(one for one in record.plugged if one.number == number)
    for command in attach(record, plugged, wiring.reach.get(number, Reach())):
        yield from _option(command)


def _option(command: Command) -> tuple[str, str]:
    verb, arguments = command
    if verb == "chardev-add":
        stream = arguments["backend"]["data"]
        path = _escaped(stream["addr"]["data"]["path"])
        again = next(f"{name}={stream[name]}" for name in ("reconnect", "reconnect-ms") if name in stream)
        return "-chardev", f"socket,id={arguments['id']},path={path},{again}"
    return COLD_OPTIONS[verb], json.dumps(arguments)


def _device(arguments: dict[str, Any]) -> tuple[str, str]:
    return "-device", json.dumps(arguments)


def _escaped(text: str) -> str:
    """Return a value as QEMU's option lists want it: commas are doubled."""
    return text.replace(",", ",,")
