from __future__ import annotations

import pytest

from manor_lifecycle.hypervisors import Changed
from manor_lifecycle.hypervisors.qemu.arguments import MONITOR
from manor_lifecycle.hypervisors.qemu.foreign import changes, read
from manor_lifecycle.hypervisors.seen import Run

UUID = "4e6c6e60-2f0b-4bb4-9d3c-1a9c0c7f1d11"


def test_a_guest_of_somebody_else_is_read_from_its_command_line() -> None:
    argv = [
        "/usr/bin/qemu-system-x86_64",
        "-name",
        "guest=other,debug-threads=on",
        "-uuid",
        UUID,
        "-m",
        "2G",
        "-smp",
        "4",
    ]
    found = read(argv, "boot/17")
    assert found is not None
    assert (found.run, found.name, found.memory_mib, found.cpus, found.ours) == (
        Run(UUID, 0),
        "other",
        2048,
        4,
        False,
    )


@pytest.mark.parametrize(
    "argv", [["/bin/sleep", "1"], ["qemu-system-x86_64", "-chardev", f"socket,id={MONITOR},fd=3"]]
)
def test_other_programs_and_our_own_guests_are_not_foreign(argv: list[str]) -> None:
    assert read(argv, "boot/17") is None


def test_a_guest_without_a_name_or_uuid_gets_lasting_ones() -> None:
    first, again = read(["qemu-kvm"], "boot/17"), read(["qemu-kvm"], "boot/17")
    other = read(["qemu-kvm"], "boot/18")
    assert first is not None
    assert other is not None
    assert first == again
    assert first.run != other.run
    assert first.name == "qemu-17"
    assert first.memory_mib == 128


def test_what_appeared_changed_and_went_away_is_told() -> None:
    one = read(["qemu-kvm", "-m", "64"], "boot/1")
    larger = read(["qemu-kvm", "-m", "128"], "boot/1")
    two = read(["qemu-kvm"], "boot/2")
    assert one is not None
    assert larger is not None
    assert two is not None
    before = {one.run.uuid: one, two.run.uuid: two}
    assert changes(before, {one.run.uuid: larger}) == [
        Changed(one.run.uuid, foreign="qemu-1"),
        Changed(two.run.uuid),
    ]
    assert changes(before, before) == []
