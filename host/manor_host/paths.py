"""Paths that come from elsewhere, told by their mount. Source: proc_pid_mountinfo(5)."""

from __future__ import annotations

import os
from pathlib import Path


def mount_of(path: str | Path, mounts: str | None = None) -> str:
    """Return the mount point that an absolute path without `..` lies under, as far as names tell.

    It reads the kernel's table and never the path itself, so a dead mount does not hold it. `mounts` is the
    table, for tests.
    """
    if mounts is None:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    wanted = os.path.normpath(path)
    best = "/"
    for line in mounts.splitlines():
        point = line.split(" ")[4].encode("utf-8", "surrogateescape").decode("unicode_escape")
        if len(point) > len(best) and (wanted == point or wanted.startswith(point + "/")):
            best = point
    return best
