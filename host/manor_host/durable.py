"""Files that survive a power cut: small ones replaced as a whole, and a log that only grows.

The log: one line per record, CRC-32 of the body in hex, a space, the body (which has no line break).
Appends of one moment share one write and one fdatasync. Each batch is synced before the next is written, so
only the end can be torn; it is cut off when the log is opened. A damaged line elsewhere is left out and
counted. When the file is twice as large as what of it is useful it is written anew beside itself and
renamed over.
"""

from __future__ import annotations

import asyncio
import errno
import os
import zlib
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

COMPACT_BYTES_MIN: Final = 1024 * 1024
RESERVE_BYTES: Final = 1024 * 1024
FULL: Final = (errno.ENOSPC, errno.EDQUOT)

Run = Callable[[Callable[[], None]], Awaitable[None]]


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(path: Path, content: bytes, mode: int = 0o600, *, durable: bool = True) -> None:
    """Write a small file as a whole: after a power cut the old one is there or the new one, never less."""
    fresh = path.with_name(f".{path.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        os.fchmod(descriptor, mode)  # whatever the umask, and whatever was left there
        write_all(descriptor, content)
        if durable:
            os.fsync(descriptor)
        os.replace(fresh, path)
    except OSError:
        with suppress(OSError):
            fresh.unlink()
        raise
    finally:
        os.close(descriptor)
    if durable:
        sync_folder(path.parent)


def read(path: Path) -> bytes | None:
    """Return a small file's content; None when it is not there. An empty answer is an empty file: a lost
    one."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def write_all(descriptor: int, content: bytes) -> None:
    """Write everything, however little the kernel takes at a time."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a log said when it was opened. `torn`: bytes cut off its end; `damaged`: numbers of lines left
    out."""

    records: tuple[bytes, ...]
    torn: int = 0
    damaged: tuple[int, ...] = ()


def line(body: bytes) -> bytes:
    """Return the stored form of a record."""
    return b"%08x %s\n" % (zlib.crc32(body), body)


def parse(content: bytes) -> Loaded:
    """Return the records of a log's content."""
    end = content.rfind(b"\n") + 1
    records, damaged = [], []
    for number, text in enumerate(content[:end].split(b"\n")[:-1], 1):
        crc, _, body = text.partition(b" ")
        if crc == b"%08x" % zlib.crc32(body):
            records.append(body)
        else:
            damaged.append(number)
    return Loaded(tuple(records), len(content) - end, tuple(damaged))


class Log:
    """One log. `useful` yields the bodies that must survive, those of what was just
    appended among them: it is the shortest log that means the same.

    `durable=False` writes at once, without sync and threads: what a killed process wrote is there, what a
    power cut took is not. `run` does blocking work elsewhere. Beside the log lies a reserve, given up when
    the disk is full, so that what frees space can still be noted.
    """

    def __init__(
        self,
        path: Path,
        useful: Callable[[], Iterable[bytes]],
        *,
        durable: bool = True,
        run: Run = asyncio.to_thread,
    ) -> None:
        self._path, self._useful, self._durable, self._run = path, useful, durable, run
        self._reserve = path.with_name(f"{path.name}.reserve")
        self._reserved = False
        self._buffer: list[bytes] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._writer: asyncio.Task[None] | None = None
        self._file = -1
        self._size = self._compact_at = 0

    def load(self) -> Loaded:
        """Read what is there, cut a torn end off, and open for appending. Raises OSError."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        loaded = parse(read(self._path) or b"")
        self._open()
        if loaded.torn:
            self._size -= loaded.torn
            os.ftruncate(self._file, self._size)
        self._keep_reserve()
        return loaded

    def append(self, body: bytes) -> None:
        """Add a record; it is written in the order of appends, soon. `commit` waits for it."""
        self._buffer.append(line(body))
        if not self._durable:
            self._write_some()
        elif self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write_on())

    async def commit(self) -> None:
        """Return when everything appended so far is on disk. Raises OSError when the disk refuses; what was
        appended is not forgotten then, and goes with the next append or commit."""
        if not self._buffer and self._writer is None:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write_on())
        await future

    async def close(self) -> None:
        """Write what is left, and close. Raises OSError when that cannot be written."""
        if self._writer is not None:
            await asyncio.gather(self._writer, return_exceptions=True)
        if self._file >= 0:
            try:
                if self._buffer:
                    self._write(b"".join(self._buffer))
                    self._buffer = []
            finally:
                os.close(self._file)
                self._file = -1

    async def _write_on(self) -> None:
        try:
            while self._buffer or self._waiting:
                waiting, self._waiting = self._waiting, []
                error = await self._write_next()
                for future in waiting:
                    if future.done():
                        continue
                    if error is None:
                        future.set_result(None)
                    else:
                        future.set_exception(error)
                if error is not None and not self._waiting:
                    return
        finally:
            self._writer = None

    async def _write_next(self) -> OSError | None:
        batch, self._buffer = self._buffer, []
        content = b"".join(batch)
        whole = self._whole() if self._bloated() else None
        try:
            await self._run(lambda: self._put(content, whole))
        except OSError as error:
            self._buffer = batch + self._buffer
            return error
        return None

    def _write_some(self) -> None:
        self._put(b"".join(self._buffer), self._whole() if self._bloated() else None)
        self._buffer = []

    def _put(self, content: bytes, whole: bytes | None) -> None:
        """Write the log anew as `whole`, which contains `content`, or add `content`, which needs less
        space."""
        if whole is not None:
            with suppress(OSError):
                self._anew(whole)
                return
        self._write(content)

    def _bloated(self) -> bool:
        """Say whether most of the file is of no use any more. What is useful is measured at most once a
        doubling."""
        if self._size >= max(COMPACT_BYTES_MIN, self._compact_at):
            useful = sum(len(body) + 10 for body in self._useful())
            self._compact_at = max(COMPACT_BYTES_MIN, 2 * useful)
            return self._size >= self._compact_at
        return False

    def _whole(self) -> bytes:
        return b"".join(line(body) for body in self._useful())

    def _write(self, content: bytes) -> None:
        try:
            self._append(content)
        except OSError as error:
            if error.errno not in FULL or not self._reserved:
                raise
            self._reserve.unlink(missing_ok=True)
            self._reserved = False
            self._append(content)
        self._keep_reserve()

    def _append(self, content: bytes) -> None:
        try:
            write_all(self._file, content)
            if self._durable:
                os.fdatasync(self._file)
        except OSError:
            with suppress(OSError):  # half a line must not stand before the next one
                os.ftruncate(self._file, self._size)
            raise
        self._size += len(content)

    def _anew(self, content: bytes) -> None:
        replace(self._path, content, durable=self._durable)
        os.close(self._file)
        self._open()

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._file).st_size

    def _keep_reserve(self) -> None:
        """Put space aside, if there is any. Without it everything works until the disk is full."""
        if self._reserved or not self._durable:
            return
        descriptor = -1
        try:
            descriptor = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
            self._reserved = True
        except OSError:
            with suppress(OSError):
                self._reserve.unlink()
        finally:
            if descriptor >= 0:
                os.close(descriptor)
