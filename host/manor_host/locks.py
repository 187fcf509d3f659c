"""Locks that are held by keeping a file open: whoever dies gives them back. Source: flock(2)."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def take(path: Path, *, wait: bool = False) -> int:
    """Return a descriptor that holds the lock as long as it is open; -1 when somebody else holds it.

    Raises OSError when the file can be neither made nor opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        return -1
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def held(path: Path) -> bool:
    """Say whether somebody holds a lock; False when that cannot be seen."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
