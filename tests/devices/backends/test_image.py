"""What the back ends of disks share."""

import subprocess
import sys

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_devices.backends import image
from manor_devices.backends.image import Grants, claims, disk_of, layers, unheld, warning
from manor_devices.images import Layer
from tests.devices.backends.orders import disk_order, nic_order

TOP = Layer("/top", "qcow2", 0, 0, "1:1")
BELOW = Layer("/below", "raw", 0, 0, "1:2")


def test_only_a_disk_is_a_disk():
    with pytest.raises(ManorError, match="is not a disk"):
        disk_of(nic_order())


@pytest.mark.parametrize(("readonly", "shareable"), [(False, False), (True, False), (False, True)])
def test_the_image_is_claimed_as_the_disk_says_and_what_is_below_is_only_read(readonly, shareable):
    top, below = claims(disk_order("/top", readonly=readonly, shareable=shareable), (TOP, BELOW))
    assert (top.write, top.shareable) == (not readonly, shareable)
    assert (below.write, below.shareable) == (False, False)


MARKS = {
    "qcow2": (0, b"QFI\xfb"),
    "vmdk": (0, b"KDMV"),
    "vdi": (0x40, b"\x7f\x10\xda\xbe"),
    "vhd": (1 << 17, b"conectix".ljust(512, b"\0")),
    "vhdx": (0, b"vhdxfile"),
    "qed": (0, b"QED\0"),
    "luks": (0, b"LUKS\xba\xbe"),
    "iso": (0x8001, b"CD001"),
}


def looks_like(folder, name):
    path = folder / name
    at, mark = MARKS[name]
    path.write_bytes(bytes(at) + mark + (b"" if name == "vhd" else bytes(1 << 17)))
    return path


@pytest.mark.parametrize("name", MARKS)
async def test_an_image_is_never_handed_out_as_raw_unless_the_document_says_so(tmp_path, name):
    path = looks_like(tmp_path, name)
    with pytest.raises(ManorError, match=f"disk vda: .* looks like {name}") as caught:
        await layers(disk_order(path))
    assert caught.value.kind is Kind.BAD_REQUEST
    assert [problem.path for problem in caught.value.problems] == ["disk.format"]
    assert "Write" in caught.value.hint or "write" in caught.value.hint
    (layer,) = await layers(disk_order(path, format="raw"))
    assert (layer.path, layer.format) == (str(path), "raw")
    assert name in (await warning(disk_order(path, format="raw")))["warning"]


@pytest.mark.parametrize("fields", [{"device": "cdrom"}, {"readonly": True}])
async def test_an_iso_that_is_only_read_is_what_was_meant(tmp_path, fields):
    path = looks_like(tmp_path, "iso")
    for format_ in ("", "raw"):
        await layers(disk_order(path, format=format_, **fields))
        assert await warning(disk_order(path, format=format_, **fields)) == {}


async def test_raw_bytes_said_to_be_qcow2_are_refused_with_the_field(tmp_path):
    path = looks_like(tmp_path, "iso")
    with pytest.raises(ManorError, match="is not in qcow2 format") as caught:
        await layers(disk_order(path, format="qcow2"))
    assert caught.value.problems[0].path == "disk.format"


async def test_a_file_that_is_read_only_for_its_owner_is_refused_to_a_writer_and_not_made_writable(tmp_path):
    path = tmp_path / "sealed.raw"
    path.write_bytes(bytes(4096))
    path.chmod(0o444)
    with pytest.raises(ManorError, match="read-only for its owner") as caught:
        await layers(disk_order(path))
    assert caught.value.problems[0].path == "disk.readonly"
    for fields in ({"readonly": True}, {"device": "cdrom"}):
        await layers(disk_order(path, **fields))


@pytest.mark.parametrize("bus", ["virtio", "ide", "sata", "scsi", "usb"])
def test_a_cdrom_is_read_only_whatever_its_bus_is(bus):
    order = disk_order("/x.iso", id="cd0", device="cdrom", bus=bus)
    (claim,) = claims(order, (TOP,))
    assert not claim.write


HOLD = """
import fcntl, os, struct, sys
file = os.open(sys.argv[1], os.O_RDWR)
for byte in (101, 201):
    fcntl.fcntl(file, 37, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, byte, 1, 0))
print("held", flush=True)
sys.stdin.read()
"""


async def test_an_image_that_a_foreign_process_holds_is_refused_with_its_name_and_pid(tmp_path, monkeypatch):
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(4096))
    monkeypatch.setattr(image, "MOMENTS", 1)
    found = await layers(disk_order(path))
    await unheld(disk_order(path), found)
    argv = [sys.executable, "-c", HOLD, path]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:  # noqa: ASYNC220
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ManorError, match=f"disk vda: {path} is held by .*pid {holder.pid}") as caught:
            await unheld(disk_order(path), found)
        assert caught.value.kind is Kind.DENIED_STATE
        await unheld(disk_order(path, shareable=True), found)
        holder.stdin.close()
    await unheld(disk_order(path), found)


async def test_a_device_without_a_user_of_its_own_needs_no_grant():
    grants = Grants()
    assert await grants.grant(disk_order("/top"), (TOP,)) == {}
    await grants.revoke(disk_order("/top"))
