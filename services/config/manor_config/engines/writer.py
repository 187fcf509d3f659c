"""The one thread that writes: transactions that wait are committed together, then acknowledged.

After an I/O error nothing is acknowledged any more: what a failed fsync left behind is unknown to everybody,
so the process must start anew and look.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType
from typing import Any, Final

from manor_bus.wire.errors import Kind, ManorError, unavailable
from manor_bus.wire.messages.config import OWNED
from manor_config.engines import tables
from manor_config.engines.place import Place, holders
from manor_config.revision import Transaction, Write
from manor_host import durable

BATCH_MAX: Final = 64  # jobs between two looks at the queue; so many transactions share one COMMIT
WAITING_MAX: Final = 4_096  # jobs in the queue; the bus admits far fewer
LOG_BYTES_MAX: Final = 64 * 1024**2
IDLE_S: Final = 20.0  # quiet for so long: the write-ahead log is folded into the file

log = logging.getLogger(__name__)

Work = Callable[[sqlite3.Connection], Any]


@dataclass(frozen=True, slots=True)
class _Job:
    """A transaction, or other work on the connection."""

    what: Transaction | Work
    future: asyncio.Future[Any]


HINTS: Final = MappingProxyType(
    {
        errno.ENOSPC: "Free space where config keeps its files; deleting documents works all the same.",
        errno.EDQUOT: "Raise the quota of the config service's user, or free some of it.",
        errno.EROFS: "The file system is read-only, maybe after an error: see dmesg, then remount it.",
        errno.EIO: "The disk fails: see dmesg, and restore a backup on another one.",
        errno.ESTALE: "The network file system lost the folder: mount it again, and restart config.",
    }
)
_AGAIN: Final = (
    "The config service starts anew and looks at what is on the disk; ask again with the same key."
)


def trouble(error: Exception, place: Place | None = None) -> ManorError:
    """Return what a caller is told about an error of the file or the machine. Where SQLite does not say what
    ails the disk, it is tried out beside the store."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        who = holders(place.files) if place else "another program"
        hint = f"Nothing was written. End {who}; config goes on by itself then."
        return unavailable(f"the store is locked by {who}", delivered=False, hint=hint)
    number = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_READONLY: errno.EROFS}.get(code, 0)
    number = number or (place.ails() if place else 0)
    hint = HINTS.get(number, _AGAIN)
    if number in durable.FULL:
        return ManorError(Kind.NO_CAPACITY, f"the disk is full: nothing was written ({error})", hint=hint)
    delivered = False if number == errno.EROFS else None
    return unavailable(f"the store failed: {error}", delivered=delivered, hint=hint)


def perform(connection: sqlite3.Connection, jobs: Sequence[Transaction | Work]) -> list[Any]:
    """Do jobs of one sort: transactions in one commit, other work one by one."""
    transactions = [job for job in jobs if isinstance(job, Transaction)]
    if transactions:
        return list(tables.commit(connection, transactions))
    return [job(connection) for job in jobs if not isinstance(job, Transaction)]


def _frees(write: Write) -> bool:
    return write.value is None or write.key.startswith(OWNED)  # an owner notes what it is about to delete


class Inline:
    """A Writer without a thread, for a store in memory: what is asked is done at once."""

    def __init__(self, connection: sqlite3.Connection, advanced: Callable[[int], None]) -> None:
        self.failed = asyncio.Event()
        self._connection = connection
        self._advanced = advanced

    async def ask(self, what: Transaction | Work) -> Any:
        """See Writer."""
        result = perform(self._connection, [what])[0]
        self._advanced(tables.meta(self._connection).revision)
        return result

    def fail(self, error: Exception) -> None:
        """See Writer. Memory does not fail: what raises here is a bug, or the machine's."""
        self.failed.set()

    async def close(self) -> None:
        """See Writer."""
        self._connection.close()


