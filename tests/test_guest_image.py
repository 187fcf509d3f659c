"""The demo guest is built from packages by any user; here from packages of the tests' own."""

import gzip
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

BUILDER = Path(__file__).parents[1] / "deploy" / "guest" / "build.py"
spec = importlib.util.spec_from_file_location("guest_image", BUILDER)
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)


def module(depends: str) -> bytes:
    """What a kernel module says about itself."""
    return b"\x7fELF\0license=GPL\0depends=" + depends.encode() + b"\0name=x\0"


def archived(image: bytes) -> dict[str, tuple[int, bytes]]:
    """Read a `newc` archive: name -> mode and content."""
    content, at, found = gzip.decompress(image), 0, {}
    while True:
        assert content[at : at + 6] == b"070701"
        fields = [int(content[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name = content[at + 110 : at + 110 + fields[11] - 1].decode()
        if name == "TRAILER!!!":
            return found
        start = (at + 110 + fields[11] + 3) // 4 * 4
        found[name] = fields[1], content[start : start + fields[6]]
        at = (start + fields[6] + 3) // 4 * 4


def test_modules_come_after_those_they_need_and_only_those_that_are_wanted():
    files = {
        "lib/modules/6/kernel/virtio_blk.ko": module("virtio"),
        "lib/modules/6/kernel/virtio.ko": module("virtio_ring"),
        "lib/modules/6/kernel/virtio-ring.ko": module(""),
        "lib/modules/6/kernel/sound.ko": module(""),
        "boot/vmlinuz-6": b"",
    }
    assert [name for name, _ in build.chosen_modules(files)] == ["virtio_ring", "virtio", "virtio_blk"]


def test_a_compressed_module_is_unpacked():
    files = {"lib/modules/6/button.ko.gz": gzip.compress(module(""))}
    assert build.chosen_modules(files) == [("button", module(""))]


def test_the_archive_holds_what_the_kernel_looks_for():
    found = archived(build.initramfs(b"busybox", [("virtio", b"module")]))
    assert found["bin/busybox"] == (0o100755, b"busybox")
    assert found["init"] == (0o120777, b"bin/busybox")
    assert found["dev/console"][0] == 0o020600
    assert found["lib/modules/virtio.ko"][1] == b"module"
    assert found["lib/modules/order"][1] == b"virtio\n"
    assert found["etc/rcS"] == (0o100755, (BUILDER.parent / "files/etc/rcS").read_bytes())
    folders = [name for name, (mode, _) in found.items() if mode & 0o040000 == 0o040000 and mode < 0o100000]
    assert all(str(Path(name).parent) in (*folders, ".") for name in found)


def test_the_same_input_makes_the_same_image():
    assert build.initramfs(b"busybox", []) == build.initramfs(b"busybox", [])


def run(*arguments: object, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, BUILDER, *map(str, arguments)],
        env={"PATH": path, "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_without_the_tools_it_says_which_one_is_missing(tmp_path):
    done = run("--cache", tmp_path, path="/nonexistent")
    assert done.returncode == 1
    assert "needs `apt-cache`" in done.stderr


def test_packages_without_a_kernel_are_named_and_nothing_is_kept(tmp_path):
    (tmp_path / "packages").mkdir()
    done = run("--cache", tmp_path, "--packages", tmp_path / "packages")
    assert done.returncode == 1
    assert "no kernel" in done.stderr
    assert [one.name for one in (tmp_path / "guest").iterdir()] == ["packages"]


def test_a_folder_that_cannot_be_written_is_an_answer_not_a_traceback(tmp_path):
    (tmp_path / "guest").write_text("in the way")
    done = run("--cache", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("guest image: cannot be built")
    with pytest.raises(OSError, match="exists"):
        (tmp_path / "guest").mkdir()
