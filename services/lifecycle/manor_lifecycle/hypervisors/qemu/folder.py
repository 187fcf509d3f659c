"""The folder of one guest: its record, its console's log, what QEMU said, the firmware's variables."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path
from typing import Final

import msgspec

from manor_lifecycle.hypervisors.qemu.record import Record

RECORD: Final = "record.json"
CONSOLE_LOG: Final = "console.log"
QEMU_LOG: Final = "qemu.log"
VARIABLES: Final = "variables.fd"  # stays when the guest is gone: it belongs to the domain
CONSOLE_LOG_KEPT: Final = 4 << 20  # bytes; what is older is given back to the file system
QEMU_LOG_MAX: Final = 1 << 20
TAIL: Final = 2000
KEEP_SIZE_AND_PUNCH_HOLE: Final = 0x03  # Linux, include/uapi/linux/falloc.h


def write_record(folder: Path, record: Record, *, durable: bool) -> None:
    """Replace the record; whole or not at all."""
    scratch = folder / f"{RECORD}.new"
    with scratch.open("wb") as file:
        file.write(msgspec.json.encode(record))
        file.flush()
        if durable:
            os.fsync(file.fileno())
    scratch.rename(folder / RECORD)


def read_record(folder: Path) -> Record | None:
    """Return the record; None when there is none or it cannot be read."""
    try:
        return msgspec.json.decode((folder / RECORD).read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError):
        return None


def last_words(folder: Path) -> str:
    """Return the end of what QEMU said."""
    try:
        content = (folder / QEMU_LOG).read_bytes()[-TAIL:]
    except OSError:
        return ""
    return content.decode(errors="replace").strip()


def empty(folder: Path) -> None:
    """Remove all of a run."""
    for file in folder.iterdir():
        if file.name != VARIABLES:
            file.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def variables(folder: Path, template: str) -> int:
    """Return a descriptor of the firmware's variables, made from the template at the first start."""
    path = folder / VARIABLES
    if not path.exists():
        scratch = folder / f"{VARIABLES}.new"
        shutil.copyfile(template, scratch)
        scratch.chmod(0o600)
        scratch.rename(path)
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def trim_logs(folder: Path) -> None:
    """Bound the logs of a living guest. Offsets in the console's log stay what they are: its old part becomes
    a hole, where the file system has such.
    """
    console, qemu = folder / CONSOLE_LOG, folder / QEMU_LOG
    if console.exists() and (size := console.stat().st_size) > CONSOLE_LOG_KEPT:
        descriptor = os.open(console, os.O_RDWR | os.O_CLOEXEC)
        try:
            length = ctypes.c_int64(size - CONSOLE_LOG_KEPT)
            ctypes.CDLL(None).fallocate(descriptor, KEEP_SIZE_AND_PUNCH_HOLE, ctypes.c_int64(0), length)
        finally:
            os.close(descriptor)
    if qemu.exists() and qemu.stat().st_size > QEMU_LOG_MAX:
        os.truncate(qemu, 0)
