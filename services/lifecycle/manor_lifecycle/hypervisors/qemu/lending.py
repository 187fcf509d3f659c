"""Files for a process that must not, and often cannot, reach them by their path."""

from __future__ import annotations

import os
import shutil
import stat
import struct
from pathlib import Path
from typing import Final

NAME_MAX: Final = 1023  # bytes of a name in a qcow2 header


def in_memory(name: str, content: bytes) -> int:
    """Return a descriptor of a file in memory that any user may open as /dev/fd/N."""
    descriptor = os.memfd_create(name)
    os.write(descriptor, content)
    return descriptor


def lend(path: Path, *, copy: bool) -> int:
    """Return a descriptor through which another process may read a file as /dev/fd/N; raises OSError.

    `copy`: it is another user's process, so a file that is not everybody's to read is copied into memory.
    What has no size is no file: it may never end, or never begin.
    """
    original = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    there = os.fstat(original)
    if not stat.S_ISREG(there.st_mode) or not there.st_size:
        os.close(original)
        raise OSError(0, "is empty, or not a file", str(path))
    if there.st_mode & 0o004 or not copy:
        return original
    copied = os.memfd_create(path.name)
    with os.fdopen(original, "rb") as source, os.fdopen(copied, "wb", closefd=False) as target:
        shutil.copyfileobj(source, target)
    return copied


def backing_name(path: str) -> str:
    """Return what a qcow2 image calls the file that it stands on; empty when it has none or cannot be read.

    Format: QEMU, docs/interop/qcow2.txt, the header's bytes 8 to 19.
    """
    try:
        with open(path, "rb") as file:
            magic, _, offset, length = struct.unpack(">4sIQI", file.read(20))
            if magic != b"QFI\xfb" or not offset or length > NAME_MAX:
                return ""
            file.seek(offset)
            return file.read(length).decode(errors="replace")
    except (OSError, struct.error):
        return ""
