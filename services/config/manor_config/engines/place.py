"""The folder of a SQLite store: what is in it, and where a damaged file is put aside.

    config.db (-wal, -shm)   the store
    config.db.new            a store that is being made; it gets its name when it is complete
    config.db.damaged-<n>    a file that was found damaged, kept for rescue
    config.db.reserve        space put aside, so that documents can be deleted on a full disk
    acknowledged             the revision acknowledged last: a store behind it has lost something
    DAMAGED                  why; while it is there and no store is, nothing is served but a restore

The process that runs the service holds the room's lock (manor_bus.peer.serving), so nobody else is in here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from manor_host import durable

_SUFFIXES: Final = ("", "-wal", "-shm")
ACKNOWLEDGED: Final = "acknowledged"
WAYS: Final = (
    "Restore a backup (manor config restore FILE),"
    " or go on with what is left (manor config restore --accept-loss)"
)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """The paths in one folder, and the moves between them; each survives a power loss in the middle."""

    directory: Path

    @property
    def file(self) -> Path:
        """The store."""
        return self.directory / "config.db"

    @property
    def unfinished(self) -> Path:
        """A store that is being made."""
        return self.directory / "config.db.new"

    @property
    def marker(self) -> Path:
        """The sign that a damaged store was put aside."""
        return self.directory / "DAMAGED"

    def acknowledged(self) -> int:
        """Return the revision that was acknowledged last, as far as this is known; 0 when it is not."""
        try:
            records = durable.parse(durable.read(self.directory / ACKNOWLEDGED) or b"").records
        except OSError as error:
            log.warning("what was acknowledged last cannot be read: %s", error)
            records = ()
        return int(records[0]) if records and records[0].isdigit() else 0

    def acknowledge(self, revision: int) -> None:
        """Note durably that this revision is acknowledged now."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self.directory / ACKNOWLEDGED, flags, 0o600)
        try:
            os.pwrite(descriptor, durable.line(b"%020d" % revision), 0)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)

    def behind(self, revision: int) -> str:
        """Return why a store at this revision is not the one that was there, or an empty string."""
        known = self.acknowledged()
        if revision >= known:
            return ""
        there = f"is at revision {revision}" if self.file.exists() else "is missing"
        return f"{self.file} {there}, and revision {known} was acknowledged: documents are lost. {WAYS}"

    def ails(self) -> int:
        """Try the disk, and return the number of its error; 0 when there is none."""
        try:
            durable.replace(self.directory / "tried", bytes(8192))
        except OSError as error:
            return error.errno or 0
        return 0

    def keep_reserve(self) -> None:
        """Put space aside, if there is any."""
        with suppress(OSError), self.reserve.open("xb") as file:
            os.posix_fallocate(file.fileno(), 0, durable.RESERVE_BYTES)

    @property
    def reserve(self) -> Path:
        """The space put aside."""
        return self.directory / "config.db.reserve"

    @property
    def files(self) -> tuple[Path, ...]:
        """The store with its log and its index of the log."""
        return tuple(self.file.with_name(self.file.name + suffix) for suffix in _SUFFIXES)

    def close_to_others(self) -> None:
        """Make the folder if need be; only its owner may look into it."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.chmod(0o700)

    def finished(self) -> None:
        """Let the made store be the store: it is complete or not there."""
        self.unfinished.rename(self.file)
        self._sync()

    def damage(self) -> str:
        """Return why there is no store, or an empty string when there is one or may be one."""
        if self.file.exists():
            return ""
        return self.marker.read_text(encoding="utf-8") if self.marker.exists() else self.behind(0)

    def put_aside(self, reason: str) -> str:
        """Move a damaged store out of the way and leave the sign; return what it says."""
        number = 1
        while self._aside(number).exists():
            number += 1
        said = f"the store of config is damaged ({reason}); it was moved to {self._aside(number)}. {WAYS}"
        # The sign first: a crash in between leaves a damaged file, which is found again.
        self.marker.write_text(said, encoding="utf-8")
        self._sync()
        for suffix, part in zip(_SUFFIXES, self.files, strict=True):
            if part.exists():
                part.rename(self._aside(number, suffix))
        self._sync()
        return said

    def _aside(self, number: int, suffix: str = "") -> Path:
        return self.file.with_name(f"{self.file.name}.damaged-{number}{suffix}")

    def sound(self) -> None:
        """Remove the sign: there is a store again."""
        if self.marker.exists():
            self.marker.unlink()
            self._sync()

    def _sync(self) -> None:
        durable.sync_folder(self.directory)


def holders(paths: Iterable[Path]) -> str:
    """Return which other processes hold locks of these files, for people."""
    inodes = {str(path.stat().st_ino) for path in paths if path.exists()}
    found = {}
    for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
        words = line.replace("->", "").split()
        pid, inode = words[4], words[5].rpartition(":")[2]
        if inode in inodes and pid != str(os.getpid()):
            with suppress(OSError):
                found[pid] = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    return ", ".join(f"{name} (pid {pid})" for pid, name in found.items()) or "another program"
