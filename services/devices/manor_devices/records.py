"""The room's durable records: short keys with JSON values, over one log.

`put` and `drop` take effect in memory at once; `sync` returns when everything before it is on the disk.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from manor_bus.wire.errors import Kind, ManorError
from manor_host.durable import FULL, Log, Run

log = logging.getLogger(__name__)
V = TypeVar("V")


class Records:
    """The log and what it says. Used from one event loop; `run` does the blocking part elsewhere."""

    def __init__(self, path: Path, run: Run = asyncio.to_thread) -> None:
        self._values: dict[str, bytes] = {}
        self._log = Log(path, self._useful, run=run)
        loaded = self._log.load()
        for body in loaded.records:
            key, value = msgspec.json.decode(body, type=tuple[str, msgspec.Raw])
            self._values.pop(key, None)
            if bytes(value) != b"null":
                self._values[key] = bytes(value)
        if loaded.torn or loaded.damaged:
            log.error("%s: lines %s are damaged, %d bytes torn", path, loaded.damaged, loaded.torn)

    def keys(self, prefix: str) -> tuple[str, ...]:
        """List the keys under a prefix, in the order in which they were put last."""
        return tuple(key for key in self._values if key.startswith(prefix))

    def get(self, key: str, type_: type[V]) -> V | None:
        """Return the value of a key, or None."""
        value = self._values.get(key)
        return None if value is None else msgspec.json.decode(value, type=type_)

    def put(self, key: str, value: object) -> None:
        """Set a value; on the disk after the next `sync`."""
        self._values.pop(key, None)
        self._values[key] = msgspec.json.encode(value)
        self._log.append(_body(key, self._values[key]))

    def drop(self, key: str) -> None:
        """Remove a key; on the disk after the next `sync`."""
        if self._values.pop(key, None) is not None:
            self._log.append(_body(key, b"null"))

    async def sync(self) -> None:
        """Return when everything put before is durable. Raises OSError when it cannot be written (disk full);
        nothing is forgotten then, and the next `sync` tries again."""
        await self._log.commit()

    async def durable(self, *, ends: bool = False) -> None:
        """Return when all that happened is on the disk; of an end, when that was tried."""
        try:
            await self.sync()
        except OSError as error:
            full = error.errno in FULL
            log.warning("the records of devices cannot be written: %s", error)
            if not ends:
                raise ManorError(
                    Kind.NO_CAPACITY if full else Kind.DENIED_STATE,
                    f"the records of devices cannot be written: {error.strerror}",
                    hint=f"{'Free space on' if full else 'Repair'} the file system of MANOR_DIR.",
                ) from error

    async def close(self) -> None:
        """Write what is left and close the file."""
        await self._log.close()

    def _useful(self) -> Iterator[bytes]:
        return (_body(key, value) for key, value in self._values.items())


class Remembered:
    """Numbers by name, durable; of so many at most: the oldest are forgotten."""

    def __init__(self, records: Records, prefix: str, limit: int) -> None:
        self._records = records
        self._prefix = prefix
        self._limit = limit
        self._numbers = {key.partition("/")[2]: records.get(key, int) or 0 for key in records.keys(prefix)}

    def get(self, name: str) -> int:
        """Return the number of a name, or 0."""
        return self._numbers.get(name, 0)

    def put(self, name: str, number: int) -> None:
        """Remember a number as the newest."""
        self._numbers.pop(name, None)
        self._numbers[name] = number
        self._records.put(self._prefix + name, number)
        while len(self._numbers) > self._limit:
            oldest = next(iter(self._numbers))
            del self._numbers[oldest]
            self._records.drop(self._prefix + oldest)


def _body(key: str, value: bytes) -> bytes:
    return msgspec.json.encode((key, msgspec.Raw(value)))
