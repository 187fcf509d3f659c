"""Paths that come from elsewhere: opened beneath a folder and nowhere else, and told by their mount.

Source: openat2(2), proc_pid_mountinfo(5).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from pathlib import Path
from typing import Final

_OPENAT2: Final = 437  # the same number on every architecture
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x02, 0x04, 0x08
_AGAIN_MAX: Final = 32  # EAGAIN: something was renamed meanwhile


def open_beneath(root: int, path: str, flags: int, mode: int = 0o600, *, links: bool = False) -> int:
    """Open a path relative to the folder `root` (a descriptor); it never leads out of it, whoever renames.

    Symbolic links are refused unless `links` says that they may stay inside. Raises OSError: EXDEV when it
    would leave, ELOOP for a link.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    resolve = _BENEATH | _NO_MAGICLINKS | (0 if links else _NO_SYMLINKS)
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, mode if flags & os.O_CREAT else 0, resolve)
    for _ in range(_AGAIN_MAX):
        found: int = libc.syscall(_OPENAT2, root, os.fsencode(path), how, len(how))
        if found >= 0:
            return found
        if ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
            break
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), path)


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
