"""The folder of one guest: its record, its console's log, what QEMU said, the firmware's variables."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import msgspec

from manor_bus.wire.errors import Kind, ManorError, denied_state
from manor_bus.wire.messages.consoles import LastRun
from manor_host import durable as durable_files
from manor_lifecycle.hypervisors.qemu.record import Record
from manor_lifecycle.hypervisors.seen import EndReason, Leftover, LeftoverKind

RECORD: Final = "record.json"
NOTE: Final = "note.json"  # the last incarnation and how it ended: stays when the guest is gone
CONSOLE_LOG: Final = "console.log"
QEMU_LOG: Final = "qemu.log"
LAST: Final = "last-"  # of the run before
VARIABLES: Final = "variables.fd"  # stays: it belongs to the domain
KINDS: Final[Mapping[str, LeftoverKind]] = {
    VARIABLES: "variables",
    LAST + CONSOLE_LOG: "console",
    LAST + QEMU_LOG: "log",
    NOTE: "note",
}
CONSOLE_LOG_KEPT: Final = 4 << 20  # bytes; what is older is given back to the file system
QEMU_LOG_MAX: Final = 1 << 20
LAST_KEPT: Final = 256 << 10  # bytes of each log that are told of the last run
TAIL: Final = 2000
KEEP_SIZE_AND_PUNCH_HOLE: Final = 0x03  # Linux, include/uapi/linux/falloc.h
HINTS: Final[Mapping[int, tuple[Kind, str]]] = {
    errno.ENOSPC: (Kind.NO_CAPACITY, "Free space on that file system."),
    errno.EDQUOT: (Kind.NO_CAPACITY, "Raise the quota of that file system, or free space in it."),
    errno.EROFS: (Kind.UNAVAILABLE, "The file system is read-only: look at the kernel's log for its disk."),
    errno.EIO: (Kind.UNAVAILABLE, "The disk fails: look at the kernel's log."),
}


_log = logging.getLogger(__name__)


class Damaged(Exception):
    """A record is there and cannot be read."""


class Note(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is remembered of a domain without a run. `ended`: why the last run did, if not by `destroy`."""

    incarnation: int
    ended: EndReason | None = None
    detail: str = ""


def unwritable(path: Path, error: OSError) -> ManorError:
    """Return the error for a file that could not be written, with the hint that fits."""
    kind, hint = HINTS.get(error.errno or 0, (Kind.UNAVAILABLE, "Look at that file system."))
    return ManorError(kind, f"{path} cannot be written: {error.strerror or error}", hint=hint)


def write_record(folder: Path, record: Record, *, durable: bool) -> None:
    """Replace the record; raises OSError."""
    durable_files.replace(folder / RECORD, msgspec.json.encode(record), durable=durable)


def read_record(folder: Path) -> Record | None:
    """Return the record, None when there is none. Raises `Damaged`."""
    try:
        return msgspec.json.decode((folder / RECORD).read_bytes(), type=Record)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise Damaged(f"{folder / RECORD} cannot be read: {error}") from None


class Notes:
    """The notes of all domains, in memory and in their folders."""

    def __init__(self, directory: Path, *, durable: bool) -> None:
        self._directory, self._durable = directory, durable
        self.known: dict[str, Note] = {}

    def read(self, folder: Path) -> None:
        """Learn the note in a folder. A damaged one is told; the owner's record knows the number, too."""
        try:
            self.known[folder.name] = msgspec.json.decode((folder / NOTE).read_bytes(), type=Note)
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError) as error:
            _log.error("%s cannot be read: %s", folder / NOTE, error)

    def last(self, uuid: str) -> int:
        """Return the last incarnation that was begun."""
        return self.known[uuid].incarnation if uuid in self.known else 0

    def begin(self, uuid: str, incarnation: int) -> None:
        """Note a number durably before its run is made. Raises `stale` when it was noted before."""
        if incarnation <= self.last(uuid):
            message = f"run {incarnation} of {uuid} was made before; the last one is {self.last(uuid)}"
            raise ManorError(Kind.STALE, message, hint="Ask for the domain's state.")
        path = self._directory / uuid
        try:
            path.mkdir(mode=0o711, exist_ok=True)
            durable_files.replace(path / NOTE, msgspec.json.encode(Note(incarnation)), durable=self._durable)
        except OSError as error:
            raise unwritable(path, error) from None
        self.known[uuid] = Note(incarnation)

    def end(self, uuid: str, incarnation: int, reason: EndReason | None, detail: str = "") -> None:
        """Note how a run ended; nothing waits for a disk that does not take it."""
        note = self.known[uuid] = Note(max(incarnation, self.last(uuid)), reason, detail)
        try:
            (self._directory / uuid).mkdir(mode=0o711, exist_ok=True)
            durable_files.replace(self._directory / uuid / NOTE, msgspec.json.encode(note), durable=False)
        except OSError as error:
            _log.warning("%s", unwritable(self._directory / uuid, error))


def last_words(folder: Path) -> str:
    """Return the end of what QEMU said."""
    try:
        content = (folder / QEMU_LOG).read_bytes()[-TAIL:]
    except OSError:
        return ""
    return content.decode(errors="replace").strip()


def keep_words(folder: Path) -> None:
    """Keep what a run said last, until the end of the next one."""
    for name in (CONSOLE_LOG, QEMU_LOG):
        with contextlib.suppress(FileNotFoundError):
            (folder / name).rename(folder / (LAST + name))


def empty(folder: Path) -> None:
    """Remove a run, but what it said last."""
    keep_words(folder)
    for file in folder.iterdir():
        if file.name not in KINDS:
            file.unlink()


def last_run(folder: Path, *, over: bool) -> LastRun | None:
    """Return the ends of both logs of the last run that is over, which the present one may be."""
    before = "" if over else LAST
    console, log = (_end_of(folder / (before + name)) for name in (CONSOLE_LOG, QEMU_LOG))
    return None if console is None and log is None else LastRun(console=console or b"", log=log or b"")


def _end_of(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_KEPT))
            return file.read(LAST_KEPT)
    except FileNotFoundError:
        return None


def leftovers(folder: Path) -> tuple[Leftover, ...]:
    """Return what is there of a domain."""
    if not folder.is_dir():
        return ()
    files = sorted(folder.iterdir())
    return tuple(Leftover(KINDS.get(one.name, "record"), str(one), one.stat().st_size) for one in files)


def variables(folder: Path, template: str) -> int:
    """Return a descriptor of the firmware's variables, made from the template at the first start.

    Raises `denied_state` when what is there is of another firmware; an empty file is what a power cut left.
    """
    path, wanted = folder / VARIABLES, Path(template).stat().st_size
    there = path.stat().st_size if path.exists() else 0
    if there not in (0, wanted):
        message = f"the firmware's variables {path} have {there} bytes, and the firmware needs {wanted}"
        hint = "Remove them from what the domain left on the node; its boot entries are then found anew."
        raise denied_state(message, hint=hint)
    if not there:
        scratch = folder / f"{VARIABLES}.new"
        shutil.copyfile(template, scratch)
        scratch.chmod(0o600)
        scratch.rename(path)
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def remove(folder: Path, kinds: Collection[str]) -> None:
    """Remove what a domain left of these kinds; of all kinds: the folder too."""
    for one in leftovers(folder):
        if one.kind in kinds:
            Path(one.path).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


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
