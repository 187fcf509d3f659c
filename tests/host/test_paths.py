from __future__ import annotations

import pytest

from manor_host import paths

MOUNTS = """\
22 1 8:1 / / rw,relatime - ext4 /dev/root rw
30 22 0:5 / /srv rw - nfs server:/export rw
31 30 0:6 / /srv/a\\040b rw - nfs server:/export rw
"""


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
