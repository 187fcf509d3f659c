"""The room's durable records: short keys with JSON values in one append-only file.

Each line is `<crc32 in hex> [key, value]`; a value of null removes the key. `put` and `drop` take effect in
memory at once; `sync` returns when everything before it is on the disk (callers at the same time share one
write and one fsync). A torn or damaged line is skipped when reading, so a power cut loses at most what was
not acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
import os
import zlib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

import msgspec

SPARE_LINES: Final = 1_000  # the file is rewritten when it has this many more than four times its keys
log = logging.getLogger(__name__)

V = TypeVar("V")


class Journal:
    """The file and what it says. Used from one event loop; `run` does the blocking part elsewhere."""

    def __init__(
        self, path: Path, run: Callable[[Callable[[], None]], Awaitable[None]] = asyncio.to_thread
    ) -> None:
        self._path = path
        self._run = run
        self._values: dict[str, bytes] = {}
        self._changed: dict[str, None] = {}
        self._waiting: list[asyncio.Future[None]] = []
        self._flush: asyncio.Task[None] | None = None
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lines = self._read()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._file).st_size

    def keys(self, prefix: str) -> tuple[str, ...]:
        """List the keys under a prefix."""
        return tuple(key for key in self._values if key.startswith(prefix))

    def get(self, key: str, type_: type[V]) -> V | None:
        """Return the value of a key, or None."""
        value = self._values.get(key)
        return None if value is None else msgspec.json.decode(value, type=type_)

    def put(self, key: str, value: object) -> None:
        """Set a value; on the disk after the next `sync`."""
        self._values[key] = msgspec.json.encode(value)
        self._changed[key] = None
        self._flush_soon()

    def drop(self, key: str) -> None:
        """Remove a key; on the disk after the next `sync`."""
        if self._values.pop(key, None) is not None:
            self._changed[key] = None
            self._flush_soon()

    async def sync(self) -> None:
        """Return when everything put before is durable. Raises OSError when it cannot be written (disk full);
        nothing is forgotten then, and the next `sync` tries again."""
        if self._changed or self._flush is not None:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            self._flush_soon()
            await waiter

    async def close(self) -> None:
        """Write what is left and close the file."""
        await self.sync()
        if self._flush is not None:
            await self._flush
        os.close(self._file)

    def _flush_soon(self) -> None:
        if self._flush is None:
            self._flush = asyncio.get_running_loop().create_task(self._flush_all())

    async def _flush_all(self) -> None:
        try:
            while self._changed or self._waiting:
                waiting, self._waiting = self._waiting, []
                error = await self._flush_once()
                for waiter in waiting:
                    if waiter.done():
                        continue
                    if error is None:
                        waiter.set_result(None)
                    else:
                        waiter.set_exception(error)
                if error is not None and not self._waiting:
                    return
        finally:
            self._flush = None

    async def _flush_once(self) -> OSError | None:
        changed, self._changed = self._changed, {}
        lines = [_line(key, self._values.get(key)) for key in changed]
        whole: dict[str, bytes] | None = None
        if self._lines + len(lines) > 4 * len(self._values) + SPARE_LINES:
            whole = dict(self._values)
        try:
            await self._run(lambda: self._write(lines, whole))
        except OSError as error:
            log.exception("cannot write %s", self._path)
            self._changed = {**changed, **self._changed}
            return error
        return None

    def _write(self, lines: list[bytes], whole: Mapping[str, bytes] | None) -> None:
        if whole is not None:
            self._rewrite(whole)
            return
        content = b"".join(lines)
        try:
            _write_all(self._file, content)
            os.fdatasync(self._file)
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(content)
        self._lines += len(lines)

    def _rewrite(self, whole: Mapping[str, bytes]) -> None:
        new_path = self._path.with_suffix(".new")
        new = os.open(new_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _write_all(new, b"".join(_line(key, value) for key, value in whole.items()))
            os.fsync(new)
            os.replace(new_path, self._path)
        except OSError:
            os.close(new)
            raise
        os.close(self._file)
        self._file, self._size, self._lines = new, os.fstat(new).st_size, len(whole)
        _sync_folder(self._path.parent)

    def _read(self) -> int:
        """Read the file; cut a torn end off, so that the next line begins on its own."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return 0
        end = content.rfind(b"\n") + 1
        if end != len(content):
            log.warning("%s: the last %d bytes were never completed", self._path, len(content) - end)
            os.truncate(self._path, end)
        lines = content[:end].splitlines()
        for number, line in enumerate(lines, 1):
            read = _parse(line)
            if read is None:
                log.error("%s:%d is damaged and was skipped", self._path, number)
                continue
            key, value = read
            if value is None:
                self._values.pop(key, None)
            else:
                self._values[key] = value
        return len(lines)


class Remembered:
    """Numbers by name, durable; of so many at most: the oldest are forgotten."""

    def __init__(self, journal: Journal, prefix: str, limit: int) -> None:
        self._journal = journal
        self._prefix = prefix
        self._limit = limit
        self._numbers = {key.partition("/")[2]: journal.get(key, int) or 0 for key in journal.keys(prefix)}

    def get(self, name: str) -> int:
        """Return the number of a name, or 0."""
        return self._numbers.get(name, 0)

    def put(self, name: str, number: int) -> None:
        """Remember a number as the newest."""
        self._numbers.pop(name, None)
        self._numbers[name] = number
        self._journal.put(self._prefix + name, number)
        while len(self._numbers) > self._limit:
            oldest = next(iter(self._numbers))
            del self._numbers[oldest]
            self._journal.drop(self._prefix + oldest)


def _line(key: str, value: bytes | None) -> bytes:
    text = msgspec.json.encode((key, None if value is None else msgspec.Raw(value)))
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parse(line: bytes) -> tuple[str, bytes | None] | None:
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    key, value = msgspec.json.decode(text, type=tuple[str, msgspec.Raw])
    return key, None if bytes(value) == b"null" else bytes(value)


def _write_all(file: int, content: bytes) -> None:
    while content:
        content = content[os.write(file, content) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
