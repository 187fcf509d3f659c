from __future__ import annotations

import pytest

from manor_bus.wire.messages.documents import Boot, Console, Cpu, Disk, DomainSpec, Graphics, Nic, Pci, Usb
from manor_lifecycle.hypervisors.qemu.refusals import affinity, refusals

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
        (DomainSpec(boot=Boot(initrd="/i")), "spec.boot.initrd"),
        (DomainSpec(disks=(Disk(id="a", source="/x", bus="xen"),)), "spec.disks[0].bus"),
        (DomainSpec(disks=(Disk(id="a", source="/x", device="floppy"),)), "spec.disks[0].device"),
        (DomainSpec(disks=(Disk(id="a", source="/x", device="cdrom"),)), "spec.disks[0].device"),
        (DomainSpec(type="microvm", boot=KERNEL, nics=(Nic(id="n", model="e1000"),)), "spec.nics[0].model"),
        (DomainSpec(pci=(Pci(id="p", address="0000:03:00.0"),)), "spec.pci[0]"),
        (DomainSpec(usb=(Usb(id="u", host="1d6b:0002"),)), "spec.usb[0]"),
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
