"""The folder of a SQLite store: what is in it, and where a damaged file is put aside.

    config.db (-wal, -shm)   the store
    config.db.new            a store that is being made; it gets its name when it is complete
    config.db.damaged-<n>    a file that was found damaged, kept for rescue
    DAMAGED                  why; while it is there and no store is, nothing is served but a restore

The process that runs the service holds the room's lock (manor_bus.peer.serving), so nobody else is in here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SUFFIXES: Final = ("", "-wal", "-shm")


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
        if self.file.exists() or not self.marker.exists():
            return ""
        return self.marker.read_text(encoding="utf-8")

    def put_aside(self, reason: str) -> str:
        """Move a damaged store out of the way and leave the sign; return what it says."""
        number = 1
        while self._aside(number).exists():
            number += 1
        said = (
            f"the store of config is damaged ({reason}); it was moved to {self._aside(number)}. "
            f"Restore a backup, or accept the loss and begin with an empty store by deleting {self.marker}"
        )
        # The sign first: a crash in between leaves a damaged file, which is found again.
        self.marker.write_text(said, encoding="utf-8")
        self._sync()
        for suffix in _SUFFIXES:
            part = self.file.with_name(self.file.name + suffix)
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
        folder = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