class Writer:
    """Owns the writing connection. `failed` is set once nothing is acknowledged any more."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        advanced: Callable[[int], None],
        place: Place | None = None,
    ) -> None:
        self.failed = asyncio.Event()
        self._place = place
        self._noted = 0
        self._broken: Exception | None = None
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._advanced = advanced  # told the store's revision, in the loop, before the callers are answered
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        # A daemon: when the interpreter ends without `close`, that is a crash like any other.
        self._thread = threading.Thread(target=self._run, name="config-writer", daemon=True)
        self._thread.start()

    async def ask(self, what: Transaction | Work) -> Any:
        """Do it in the thread; the order of asking is kept. A cancelled caller's job is done all the same."""
        if self._broken is not None:
            raise trouble(self._broken)
        if self._jobs.qsize() >= WAITING_MAX:
            hint = "The disk is slower than the requests; ask again later."
            raise ManorError(Kind.NO_CAPACITY, f"{WAITING_MAX} transactions are waiting", hint=hint)
        job = _Job(what, self._loop.create_future())
        self._jobs.put(job)
        return await job.future

    def fail(self, error: Exception) -> None:
        """Acknowledge nothing any more; the reader found the file damaged, or the writer did."""
        self._broken = error
        self._loop.call_soon_threadsafe(self.failed.set)

    async def close(self) -> None:
        """Finish what was asked for and close the connection."""
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        more = True
        try:
            while more:
                jobs, more = self._gather()
                for _, group in groupby(jobs, key=lambda job: isinstance(job.what, Transaction)):
                    self._settle(together := list(group), self._results(together))
        except Exception as bug:
            self.fail(bug)
            raise
        finally:
            self._connection.close()

    def _fold(self) -> None:
        """Fold the log into the file; tell whose reading keeps it from that when it has become large."""
        if self._place is not None:
            self._place.keep_reserve()
        try:
            busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.OperationalError:
            busy = 1
        if busy and self._place is not None and self._place.files[1].stat().st_size > LOG_BYTES_MAX:
            log.warning("the log of the store grows: %s reads it for too long", holders(self._place.files))

    def _gather(self) -> tuple[list[_Job], bool]:
        """Return the waiting jobs, at least one unless it is the end, and whether more may come."""
        try:
            job = self._jobs.get(timeout=IDLE_S)
        except queue.Empty:
            self._fold()
            job = self._jobs.get()
        jobs = []
        while job is not None:
            jobs.append(job)
            if len(jobs) == BATCH_MAX or self._jobs.empty():
                return jobs, True
            job = self._jobs.get()
        return jobs, False

    def _results(self, jobs: list[_Job]) -> list[Any]:
        """Do jobs of one sort; return a result or a ManorError for each."""
        if self._broken is not None:
            return [trouble(self._broken) for _ in jobs]
        try:
            return self._perform([job.what for job in jobs])
        except (sqlite3.Error, tables.Damaged) as error:
            told = trouble(error, self._place)
            if told.kind is Kind.UNAVAILABLE and told.delivered is None:
                self.fail(error)
            return [told for _ in jobs]

    def _perform(self, jobs: list[Transaction | Work]) -> list[Any]:
        """Do jobs; on a full disk the space put aside is for what frees some."""
        try:
            return perform(self._connection, jobs)
        except sqlite3.OperationalError as error:
            frees = all(isinstance(job, Transaction) and all(map(_frees, job.writes)) for job in jobs)
            full = trouble(error, self._place).kind is Kind.NO_CAPACITY
            if self._place is None or not (full and frees and self._place.reserve.exists()):
                raise
            self._place.reserve.unlink()
            return perform(self._connection, jobs)

    def _settle(self, jobs: list[_Job], results: list[Any]) -> None:
        revision = 0 if self._broken else tables.meta(self._connection).revision
        if self._place is not None and revision > self._noted:
            try:
                self._place.acknowledge(revision)
                self._noted = revision
            except OSError as error:  # the disk fails; the next commit finds that out
                log.warning("revision %d was not noted as acknowledged: %s", revision, error)
        self._loop.call_soon_threadsafe(self._tell, revision, jobs, results)

    def _tell(self, revision: int, jobs: list[_Job], results: list[Any]) -> None:
        self._advanced(revision)
        for job, result in zip(jobs, results, strict=True):
            if job.future.cancelled():
                continue
            if isinstance(result, ManorError):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)
