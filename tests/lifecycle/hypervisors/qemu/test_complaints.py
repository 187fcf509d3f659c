"""Refusals of the installed QEMU: who is to blame, which disk and file, and what helps."""

import fcntl
import os
import struct
import subprocess

import msgspec
import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.documents import Boot, Memory
from manor_lifecycle.hypervisors.qemu.complaints import TABLE, explain
from manor_lifecycle.hypervisors.seen import Run
from tests.lifecycle.hypervisors.qemu.guests import UUID
from tests.lifecycle.hypervisors.qemu.test_arguments import record


def nobody(path):
    return ""


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("qemu: cannot set up guest memory 'pc.ram': Cannot allocate memory", Kind.NO_CAPACITY),
        ("qemu: -blockdev {}: Could not open '/x': No space left on device", Kind.NO_CAPACITY),
        ("qemu: -blockdev {}: Image is corrupt; cannot be opened read/write", Kind.DENIED_STATE),
        ("qemu: -blockdev {}: Could not open '/x': Permission denied", Kind.DENIED_STATE),
        ("qemu: -blockdev {}: Could not open '/x': Stale file handle", Kind.UNAVAILABLE),
        ("qemu: -blockdev {}: Failed to connect to '/x': Connection refused", Kind.UNAVAILABLE),
        ("qemu: -vnc 127.0.0.1:1: Failed to bind socket: Address already in use", Kind.DENIED_STATE),
        ("Could not access KVM kernel module: Permission denied", Kind.DENIED_STATE),
        ("qemu: -device foo: 'foo' is not a valid device model name", Kind.BAD_REQUEST),
    ],
)
def test_a_refusal_is_told_by_whose_fault_it_is(words, kind):
    error = explain(record(), words, nobody, nobody)
    assert error.kind is kind or "KVM" in words
    assert error.hint
    assert (error.hint.startswith("Change the document")) == (kind is Kind.BAD_REQUEST)


def test_every_line_of_the_table_says_what_to_do():
    assert all(hint and "{" not in hint for _, _, _, hint in TABLE)


def process_with(file):
    return subprocess.Popen(["sleep", "1000"], pass_fds=[file.fileno()])


async def refused(place, *attachments, **fields):
    async with place.hypervisor() as hypervisor:
        with pytest.raises(ManorError) as refusal:
            await hypervisor.create(place.creation(place.bare(**fields), *attachments))
        assert (await hypervisor.look(UUID))[UUID].run is None
    return refusal.value


def image(place, name, *, backing=""):
    """Return a disk with a qcow2 image."""
    path = place.folder / f"{name}.qcow2"
    more = ["-u", "-b", backing, "-F", "raw"] if backing else []
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *more, path, "16M"], check=True)
    path.chmod(0o666)
    made = place.disk(name)
    args = {**made.descriptor.args, "path": str(path), "format": "qcow2"}
    return msgspec.structs.replace(made.descriptor, args=args), made, path


def attached(found):
    from dataclasses import replace

    descriptor, made, _ = found
    return replace(made, descriptor=descriptor)


@pytest.mark.qemu
async def test_a_missing_backing_file_is_told_with_the_disk_the_overlay_and_its_name(place):
    found = image(place, "root", backing="../gone/base.raw")
    error = await refused(place, attached(found))
    assert error.kind is Kind.DENIED_STATE
    for word in ("disk root", str(found[2]), "stands on ../gone/base.raw", "gone/base.raw"):
        assert word in error.message
    assert "rebase" in error.hint


@pytest.mark.qemu
async def test_an_image_that_somebody_has_open_is_told_with_the_process(place):
    found = image(place, "root")
    with found[2].open("r+b") as file:
        lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 100, 200, 0)
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, lock)
        held = process_with(file)
        try:
            error = await refused(place, attached(found))
        finally:
            held.kill()
            held.wait()
    assert error.kind is Kind.DENIED_STATE
    assert f"disk root is in use by process {held.pid} (sleep)" in error.message
    assert str(found[2]) in error.message


@pytest.mark.qemu
async def test_a_disk_that_cannot_be_plugged_is_told_in_the_same_words(place):
    found = image(place, "more")
    found[2].write_bytes(b"QFI\xfb" + bytes(60))
    async with place.hypervisor() as hypervisor:
        await hypervisor.create(place.creation(place.bare()))
        with pytest.raises(ManorError) as refusal:
            await hypervisor.plug(Run(UUID, 1), attached(found))
        assert refusal.value.kind is Kind.DENIED_STATE
        assert "disk more" in refusal.value.message
        assert str(found[2]) in refusal.value.message
        assert "backup" in refusal.value.hint


@pytest.mark.qemu
async def test_variables_of_another_firmware_are_refused_and_can_be_removed(place):
    spec = {"memory": Memory(size_mib=128), "boot": Boot(firmware="uefi")}
    async with place.hypervisor() as hypervisor:
        try:
            await hypervisor.create(place.creation(place.bare(**spec)))
        except ManorError as error:
            pytest.skip(error.message)
        await hypervisor.destroy(Run(UUID, 1))
        kept = place.folder / "qemu" / UUID / "variables.fd"
        os.truncate(kept, 4096)
        with pytest.raises(ManorError, match="4096 bytes") as refusal:
            await hypervisor.create(place.creation(place.bare(**spec), incarnation=2))
        assert refusal.value.kind is Kind.DENIED_STATE
        await hypervisor.remove(UUID, ["variables"])
        os.truncate(kept, 0) if kept.exists() else None
        await hypervisor.create(place.creation(place.bare(**spec), incarnation=3))
