"""What this adapter cannot do with a Domain document, said before anything is begun. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Final

from manor_bus.wire.errors import Problem
from manor_bus.wire.messages.documents import DomainSpec

MICROVM_BUSES: Final = frozenset({"virtio"})
BUSES: Final = frozenset({"virtio", "scsi", "sata", "ide", "usb", "nvme"})
SMBIOS: Final = frozenset({"manufacturer", "product", "version", "serial", "sku", "family"})


def refusals(spec: DomainSpec, cpus: int) -> tuple[Problem, ...]:
    """Return all reasons not to start such a domain on a machine with `cpus` processors."""
    return (*_machine(spec), *_devices(spec), *_graphics(spec), *_rest(spec, cpus))


def _machine(spec: DomainSpec) -> Iterator[Problem]:
    if spec.type in ("pv", "pvh"):
        yield _problem("spec.type", spec.type, "needs Xen", "hvm, microvm")
    if spec.type == "microvm" and not spec.boot.kernel:
        yield _problem("spec.boot.kernel", "", "a microvm starts from a kernel, it has no other way", "")
    if spec.type == "microvm" and spec.boot.firmware:
        yield _problem("spec.boot.firmware", spec.boot.firmware, "a microvm has no firmware to choose", "")
    for name, wished in (("acpi_s3", spec.acpi_s3), ("acpi_s4", spec.acpi_s4)):
        if wished and (spec.type == "microvm" or not spec.acpi):
            yield _problem(f"spec.{name}", "true", "needs ACPI and a machine that sleeps", "hvm with acpi")
    if spec.boot.initrd and not spec.boot.kernel:
        yield _problem("spec.boot.initrd", spec.boot.initrd, "is only used with spec.boot.kernel", "")


def _devices(spec: DomainSpec) -> Iterator[Problem]:
    buses = MICROVM_BUSES if spec.type == "microvm" else BUSES
    for index, disk in enumerate(spec.disks):
        if disk.bus not in buses:
            yield _problem(f"spec.disks[{index}].bus", disk.bus, "not offered", ", ".join(sorted(buses)))
        if disk.device == "floppy" or (disk.device == "cdrom" and disk.bus in ("virtio", "nvme")):
            path, reason = f"spec.disks[{index}].device", f"there is no {disk.device} on the bus {disk.bus}"
            yield _problem(path, disk.device, reason, "disk, or cdrom on scsi, sata, ide or usb")
    for index, nic in enumerate(spec.nics):
        if nic.model == "xen" or (spec.type == "microvm" and nic.model != "virtio"):
            yield _problem(f"spec.nics[{index}].model", nic.model, "not offered", "virtio")
    for index, pci in enumerate(spec.pci):
        yield _problem(f"spec.pci[{index}]", pci.address, "this adapter passes no PCI devices through", "")
    for index, usb in enumerate(spec.usb):
        if usb.host or spec.type == "microvm":
            reason = "this adapter offers emulated USB devices on hvm only"
            yield _problem(f"spec.usb[{index}]", usb.host, reason, "tablet, keyboard, mouse")


def _graphics(spec: DomainSpec) -> Iterator[Problem]:
    graphics = spec.graphics
    if graphics.type == "spice":
        yield _problem("spec.graphics.type", "spice", "not offered", "none, vnc")
    if graphics.password_ref:
        reason = "this adapter sets no passwords; it only listens where nobody else is"
        yield _problem("spec.graphics.password_ref", graphics.password_ref, reason, "")
    if graphics.listen and not _loopback(graphics.listen):
        reason = "would show the screen to the network without a password; use a tunnel"
        yield _problem("spec.graphics.listen", graphics.listen, reason, "a loopback address, or nothing")
    if spec.type == "microvm" and (graphics.type != "none" or graphics.video not in ("", "none")):
        yield _problem("spec.graphics.type", graphics.type, "a microvm has no screen", "none")


def _rest(spec: DomainSpec, cpus: int) -> Iterator[Problem]:
    if spec.console.type == "xen":
        yield _problem("spec.console.type", "xen", "needs Xen", "serial, virtio, none")
    if spec.watchdog == "xen" or (spec.watchdog and spec.type == "microvm"):
        yield _problem("spec.watchdog", spec.watchdog, "not offered", "i6300esb (hvm)")
    for name in sorted(set(spec.smbios) - SMBIOS):
        yield _problem("spec.smbios", name, "not a field of the system record", ", ".join(sorted(SMBIOS)))
    try:
        affinity(spec.cpu.affinity, cpus)
    except ValueError as error:
        yield _problem("spec.cpu.affinity", spec.cpu.affinity, str(error), f"such as 0-{cpus - 1},^1")


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


def _loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _problem(path: str, value: str, reason: str, allowed: str) -> Problem:
    return Problem(path=path, value=value, reason=reason, allowed=allowed)
