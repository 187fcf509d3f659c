from __future__ import annotations

import asyncio
import errno
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_config.engines import tables
from manor_config.engines.place import Place
from manor_config.engines.sqlite import connect
from manor_config.engines.writer import WAITING_MAX, Writer, trouble
from manor_config.revision import Outcome, Transaction, Write


class Faulty:
    """A connection that counts its commits and fails at a statement when told to."""

    def __init__(self, path: Path) -> None:
        self.real = connect(path)
        tables.prepare(self.real)
        tables.create(self.real)
        self.commits = 0
        self.failing: tuple[str, Exception] | None = None
        self.mended_by: Path | None = None  # when this file is gone

    @property
    def in_transaction(self) -> bool:
        return self.real.in_transaction

    def execute(self, sql: str, bindings: Any = (), /) -> sqlite3.Cursor:
        self.commits += sql == "COMMIT"
        mended = self.mended_by is not None and not self.mended_by.exists()
        if self.failing and not mended and sql.startswith(self.failing[0]):
            raise self.failing[1]
        return self.real.execute(sql, bindings)

    def executemany(self, sql: str, rows: Any, /) -> sqlite3.Cursor:
        return self.real.executemany(sql, rows)

    def close(self) -> None:
        self.real.close()


@pytest.fixture
def faulty(tmp_path: Path) -> Faulty:
    return Faulty(tmp_path / "store")


def writer_of(
    faulty: Faulty, advanced: Callable[[int], None] = lambda revision: None, place: Place | None = None
) -> Writer:
    return Writer(faulty, advanced, place)  # type: ignore[arg-type]


def put(key: str, value: bytes = b"v", op_id: str = "") -> Transaction:
    return Transaction(writes=(Write(key, value),), op_id=op_id)


async def test_transactions_that_wait_share_a_commit_and_keep_their_order(faulty: Faulty) -> None:
    revisions: list[int] = []
    writer = writer_of(faulty, revisions.append)
    release = threading.Event()
    holding = asyncio.ensure_future(writer.ask(lambda connection: release.wait(10)))
    asking = [asyncio.ensure_future(writer.ask(put(f"k{n}"))) for n in range(50)]
    await asyncio.sleep(0)  # all of them are in the queue
    faulty.commits = 0
    release.set()
    outcomes: list[Outcome] = await asyncio.gather(*asking)
    assert [outcome.revision for outcome in outcomes] == list(range(1, 51))
    assert faulty.commits == 1
    assert await holding
    await writer.close()
    assert max(revisions) == 50


async def test_a_full_disk_is_told_and_passes(faulty: Faulty) -> None:
    writer = writer_of(faulty)
    await writer.ask(put("k"))
    pages = faulty.real.execute("PRAGMA page_count").fetchone()[0]
    await writer.ask(lambda connection: connection.execute(f"PRAGMA max_page_count={pages}"))
    with pytest.raises(ManorError) as refusal:
        await writer.ask(put("large", bytes(200_000)))
    assert refusal.value.kind is Kind.NO_CAPACITY
    assert "disk is full" in refusal.value.message
    assert not writer.failed.is_set()
    await writer.ask(lambda connection: connection.execute("PRAGMA max_page_count=100000"))
    assert (await writer.ask(put("large", bytes(200_000)))).revision == 2
    await writer.close()


async def test_on_a_full_disk_documents_are_deleted_all_the_same(faulty: Faulty, tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.keep_reserve()
    writer = writer_of(faulty, place=place)
    await writer.ask(put("k"))
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    faulty.failing, faulty.mended_by = ("INSERT", full), place.reserve
    with pytest.raises(ManorError, match="disk is full") as refusal:
        await writer.ask(put("more"))
    assert (refusal.value.kind, "deleting documents" in refusal.value.hint) == (Kind.NO_CAPACITY, True)
    assert place.reserve.stat().st_size > 0
    assert (await writer.ask(Transaction(writes=(Write("k", None),)))).revision == 2
    assert not place.reserve.exists()
    await writer.close()


@pytest.mark.parametrize(
    ("number", "kind", "word"),
    [
        (errno.EDQUOT, Kind.NO_CAPACITY, "quota"),
        (errno.EROFS, Kind.UNAVAILABLE, "read-only"),
        (errno.EIO, Kind.UNAVAILABLE, "disk fails"),
        (errno.ESTALE, Kind.UNAVAILABLE, "network file system"),
        (0, Kind.UNAVAILABLE, "starts anew"),
    ],
)
def test_the_hint_says_what_ails_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: Kind, word: str
) -> None:
    monkeypatch.setattr(Place, "ails", lambda place: number)
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    told = trouble(error, Place(tmp_path))
    assert (told.kind, word in told.hint) == (kind, True)
    assert (told.delivered is None) == (kind is Kind.UNAVAILABLE and number != errno.EROFS)


async def test_after_an_io_error_nothing_is_acknowledged_any_more(faulty: Faulty) -> None:
    writer = writer_of(faulty)
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    faulty.failing = ("COMMIT", error)
    with pytest.raises(ManorError) as refusal:
        await writer.ask(put("k"))
    assert refusal.value.kind is Kind.UNAVAILABLE
    assert refusal.value.delivered is None
    faulty.failing = None
    await asyncio.wait_for(writer.failed.wait(), 5)
    with pytest.raises(ManorError, match="disk I/O error"):
        await writer.ask(put("k"))
    assert tables.meta(connect_again(faulty)).revision == 0
    await writer.close()


def connect_again(faulty: Faulty) -> sqlite3.Connection:
    return faulty.real


async def test_waiting_transactions_have_a_limit(faulty: Faulty) -> None:
    writer = writer_of(faulty)
    release = threading.Event()
    asking = [asyncio.ensure_future(writer.ask(lambda connection: release.wait(10)))]
    asking += [asyncio.ensure_future(writer.ask(put("k"))) for _ in range(WAITING_MAX + 100)]
    await asyncio.sleep(0)
    release.set()
    results = await asyncio.gather(*asking, return_exceptions=True)
    refused = [result for result in results if isinstance(result, ManorError)]
    assert refused
    assert {refusal.kind for refusal in refused} == {Kind.NO_CAPACITY}
    await writer.close()


async def test_a_caller_that_leaves_does_not_undo_the_transaction(faulty: Faulty) -> None:
    writer = writer_of(faulty)
    release = threading.Event()
    holding = asyncio.ensure_future(writer.ask(lambda connection: release.wait(10)))
    leaving = asyncio.ensure_future(writer.ask(put("k", op_id="op")))
    await asyncio.sleep(0)
    leaving.cancel()
    release.set()
    await holding
    again: Outcome = await writer.ask(put("k", op_id="op"))
    assert (again.revision, again.repeated) == (1, True)
    await writer.close()


async def test_closing_finishes_what_was_asked_for(faulty: Faulty) -> None:
    writer = writer_of(faulty)
    asking = [asyncio.ensure_future(writer.ask(put("k"))) for _ in range(200)]
    await asyncio.sleep(0)
    await writer.close()
    assert (await asyncio.gather(*asking))[-1].revision == 200
