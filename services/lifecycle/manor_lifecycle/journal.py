"""The journal: what the ledger must find again, in one durable log."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

from manor_host.durable import Log
from manor_lifecycle.ledger import Record

FILE: Final = "journal"
log = logging.getLogger(__name__)

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Record).decode


class Journal:
    """`records` yields what must survive a compaction, what was just appended among it."""

    def __init__(self, directory: Path, *, durable: bool, records: Callable[[], Iterable[Record]]) -> None:
        self._log = Log(directory / FILE, lambda: map(_encode, records()), durable=durable)

    def load(self) -> list[Record]:
        """Read what is there and open the file for appending. What cannot be read is left out and logged."""
        loaded, found = self._log.load(), []
        for body in loaded.records:
            with contextlib.suppress(msgspec.MsgspecError):
                found.append(_decode(body))
        damaged = len(loaded.damaged) + len(loaded.records) - len(found)
        if damaged or loaded.torn:
            log.warning("the journal: %d damaged lines are left out, %d torn bytes", damaged, loaded.torn)
        return found

    def append(self, record: Record) -> None:
        """Add a record; it is written in the order of appends, soon. `commit` waits for it."""
        self._log.append(_encode(record))

    async def commit(self) -> None:
        """Return when everything appended so far is on disk. Raises OSError when the disk refuses."""
        await self._log.commit()

    async def close(self) -> None:
        """Write what is left, and close."""
        try:
            await self._log.close()
        except OSError as error:
            log.error("the journal cannot be written: %s", error)  # noqa: TRY400 - the disk is the cause
