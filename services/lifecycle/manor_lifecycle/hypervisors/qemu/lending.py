"""Files for a process that must not, and often cannot, reach them by their path."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def in_memory(name: str, content: bytes) -> int:
    """Return a descriptor of a file in memory that any user may open as /dev/fd/N."""
    descriptor = os.memfd_create(name)
    os.write(descriptor, content)
    return descriptor


def lend(path: Path) -> int:
    """Return a descriptor through which any user may read a file as /dev/fd/N; raises OSError.

    A file that is not everybody's to read is copied into memory.
    """
    original = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if os.fstat(original).st_mode & 0o004:
        return original
    copy = os.memfd_create(path.name)
    with os.fdopen(original, "rb") as source, os.fdopen(copy, "wb", closefd=False) as target:
        shutil.copyfileobj(source, target)
    return copy
