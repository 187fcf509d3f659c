from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from manor_bus.wire.messages.devices import Descriptor
from manor_bus.wire.messages.documents import Boot, Console, Cpu, Disk, DomainSpec, Graphics, Memory, Nic
from manor_lifecycle.hypervisors import Attachment
from manor_lifecycle.hypervisors.qemu.arguments import Firmware, Wiring, command_line, cpu_model
from manor_lifecycle.hypervisors.qemu.record import Record, added

DISK = Disk(id="root", source="/x", format="qcow2")
FILE = Descriptor(type="file", args={"path": "/x", "format": "qcow2"})


def record(spec: DomainSpec | None = None, machine: str = "pc-q35-7.2", accelerator: str = "tcg") -> Record:
    return Record(
        uuid="u1", name="web", incarnation=1, spec=spec or DomainSpec(), uid=0, machine=machine,
        accelerator=accelerator, cpus=1, memory_mib=64, slots=3, created=1.0,
    )  # fmt: skip


def options(there: Record, **wiring: Any) -> dict[str, list[str]]:
    argv = command_line(there, Wiring(binary="/qemu", monitor_fd=3, console_fd=4, **wiring))
    found: dict[str, list[str]] = {}
    for name, value in pairwise(argv):
        if name.startswith("-"):
            found.setdefault(name, []).append(value)
    return found


def devices(there: Record) -> list[dict[str, Any]]:
    return [json.loads(text) for text in options(there)["-device"]]


def test_nothing_comes_from_defaults_or_configuration_of_the_node() -> None:
    argv = command_line(record(), Wiring(binary="/qemu", monitor_fd=3))
    assert {"-nodefaults", "-no-user-config", "-S"} <= set(argv)
    assert "-daemonize" not in argv


def test_the_sandbox_denies_everything_it_can() -> None:
    (sandbox,) = options(record())["-sandbox"]
    assert sandbox == "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


def test_equal_records_give_equal_machines() -> None:
    there = added(record(), Attachment(DISK, FILE))[0]
    again = msgspec.json.decode(msgspec.json.encode(there), type=Record)
    wiring = Wiring(binary="/qemu", monitor_fd=3, console_fd=4)
    assert command_line(there, wiring) == command_line(again, wiring)


@pytest.mark.parametrize(("machine", "chip"), [("pc-q35-7.2", "ICH9-LPC"), ("pc-i440fx-7.2", "PIIX4_PM")])
def test_a_guest_sleeps_as_its_document_says_or_as_a_fresh_machine_does(machine: str, chip: str) -> None:
    there = options(record(DomainSpec(acpi_s3=False, acpi_s4=True), machine))
    assert there["-global"] == [f"{chip}.disable_s3=1", f"{chip}.disable_s4=0"]
    assert "-global" not in options(record(machine=machine))


def test_the_format_of_an_image_is_said_and_never_guessed() -> None:
    there = added(record(), Attachment(DISK, FILE))[0]
    nodes = [json.loads(text) for text in options(there)["-blockdev"]]
    assert "qcow2" in {node["driver"] for node in nodes}
    assert "-drive" not in options(there)


def test_a_name_with_a_comma_stays_one_name() -> None:
    there = msgspec.structs.replace(record(), name="a,b")
    assert options(there)["-name"] == ["guest=a,,b,debug-threads=on"]


def test_memory_and_processors_have_room_to_grow() -> None:
    spec = DomainSpec(cpu=Cpu(count=1, max=4), memory=Memory(size_mib=64, max_mib=256))
    found = options(record(spec))
    assert found["-m"] == ["256M"]
    assert found["-smp"] == ["cpus=1,maxcpus=4"]


def test_a_kernel_of_the_node_is_given_with_its_command_line() -> None:
    found = options(
        record(DomainSpec(boot=Boot(kernel="/k", cmdline="quiet"))), kernel="/dev/fd/7", initrd="/dev/fd/8"
    )
    assert (found["-kernel"], found["-initrd"], found["-append"]) == (["/dev/fd/7"], ["/dev/fd/8"], ["quiet"])


def test_firmware_has_variables_of_the_domains_own() -> None:
    found = options(record(), firmware=Firmware("/code", "/vars"), variables_fd=9)
    assert "pflash0=code,pflash1=variables" in found["-machine"][0]
    assert any("/vars" in text for text in found["-blockdev"]) is False


def test_root_ports_wait_for_devices_that_come_later() -> None:
    ports = [one for one in devices(record()) if one["driver"] == "pcie-root-port"]
    assert [port["id"] for port in ports] == ["port0", "port1", "port2"]
    assert not [one for one in devices(record(machine="microvm")) if one["driver"] == "pcie-root-port"]


@pytest.mark.parametrize(("accelerator", "model"), [("kvm", "host,svm=off,vmx=off"), ("tcg", "max")])
def test_a_guest_gets_what_the_accelerator_can_without_nesting(accelerator: str, model: str) -> None:
    assert cpu_model(record(accelerator=accelerator)) == model


def test_without_a_console_nothing_listens() -> None:
    found = options(record(DomainSpec(console=Console(type="none"))))
    assert not any("id=console" in text for text in found["-chardev"])


def test_a_screen_listens_where_only_this_machine_reaches_it() -> None:
    spec = DomainSpec(graphics=Graphics(type="vnc", port=5901))
    assert options(record(spec))["-vnc"] == ["127.0.0.1:1"]
    hidden = DomainSpec(graphics=Graphics(type="vnc"))
    assert options(record(hidden))["-vnc"] == ["none"]


def test_what_is_loaded_waits_for_the_stream() -> None:
    assert options(record(), incoming=True)["-incoming"] == ["defer"]
    assert "-incoming" not in options(record())


def test_a_card_is_on_the_command_line_when_the_guest_starts_with_it() -> None:
    there = added(record(), Attachment(Nic(id="n"), Descriptor(type="user")))[0]
    assert "virtio-net-pci" in {one["driver"] for one in devices(there)}
