"""A disk that loses power: what was not synced survives in part, in sectors, in any order.

A SQLite VFS for apsw. `Disk.fuse` counts operations that reach the disk; when it is used up, `PowerCut` is
raised there and everywhere after. `restart` decides what survived.
"""

from __future__ import annotations

import random
from typing import Any

import apsw

SECTOR = 512


class PowerCut(Exception):
    pass


class _File:
    def __init__(self) -> None:
        self.durable = bytearray()
        self.seen = bytearray()  # what the operating system shows
        self.unsynced: list[tuple[int, bytes] | int] = []  # writes, or sizes of truncations


class Disk:
    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.files: dict[str, _File] = {}
        self.fuse = 1_000_000

    def burn(self) -> None:
        self.fuse -= 1
        if self.fuse <= 0:
            raise PowerCut

    def restart(self) -> None:
        survival = self.rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        for file in self.files.values():
            for change in file.unsynced:
                if isinstance(change, int):
                    if self.rng.random() < survival:
                        del file.durable[change:]
                    continue
                offset, content = change
                start = 0
                while start < len(content):
                    end = min(len(content), start + SECTOR - (offset + start) % SECTOR)
                    if self.rng.random() < survival:
                        _place(file.durable, offset + start, content[start:end])
                    start = end
            file.unsynced = []
            file.seen = bytearray(file.durable)
        self.fuse = 1_000_000


def _place(target: bytearray, offset: int, content: bytes) -> None:
    if len(target) < offset:
        target.extend(bytes(offset - len(target)))
    target[offset : offset + len(content)] = content


class _Handle:
    """The methods SQLite calls on an open file."""

    def __init__(self, disk: Disk, file: _File) -> None:
        self._disk, self._file = disk, file

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        return bytes(self._file.seen[offset : offset + amount])

    def xWrite(self, content: bytes, offset: int) -> None:  # noqa: N802
        self._file.unsynced.append((offset, bytes(content)))
        self._disk.burn()
        _place(self._file.seen, offset, content)

    def xTruncate(self, size: int) -> None:  # noqa: N802
        self._file.unsynced.append(size)
        self._disk.burn()
        del self._file.seen[size:]

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.burn()
        self._file.unsynced = []
        self._file.durable = bytearray(self._file.seen)

    def xFileSize(self) -> int:  # noqa: N802
        return len(self._file.seen)

    def xSectorSize(self) -> int:  # noqa: N802
        return SECTOR

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        return 0

    def xFileControl(self, operation: int, pointer: int) -> bool:  # noqa: N802
        return False

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        return False

    def xLock(self, level: int) -> None:  # noqa: N802
        pass

    def xUnlock(self, level: int) -> None:  # noqa: N802
        pass

    def xClose(self) -> None:  # noqa: N802
        pass


class DiskVfs(apsw.VFS):
    """Register a disk under a name; keep this object as long as connections use it."""

    def __init__(self, name: str, disk: Disk) -> None:
        self._disk, self.name = disk, name
        super().__init__(name, base="")

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        flags[1] = flags[0]
        return _Handle(self._disk, self._disk.files.setdefault(path, _File()))

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        self._disk.burn()
        self._disk.files.pop(filename, None)

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: N802
        return pathname in self._disk.files

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        return name
