"""Log files of services: bounded in size, read from their end, followed while they grow.

Services write into the file themselves (opened for appending), so nothing is lost when the supervisor dies.
Rotation copies the file aside and empties it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

SIZE_MAX: Final = 8 * 1_048_576
KEPT: Final = 3
_BLOCK: Final = 65_536


def opened(path: Path) -> int:
    """Open a log for appending, readable by its owner only; returns the descriptor."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def rotate(path: Path, *, size_max: int = SIZE_MAX, kept: int = KEPT) -> bool:
    """Move the content aside when the file is too large; `kept` old ones stay. Returns whether it did."""
    try:
        if path.stat().st_size <= size_max:
            return False
    except FileNotFoundError:
        return False
    for number in range(kept - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number + 1}"))
    shutil.copy2(path, path.with_name(f"{path.name}.1"))
    os.truncate(path, 0)
    return True


def tail(path: Path, count: int) -> list[str]:
    """Return the last `count` lines; none when there is no file."""
    try:
        with path.open("rb") as file:
            return _last(file, count)
    except FileNotFoundError:
        return []


def _last(file: BinaryIO, count: int) -> list[str]:
    at, found = file.seek(0, os.SEEK_END), b""
    while at > 0 and found.count(b"\n") <= count:
        step = min(_BLOCK, at)
        at = file.seek(at - step)
        found = file.read(step) + found
    lines = found.decode(errors="replace").splitlines()
    return lines[-count:] if count else []


def follow(path: Path, *, poll_s: float = 0.2) -> Iterator[str]:
    """Yield lines as they are written, for ever; begins again when the file was emptied."""
    at = path.stat().st_size if path.exists() else 0
    rest = b""
    while True:
        size = path.stat().st_size if path.exists() else 0
        if size < at:
            at, rest = 0, b""
        if size > at:
            with path.open("rb") as file:
                file.seek(at)
                rest += file.read(size - at)
            at = size
            *lines, rest = rest.split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
        else:
            time.sleep(poll_s)
