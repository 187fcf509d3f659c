from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from manor_bus.wire.messages.devices import Descriptor
from manor_bus.wire.messages.documents import (
    Boot,
    Channel,
    Console,
    Cpu,
    Disk,
    DomainSpec,
    Graphics,
    Nic,
    Pci,
    Usb,
)
from manor_config.documents import Parsed, parse
from manor_config.effects import NOT_IN_FORCE
from manor_devices.backends.fields import NIC
from manor_lifecycle.hypervisors import Attachment
from manor_lifecycle.hypervisors.qemu.arguments import Wiring, command_line
from manor_lifecycle.hypervisors.qemu.record import added
from manor_lifecycle.hypervisors.qemu.refusals import affinity, refusals
from tests.config.examples import domain
from tests.lifecycle.hypervisors.qemu.test_arguments import record

KERNEL = Boot(kernel="/vmlinuz")


def paths(spec: DomainSpec) -> list[str]:
    return [problem.path for problem in refusals(spec, cpus=4)]


@pytest.mark.parametrize(
    "spec",
    [
        DomainSpec(),
        DomainSpec(type="microvm", boot=KERNEL, disks=(Disk(id="a", source="/x"),), nics=(Nic(id="n"),)),
        DomainSpec(graphics=Graphics(type="vnc", listen="127.0.0.1"), usb=(Usb(id="t", emulated="tablet"),)),
        DomainSpec(
            disks=(Disk(id="cd", source="/x", device="cdrom", bus="sata"),), cpu=Cpu(affinity="0-3,^1")
        ),
    ],
)
def test_what_works_is_not_refused(spec: DomainSpec) -> None:
    assert paths(spec) == []


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        (DomainSpec(type="pv"), "spec.type"),
        (DomainSpec(type="microvm"), "spec.boot.kernel"),
        (DomainSpec(type="microvm", boot=Boot(kernel="/k", firmware="uefi")), "spec.boot.firmware"),
        (DomainSpec(machine="microvm"), "spec.machine"),
        (DomainSpec(cpu=Cpu(nested=True, model="qemu64")), "spec.cpu.nested"),
        (DomainSpec(type="microvm", boot=KERNEL, smbios={"serial": "1"}), "spec.smbios"),
        (DomainSpec(type="microvm", boot=KERNEL, acpi_s3=True), "spec.acpi_s3"),
        (DomainSpec(acpi=False, acpi_s4=True), "spec.acpi_s4"),
        (DomainSpec(disks=(Disk(id="a", source="/x", bus="xen"),)), "spec.disks[0].bus"),
        (DomainSpec(disks=(Disk(id="a", source="/x", device="floppy"),)), "spec.disks[0].device"),
        (DomainSpec(disks=(Disk(id="a", source="/x", device="cdrom"),)), "spec.disks[0].device"),
        (DomainSpec(type="microvm", boot=KERNEL, nics=(Nic(id="n", model="e1000"),)), "spec.nics[0].model"),
        (DomainSpec(pci=(Pci(id="p", address="0000:03:00.0"),)), "spec.pci[0].address"),
        (DomainSpec(usb=(Usb(id="u", host="1d6b:0002"),)), "spec.usb[0].host"),
        (DomainSpec(graphics=Graphics(type="spice")), "spec.graphics.type"),
        (DomainSpec(graphics=Graphics(type="vnc", listen="0.0.0.0")), "spec.graphics.listen"),
        (DomainSpec(graphics=Graphics(type="vnc", password_ref="p")), "spec.graphics.password_ref"),
        (DomainSpec(console=Console(type="xen")), "spec.console.type"),
        (DomainSpec(watchdog="xen"), "spec.watchdog"),
        (DomainSpec(smbios={"colour": "red"}), "spec.smbios"),
        (DomainSpec(cpu=Cpu(affinity="0-9")), "spec.cpu.affinity"),
    ],
)
def test_what_this_adapter_cannot_do_is_said_with_its_path(spec: DomainSpec, path: str) -> None:
    assert paths(spec) == [path]


def test_all_reasons_are_told_at_once() -> None:
    assert len(paths(DomainSpec(type="pv", watchdog="xen", console=Console(type="xen")))) == 3


@pytest.mark.parametrize(
    ("text", "chosen"),
    [("", set()), ("all", {0, 1, 2, 3}), ("0-2,^1", {0, 2}), ("3", {3}), ("all,^0", {1, 2, 3})],
)
def test_processors_are_chosen_as_xl_does(text: str, chosen: set[int]) -> None:
    assert affinity(text, 4) == chosen


@pytest.mark.parametrize("text", ["4", "2-1", "0,^0", "x"])
def test_a_choice_that_leaves_nothing_or_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        affinity(text, 4)


# ---- Every field, on every machine and back end ------------------------------------------------------------

