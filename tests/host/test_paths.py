from __future__ import annotations

import errno
import os

import pytest

from manor_host import paths

MOUNTS = """\
22 1 8:1 / / rw,relatime - ext4 /dev/root rw
30 22 0:5 / /srv rw - nfs server:/export rw
31 30 0:6 / /srv/a\\040b rw - nfs server:/export rw
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "file").write_bytes(b"content")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "inside" / "out").symlink_to(tmp_path / "secret")
    (tmp_path / "inside" / "link").symlink_to("file")
    descriptor = os.open(tmp_path / "inside", os.O_PATH | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def test_what_lies_beneath_is_opened_and_made(root):
    found = paths.open_beneath(root, "file", os.O_RDONLY)
    assert os.read(found, 100) == b"content"
    os.close(found)
    made = paths.open_beneath(root, "new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    assert os.fstat(made).st_mode & 0o777 == 0o640 & ~_umask()
    os.close(made)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    ("path", "links", "why"),
    [
        ("../secret", False, errno.EXDEV),
        ("/etc/passwd", True, errno.EXDEV),
        ("link", False, errno.ELOOP),
        ("out", False, errno.ELOOP),
        ("out", True, errno.EXDEV),
        ("none", False, errno.ENOENT),
    ],
)
def test_nothing_leads_out(root, path, links, why):
    with pytest.raises(OSError, match=path.replace("/", ".")) as caught:
        paths.open_beneath(root, path, os.O_RDONLY, links=links)
    assert caught.value.errno == why


def test_a_link_may_stay_inside_where_that_is_wanted(root):
    found = paths.open_beneath(root, "link", os.O_RDONLY, links=True)
    assert os.read(found, 100) == b"content"
    os.close(found)


@pytest.mark.parametrize(
    ("path", "mount"),
    [
        ("/etc/passwd", "/"),
        ("/srv", "/srv"),
        ("/srv/x/y", "/srv"),
        ("/srvx", "/"),
        ("/srv/a b/c", "/srv/a b"),
        ("/srv/x/../../etc", "/"),
    ],
)
def test_a_path_is_told_by_its_mount_without_being_touched(path, mount):
    assert paths.mount_of(path, MOUNTS) == mount


def test_this_machines_table_is_read():
    assert paths.mount_of("/proc/self/status") == "/proc"
