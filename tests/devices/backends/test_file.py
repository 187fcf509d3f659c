"""Disks that are files."""

import os
import shutil
import subprocess

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_devices import images
from manor_devices.access import XATTR
from manor_devices.backends.file import open_backend
from tests.devices.backends.orders import disk_order, settings

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes files usable for another user")
needs_qemu_img = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
UID = 54321


@pytest.fixture
def raw(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(1 << 20))
    path.chmod(0o600)
    for folder in path.parents:
        if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 1:
            folder.chmod(0o711)
    return path


async def test_a_raw_file_is_described_as_it_is(tmp_path, raw):
    backend = open_backend(settings(tmp_path))
    order = disk_order(raw, cache="writeback", discard=False)
    prepared = await backend.prepare(order)
    assert prepared.type == "file"
    assert prepared.args == {
        "path": str(raw),
        "format": "raw",
        "readonly": False,
        "cache": "writeback",
        "discard": False,
    }
    assert [(claim.name, claim.write) for claim in await backend.claim(order)] == [(str(raw), True)]


@needs_qemu_img
async def test_a_qcow2_file_claims_its_backing_file_to_read(tmp_path, raw):
    top = tmp_path / "top.qcow2"
    await images.create(top, "qcow2", 2, below=(str(raw), "raw"))
    backend = open_backend(settings(tmp_path))
    claims = await backend.claim(disk_order(top, format="qcow2"))
    assert [(claim.name, claim.write) for claim in claims] == [(str(top), True), (str(raw), False)]
    (base,) = await backend.claim(disk_order(raw))
    assert base.resource == claims[1].resource


async def test_two_names_of_one_file_are_one_resource(tmp_path, raw):
    (tmp_path / "link").symlink_to(raw)
    os.link(raw, tmp_path / "hard")
    backend = open_backend(settings(tmp_path))
    resources = {
        (await backend.claim(disk_order(tmp_path / name)))[0].resource
        for name in ("disk.raw", "link", "hard")
    }
    assert len(resources) == 1


@pytest.mark.parametrize("name", ["relative", "/dev/zero", "/tmp"])
async def test_what_is_no_image_is_refused(tmp_path, name):
    with pytest.raises(ManorError) as caught:
        await open_backend(settings(tmp_path)).claim(disk_order(name))
    assert caught.value.kind is Kind.BAD_REQUEST


async def test_images_outside_of_the_roots_are_refused(tmp_path, raw):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(raw)
    backend = open_backend(settings(tmp_path, roots=f"{tmp_path}/in:/srv/images"))
    with pytest.raises(ManorError, match="is outside of"):
        await backend.claim(disk_order(tmp_path / "in" / "link"))
    shutil.copy(raw, tmp_path / "in" / "own")
    assert await backend.claim(disk_order(tmp_path / "in" / "own"))


def may(path, word):
    return subprocess.run(["test", word, str(path)], user=UID, check=False).returncode == 0


@needs_root
@needs_qemu_img
async def test_the_domains_user_may_write_the_image_and_read_what_is_below_until_released(tmp_path, raw):
    top = tmp_path / "top.qcow2"
    await images.create(top, "qcow2", 2, below=(str(raw), "raw"))
    top.chmod(0o600)
    backend = open_backend(settings(tmp_path))
    order = disk_order(top, format="qcow2", uid=UID)
    prepared = await backend.prepare(order)
    assert (may(top, "-w"), may(raw, "-r"), may(raw, "-w")) == (True, True, False)
    again = open_backend(settings(tmp_path))
    order = disk_order(top, format="qcow2", uid=UID, notes=prepared.notes)
    assert (await again.observe([order])).present == (order.key,)
    await again.release(order)
    assert (may(top, "-r"), may(raw, "-r")) == (False, False)
    assert XATTR not in os.listxattr(top)


@needs_root
@needs_qemu_img
async def test_what_another_disk_of_the_same_user_needs_is_not_taken_back(tmp_path, raw):
    backend = open_backend(settings(tmp_path))
    orders = []
    for device in ("vda", "vdb"):
        top = tmp_path / f"{device}.qcow2"
        await images.create(top, "qcow2", 2, below=(str(raw), "raw"))
        orders.append(disk_order(top, id=device, format="qcow2", uid=UID))
        await backend.prepare(orders[-1])
    await backend.release(orders[0])
    assert may(raw, "-r")
    await backend.release(orders[1])
    assert not may(raw, "-r")
    await backend.release(orders[1])


async def test_a_file_that_is_gone_is_not_found_again(tmp_path, raw):
    backend = open_backend(settings(tmp_path))
    orders = [disk_order(raw), disk_order(tmp_path / "gone", id="vdb")]
    assert (await backend.observe(orders)).present == (orders[0].key,)