BACK_ENDS = {
    "file": Descriptor(type="file", args={"path": "/x"}),
    "nbd": Descriptor(type="nbd", args={"path": "/s"}),
    "usernet": Descriptor(type="user"),
    "bridge": Descriptor(type="tap", args={"ifname": "t"}),
}
# What decides when and how a domain runs, whose it is, and where the back ends of its devices come from.
BY_SERVICES = {
    "title", "description", "hypervisor", "run", "depends_on", "placement.node", "shutdown_timeout_s",
    "shutdown_repeat_s", "start_order", "start_delay_s",
    "on_poweroff", "on_reboot", "on_crash", "on_watchdog", "on_device_model_crash",
    "on_silence.after_s", "on_silence.action", "disks.source", "disks.volume", "disks.nbd", "disks.format",
    "disks.provider", "disks.required", "disks.on_provider_loss", "nics.network", "nics.provider",
    "nics.required", "nics.on_provider_loss",
}  # fmt: skip
WITNESSED = {"console.log", "cpu.affinity"}  # not on the command line
SAMPLES: dict[str, Any] = {
    "type": "microvm", "machine": "pc", "cpu.count": 2, "cpu.max": 2, "cpu.sockets": 1,
    "cpu.cores": 1, "cpu.threads": 1, "cpu.affinity": "0", "memory.size_mib": 512, "memory.max_mib": 512,
    "boot.kernel": "/other", "boot.initrd": "/i", "boot.cmdline": "quiet", "boot.firmware": "uefi",
    "boot.order": ("root",), "disks.device": "cdrom", "disks.bus": "nvme", "disks.cache": "directsync",
    "nics.model": "e1000", "nics.mtu": 9000,
    "nics.ip": ("10.0.0.2",), "nics.mac": "52:54:00:00:00:01", "nics.queues": 2,
    "console.type": "virtio", "graphics.type": "vnc",
    "graphics.listen": "127.0.0.1", "graphics.port": 5901, "graphics.video": "virtio",
    "pci": (Pci(id="p", address="03:00.0"),), "usb": (Usb(id="u", emulated="tablet"),), "clock": "localtime",
    "acpi_s3": True, "acpi_s4": True, "watchdog": "i6300esb", "smbios": {"serial": "1"},
    "placement.selector": "a=b", "placement.affinity": ("a",), "placement.anti_affinity": ("a",),
    "channels": (Channel(id="c"),),
}  # fmt: skip


def fields(struct: type, part: str = "") -> Iterator[str]:
    """Yield every field, those of a device or a part of the document under its name."""
    for field in msgspec.structs.fields(struct):
        inner = {"disks": Disk, "nics": Nic}.get(field.name, field.type)
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            yield from fields(inner, f"{part}{field.name}.")
        else:
            yield part + field.name


def told(base: DomainSpec, field: str) -> DomainSpec:
    """Return a document that says one thing more."""
    part, _, name = field.rpartition(".")
    there = getattr(base, part) if part else base
    owner = there[0] if isinstance(there, tuple) else there
    before = getattr(owner, name)
    other = not before if isinstance(before, bool) else "x" if isinstance(before, str) else 7
    changed = msgspec.structs.replace(owner, **{name: SAMPLES.get(field, other)})
    if not part:
        return changed
    return msgspec.structs.replace(base, **{part: (changed,) if isinstance(there, tuple) else changed})


def arguments(spec: DomainSpec, machine: str, accelerator: str, disk: str, nic: str) -> list[str]:
    there = record(spec, spec.machine or machine, accelerator)
    there = msgspec.structs.replace(there, cpus=spec.cpu.count, scsi=True)
    for device in (*spec.disks, *spec.nics):
        back_end = BACK_ENDS[disk if isinstance(device, Disk) else nic]
        there, _ = added(there, Attachment(device, back_end))
    there_is = {"kernel": spec.boot.kernel, "initrd": spec.boot.initrd}
    firmware = ["uefi"] if spec.boot.firmware == "uefi" else []  # found by who wires it
    return [*command_line(there, Wiring(binary="/qemu", monitor_fd=3, console_fd=4, **there_is)), *firmware]


@pytest.mark.parametrize("accelerator", ["kvm", "tcg"])
@pytest.mark.parametrize(("disk", "nic"), [("file", "bridge"), ("nbd", "usernet")])
@pytest.mark.parametrize("machine", ["pc-q35-7.2", "pc-i440fx-7.2", "microvm"])
def test_a_wish_is_used_or_refused_and_never_without_effect(machine, disk, nic, accelerator) -> None:
    base = DomainSpec(
        type="microvm" if machine == "microvm" else "hvm",
        boot=KERNEL if machine == "microvm" else Boot(),
        disks=(Disk(id="root", source="/x"),),
        nics=(Nic(id="net", network="lan" if nic == "bridge" else ""),),
    )
    elsewhere = BY_SERVICES | WITNESSED | NOT_IN_FORCE[DomainSpec]
    before = arguments(base, machine, accelerator, disk, nic)
    silent = []
    for field in sorted(set(fields(DomainSpec)) - elsewhere):
        spec = told(base, field)
        if not isinstance(parse(domain(**msgspec.to_builtins(spec))), Parsed):
            continue  # refused at `apply`
        if refusals(spec, 4, kvm=accelerator == "kvm") or NIC[nic].get(field.removeprefix("nics.")):
            continue
        if arguments(spec, machine, accelerator, disk, nic) == before:
            silent.append(field)
    always = {"cpu.nested"} if accelerator == "tcg" else set()  # emulated processors can do that
    decided = {"type"} if machine == "microvm" else set()  # the base says it already
    assert set(silent) - always - decided == set()
