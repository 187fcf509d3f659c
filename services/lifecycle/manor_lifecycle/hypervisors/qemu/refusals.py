"""What this adapter cannot do with a Domain document, in one table, said before anything is begun. Pure.

A wish without effect here is refused as well: whatever is not in the table, and config does not refuse for
every hypervisor, is used. A test asks all fields on all machines.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from manor_bus.wire.errors import Problem
from manor_bus.wire.messages.documents import Disk, DomainSpec

BUSES: Final = frozenset({"virtio", "scsi", "sata", "ide", "usb", "nvme"})
SMBIOS: Final = frozenset({"manufacturer", "product", "version", "serial", "sku", "family"})
MICRO: Final = "a microvm has none"
XEN: Final = "needs Xen"


@dataclass(frozen=True, slots=True)
class Machine:
    """What else decides: the document, the processors of the node, and whether they run the guest's code."""

    spec: DomainSpec
    cpus: int
    kvm: bool

    @property
    def micro(self) -> bool:
        """A machine without firmware, PCI and screen."""
        return self.spec.type == "microvm"


@dataclass(frozen=True, slots=True)
class Row:
    """`field`: `disks.bus`; `unfit` takes what the field is of (each disk), and the machine."""

    field: str
    unfit: Callable[[Any, Machine], object]
    reason: str
    allowed: str = ""


def _contradicts(spec: DomainSpec, machine: Machine) -> bool:
    return bool(spec.machine) and spec.machine.startswith("microvm") != machine.micro


def _no_such_bus(disk: Disk, machine: Machine) -> bool:
    return disk.bus not in BUSES or (machine.micro and disk.bus != "virtio")


def _no_such_drive(disk: Disk, machine: Machine) -> bool:
    return disk.device == "floppy" or (disk.device == "cdrom" and disk.bus in ("virtio", "nvme"))


def _no_such_processors(cpu: Any, machine: Machine) -> bool:
    try:
        affinity(cpu.affinity, machine.cpus)
    except ValueError:
        return True
    return False


def _shown_to_the_network(graphics: Any, machine: Machine) -> bool:
    try:
        return not ipaddress.ip_address(graphics.listen).is_loopback
    except ValueError:
        return graphics.listen not in ("", "localhost")


TABLE: Final = (
    Row("type", lambda spec, _: spec.type in ("pv", "pvh"), XEN, "hvm, microvm"),
    Row("machine", _contradicts, "is not of spec.type", "a machine of that type, or nothing"),
    Row("cpu.affinity", _no_such_processors, "names processors that are not here", "such as 0-3,^1"),
    Row("cpu.nested", lambda cpu, _: cpu.nested and cpu.model, "the CPU model says it", "one of the two"),
    Row("viridian", lambda spec, machine: spec.viridian and not machine.kvm, "needs KVM on this node"),
    Row("boot.kernel", lambda boot, machine: machine.micro and not boot.kernel, "a microvm starts from one"),
    Row("boot.firmware", lambda boot, machine: machine.micro and boot.firmware, MICRO),
    Row("acpi_s3", lambda spec, machine: spec.acpi_s3 and (machine.micro or not spec.acpi), "needs ACPI"),
    Row("acpi_s4", lambda spec, machine: spec.acpi_s4 and (machine.micro or not spec.acpi), "needs ACPI"),
    Row("smbios", lambda spec, machine: machine.micro and spec.smbios, MICRO),
    Row("smbios", lambda spec, _: set(spec.smbios) - SMBIOS, "not all are in it", ", ".join(sorted(SMBIOS))),
    Row("disks.bus", _no_such_bus, "not offered", ", ".join(sorted(BUSES))),
    Row("disks.device", _no_such_drive, "not on this bus", "disk, or cdrom on scsi, sata, ide or usb"),
    Row("nics.model", lambda nic, machine: nic.model == "xen", XEN, "virtio"),
    Row("nics.model", lambda nic, machine: machine.micro and nic.model != "virtio", MICRO, "virtio"),
    Row("pci.address", lambda pci, _: pci.address, "this adapter passes no PCI devices through"),
    Row("usb.host", lambda usb, _: usb.host, "only emulated ones are offered", "tablet, keyboard, mouse"),
    Row("usb.emulated", lambda usb, machine: machine.micro and usb.emulated, MICRO),
    Row("graphics.type", lambda graphics, _: graphics.type == "spice", "not offered", "none, vnc"),
    Row("graphics.type", lambda graphics, machine: machine.micro and graphics.type == "vnc", MICRO, "none"),
    Row(
        "graphics.video", lambda one, machine: machine.micro and one.video not in ("", "none"), MICRO, "none"
    ),
    Row(
        "graphics.password_ref", lambda one, _: one.password_ref, "no passwords are set; only we can connect"
    ),
    Row(
        "graphics.listen", _shown_to_the_network, "is open to the network; use a tunnel", "a loopback address"
    ),
    Row("console.type", lambda console, _: console.type == "xen", XEN, "serial, virtio, none"),
    Row("watchdog", lambda spec, _: spec.watchdog == "xen", XEN, "i6300esb"),
    Row("watchdog", lambda spec, machine: machine.micro and spec.watchdog == "i6300esb", MICRO),
)


def refusals(spec: DomainSpec, cpus: int, *, kvm: bool = True) -> tuple[Problem, ...]:
    """Return all reasons not to start such a domain on a node with `cpus` processors."""
    machine = Machine(spec, cpus, kvm)
    return tuple(
        Problem(path=path, value=_text(getattr(owner, name)), reason=row.reason, allowed=row.allowed)
        for row in TABLE
        for path, owner, name in _places(spec, row.field)
        if row.unfit(owner, machine)
    )


def _places(spec: DomainSpec, field: str) -> Iterator[tuple[str, Any, str]]:
    """Yield the path, the owner and the name of a field, for each device that has it."""
    part, _, name = field.rpartition(".")
    owner = getattr(spec, part) if part else spec
    if isinstance(owner, tuple):
        yield from ((f"spec.{part}[{index}].{name}", one, name) for index, one in enumerate(owner))
    else:
        yield f"spec.{field}", owner, name


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def affinity(text: str, cpus: int) -> frozenset[int]:
    """Return the processors that `0-3,^2` or `all` names; empty for no wish. Raises ValueError."""
    chosen: set[int] = set()
    for part in filter(None, text.replace(" ", "").split(",")):
        first, _, last = part.removeprefix("^").partition("-")
        named = range(cpus) if first == "all" else range(int(first), int(last or first) + 1)
        if len(named) == 0 or named[0] < 0 or named[-1] >= cpus:
            message = f"this machine has the processors 0 to {cpus - 1}"
            raise ValueError(message)
        chosen = chosen - set(named) if part.startswith("^") else chosen | set(named)
    if text and not chosen:
        message = "leaves no processor"
        raise ValueError(message)
    return frozenset(chosen)
