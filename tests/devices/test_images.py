"""Disk images through the real qemu-img."""

import shutil
import subprocess

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_devices import images

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")


def img(*argv):
    subprocess.run(["qemu-img", *map(str, argv)], check=True, capture_output=True)


async def test_a_raw_file_is_a_chain_of_one(tmp_path):
    path = tmp_path / "a b, c.raw"
    await images.create(path, "raw", 3)
    (layer,) = await images.chain(str(path), "raw")
    assert (layer.path, layer.size) == (str(path), 3 << 20)


async def test_the_chain_of_an_overlay_is_followed_and_names_of_one_file_are_one_identity(tmp_path):
    await images.create(tmp_path / "low.raw", "raw", 2)
    await images.create(tmp_path / "top.qcow2", "qcow2", 5, below=(str(tmp_path / "low.raw"), "raw"))
    (tmp_path / "link").symlink_to("low.raw")
    top, low = await images.chain(str(tmp_path / "top.qcow2"), "qcow2")
    assert (top.size, low.size, low.format) == (5 << 20, 2 << 20, "raw")
    assert images.identify(str(tmp_path / "link"))[1] == low.identity


async def test_a_raw_image_is_never_read_as_anything_else(tmp_path):
    await images.create(tmp_path / "low.raw", "raw", 1)
    await images.create(tmp_path / "evil", "qcow2", 1, below=(str(tmp_path / "low.raw"), "raw"))
    layers = await images.chain(str(tmp_path / "evil"), "raw")
    assert [layer.path for layer in layers] == [str(tmp_path / "evil")]


def make_formatless(folder):
    """A backing file without its format, which newer tools refuse to make: spoil the header that says it."""
    img("create", "-f", "qcow2", "-b", folder / "low.raw", "-F", "raw", folder / "x", "1M")
    content = bytearray((folder / "x").read_bytes())
    at = content.index(bytes.fromhex("e2792aca"))
    content[at : at + 4] = bytes.fromhex("0badcafe")  # an extension nobody knows is ignored by all
    (folder / "x").write_bytes(content)


def make_remote(folder):
    img("create", "-f", "qcow2", "-b", "nbd://127.0.0.1:1/x", "-F", "raw", "-u", folder / "x", "1M")


def make_endless(folder):
    img("create", "-f", "qcow2", folder / "x", "1M")
    img("create", "-f", "qcow2", "-b", folder / "x", "-F", "qcow2", folder / "y", "1M")
    img("rebase", "-u", "-f", "qcow2", "-b", folder / "y", "-F", "qcow2", folder / "x")


def make_bottomless(folder):
    img("create", "-f", "qcow2", "-b", folder / "gone", "-F", "raw", "-u", folder / "x", "1M")


def make_split(folder):
    img("create", "-f", "qcow2", "-o", f"data_file={folder / 'low.raw'}", folder / "x", "1M")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (make_formatless, "whose format it does not say"),
        (make_remote, "is not a file of this node"),
        (make_endless, "has no end"),
        (
            make_bottomless,
            "x stands on its backing file '.*/gone', which cannot be used: there is no file",
        ),
        (make_split, "data-file"),
    ],
)
async def test_an_image_that_points_outside_or_makes_one_guess_is_refused(tmp_path, make, reason):
    await images.create(tmp_path / "low.raw", "raw", 1)
    make(tmp_path)
    with pytest.raises(ManorError, match=reason):
        await images.chain(str(tmp_path / "x"), "qcow2", "spec.disks[0].source")


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("relative.raw", Kind.BAD_REQUEST, "must be an absolute path"),
        ("/dev/null", Kind.BAD_REQUEST, "is not a file"),
        ("/no/such", Kind.NOT_FOUND, "there is no file"),
        ("/", Kind.BAD_REQUEST, "is a directory"),
        ("/etc/passwd/x", Kind.NOT_FOUND, "there is no file"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(name, kind, reason):
    with pytest.raises(ManorError, match=reason) as caught:
        images.identify(name)
    assert caught.value.kind is kind


async def test_what_is_not_qcow2_is_told(tmp_path):
    await images.create(tmp_path / "x", "raw", 1)
    with pytest.raises(ManorError, match="not in qcow2 format"):
        await images.chain(str(tmp_path / "x"), "qcow2")


async def test_an_image_grows_and_never_shrinks(tmp_path):
    path = tmp_path / "x.qcow2"
    await images.create(path, "qcow2", 1, preallocate=True)
    await images.grow(path, "qcow2", 4)
    assert (await images.chain(str(path), "qcow2"))[0].size == 4 << 20
    with pytest.raises(ManorError, match="Shrinking"):
        await images.grow(path, "qcow2", 1)


async def test_a_copy_stands_on_its_own(tmp_path):
    await images.create(tmp_path / "low.raw", "raw", 1)
    (tmp_path / "low.raw").write_bytes(b"content".ljust(1 << 20, b"\0"))
    await images.create(tmp_path / "top", "qcow2", 1, below=(str(tmp_path / "low.raw"), "raw"))
    await images.copy(str(tmp_path / "top"), "qcow2", tmp_path / "copy", "raw")
    assert (tmp_path / "copy").read_bytes()[:7] == b"content"
