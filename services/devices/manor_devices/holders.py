"""Which process of this node holds an image: QEMU and its tools lock what they have open, each to its own.

Locks: QEMU, block/file-posix.c (RAW_LOCK_PERM_BASE and RAW_LOCK_SHARED_BASE, one byte for each permission).
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from typing import Final

from manor_host import processes

FLOCK: Final = "hhqqi4x"  # struct flock of 64-bit Linux
WRITES: Final = 101  # held by who may write
KEEPS_READERS_OUT: Final = 200
KEEPS_WRITERS_OUT: Final = 201


def locked(path: str, *, write: bool) -> bool:
    """Return whether somebody has the image open in a way that excludes ours."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return any(_taken(file, byte) for byte in (WRITES, KEEPS_WRITERS_OUT if write else KEEPS_READERS_OUT))
    finally:
        os.close(file)


def _taken(file: int, byte: int) -> bool:
    asked = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    found = struct.unpack(FLOCK, fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked))
    return bool(found[0] != fcntl.F_UNLCK)


def holders(path: str) -> dict[int, str]:
    """Return the processes that have a file open, as far as this service may see: pid and name."""
    others = (pid for pid in processes.pids() if pid != os.getpid())
    return {pid: _name(pid) for pid in others if path in processes.open_files(pid)}


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return "a process that has ended"
