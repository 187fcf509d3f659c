"""The journal: an append-only file of records that survives a kill at any byte.

One line per record: CRC-32 in hex, a space, the record as JSON. A line that is torn or damaged is skipped and
counted; only the last can be torn, because each batch is synced before the next is written. Appends of one
moment share one fsync, done in a thread. When the file has grown to twice its useful size it is written anew
beside itself and renamed over.

`durable=False` writes at once and without fsync: what a killed process wrote is still there, what a power
failure took is not, and no thread is needed (tests on virtual time).
"""

from __future__ import annotations

import asyncio
import logging
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from manor_lifecycle.ledger import Record

COMPACT_BYTES_MIN: Final = 4 * 1024 * 1024
FILE: Final = "journal"
log = logging.getLogger(__name__)

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Record).decode


def line(record: Record) -> bytes:
    """Return the stored form of a record."""
    body = _encode(record)
    return b"%08x %s\n" % (zlib.crc32(body), body)


def read(content: bytes) -> Iterator[Record | None]:
    """Yield the records of a journal; None for each line that cannot be trusted."""
    for text in content.split(b"\n"):
        if text:
            yield _read_line(text)


def _read_line(text: bytes) -> Record | None:
    crc, _, body = text.partition(b" ")
    try:
        if int(crc, 16) != zlib.crc32(body):
            return None
        record: Record = _decode(body)
    except (ValueError, msgspec.MsgspecError):
        return None
    return record


class Journal:
    """The file. `records` yields what must survive a compaction."""

    def __init__(self, directory: Path, *, durable: bool, records: Callable[[], Iterable[Record]]) -> None:
        self._path = directory / FILE
        self._durable = durable
        self._records = records
        self._buffer: list[bytes] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._writer: asyncio.Task[None] | None = None
        self._file = -1
        self._size = self._compact_at = 0

    def load(self) -> list[Record]:
        """Read what is there and open the file for appending. Damaged lines are left out and logged."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = self._path.read_bytes() if self._path.exists() else b""
        found = list(read(content))
        damaged = found.count(None)
        if damaged:
            log.warning("%s: %d damaged lines are left out", self._path, damaged)
        self._open()
        if content and not content.endswith(b"\n"):
            os.write(self._file, b"\n")  # a torn tail must not swallow the next record
        self._compact_at = max(COMPACT_BYTES_MIN, 2 * len(content))
        return [record for record in found if record is not None]

    def append(self, record: Record) -> None:
        """Add a record; it is written in the order of appends, soon. `commit` waits for it."""
        self._buffer.append(line(record))
        if not self._durable:
            self._write(self._take())
            if self._is_bloated():
                self._replace(self._compacted())
        elif self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write_all())

    async def commit(self) -> None:
        """Return when everything appended so far is on disk. Raises OSError when the disk refuses."""
        if not self._buffer and self._writer is None:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    async def close(self) -> None:
        """Write what is left, and close."""
        if self._writer is not None:
            await asyncio.gather(self._writer, return_exceptions=True)
        if self._buffer:
            self._write(self._take())
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._file).st_size

    def _take(self) -> bytes:
        batch, self._buffer = b"".join(self._buffer), []
        return batch

    async def _write_all(self) -> None:
        try:
            while self._buffer or self._waiting:
                waiting, self._waiting = self._waiting, []
                bloated = self._is_bloated()
                batch = self._compacted() if bloated else self._take()
                try:
                    await asyncio.to_thread(self._replace if bloated else self._write, batch)
                except OSError as error:
                    log.error("the journal cannot be written: %s", error)  # noqa: TRY400 - the disk is the cause
                    self._buffer.insert(0, b"\n" + batch)  # tried again with the next record
                    _settle(waiting + self._waiting, error)
                    self._waiting = []
                    return
                else:
                    _settle(waiting, None)
        finally:
            self._writer = None

    def _write(self, batch: bytes) -> None:
        view = memoryview(batch)
        while view:
            view = view[os.write(self._file, view) :]
        self._size += len(batch)
        if self._durable:
            os.fdatasync(self._file)

    def _is_bloated(self) -> bool:
        return self._size >= self._compact_at

    def _compacted(self) -> bytes:
        """Return the shortest journal; it contains what still waits to be written."""
        self._buffer = []
        return b"".join(line(record) for record in self._records())

    def _replace(self, content: bytes) -> None:
        fresh = self._path.with_suffix(".new")
        with open(fresh, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(content)
            file.flush()
            if self._durable:
                os.fsync(file.fileno())
        os.replace(fresh, self._path)
        self._sync_directory()
        os.close(self._file)
        self._open()
        self._compact_at = max(COMPACT_BYTES_MIN, 2 * self._size)

    def _sync_directory(self) -> None:
        if self._durable:
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)


def _settle(waiting: list[asyncio.Future[None]], error: OSError | None) -> None:
    for future in waiting:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
