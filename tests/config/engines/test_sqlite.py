from __future__ import annotations

import asyncio
import shutil
import sqlite3
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from itertools import count
from pathlib import Path

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_config.engines import tables
from manor_config.engines.place import Place
from manor_config.engines.sqlite import Engine, accept_loss, check_copy, connect, create
from manor_config.engines.sqlite import open_engine as open_sqlite
from manor_config.revision import Row, Transaction, Write
from tests.config.engines.contract import *  # noqa: F403
from tests.config.engines.contract import Open, follow


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Engine]:
    engine = open_sqlite(Place(directory))
    try:
        yield engine
    finally:
        await engine.close()


@pytest.fixture
def fresh_store(tmp_path: Path) -> Callable[[], Open]:
    numbers = count()

    def fresh() -> Open:
        directory = tmp_path / f"store-{next(numbers)}"

        def again() -> AbstractAsyncContextManager[Engine]:
            return opened(directory)

        return again

    return fresh


@pytest.fixture
def open_engine(fresh_store: Callable[[], Open]) -> Open:
    return fresh_store()


# --- what only this engine promises


def single(key: str, value: bytes | None = b"v", op_id: str = "") -> Transaction:
    return Transaction(writes=(Write(key, value),), op_id=op_id)


async def test_a_killed_writer_has_lost_nothing_it_acknowledged(tmp_path: Path) -> None:
    script = Path(__file__).with_name("write_until_killed.py")
    said: dict[str, int] = {}
    for turn in range(2):
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(script), str(tmp_path), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        lines = [await asyncio.wait_for(process.stdout.readline(), 20) for _ in range(150)]
        process.kill()
        lines += (await process.stdout.read()).splitlines(keepends=True)
        await process.wait()
        for line in lines:
            if line.endswith(b"\n"):
                revision, key = line.decode().split()
                said.setdefault(key, int(revision))
        async with opened(tmp_path) as engine:
            for key, acknowledged in said.items():
                known = await engine.recall(key)
                assert known is not None, (turn, key)
                assert known.revision == acknowledged
            numbers = [e.revision for feed in await follow(engine, 0, engine.revision) for e in feed.entries]
            assert numbers == list(range(1, engine.revision + 1))


async def test_an_op_id_is_known_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        await engine.txn(single("k", b"1", op_id="op"))
        await engine.txn(single("k", b"2"))
    async with opened(tmp_path) as engine:
        again = await engine.txn(single("k", b"1", op_id="op"))
        assert (again.revision, again.repeated) == (1, True)
        assert (await engine.range("k")).rows[0].value == b"2"


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)


async def _write_much(directory: Path) -> int:
    async with opened(directory) as engine:
        for n in range(40):
            await engine.txn(single(f"key/{n}", b"SECRET%d" % n * 60))
    return (directory / "config.db").read_bytes().index(b"SECRET7SECRET7") + 20


@pytest.mark.parametrize(
    "how", ["a flipped bit in a value", "a torn page", "a cut-off file", "not a data base"]
)
async def test_a_damaged_file_is_put_aside_and_the_message_says_where(tmp_path: Path, how: str) -> None:
    inside = await _write_much(tmp_path)
    file = tmp_path / "config.db"
    match how:
        case "a flipped bit in a value":
            flip(file, inside)
        case "a torn page":
            content = bytearray(file.read_bytes())
            content[4096 * 3 + 8 : 4096 * 3 + 512] = bytes(504)
            file.write_bytes(content)
        case "a cut-off file":
            file.write_bytes(file.read_bytes()[: -4096 * 4])
        case _:
            file.write_bytes(b"no store at all" * 500)
    damaged = file.read_bytes()
    place = Place(tmp_path)
    with pytest.raises(tables.Damaged) as refusal:
        open_sqlite(place)
    aside = tmp_path / "config.db.damaged-1"
    assert str(aside) in str(refusal.value)
    assert "Restore a backup" in str(refusal.value)
    assert aside.read_bytes() == damaged
    assert not file.exists()
    # It stays refused: an empty store would look as if everything had been deleted.
    with pytest.raises(tables.Damaged, match="damaged-1"):
        open_sqlite(place)
    assert not file.exists()


async def test_an_operator_may_accept_the_loss(tmp_path: Path) -> None:
    await _write_much(tmp_path)
    (tmp_path / "config.db").write_bytes(b"x" * 5000)
    place = Place(tmp_path)
    with pytest.raises(tables.Damaged):
        open_sqlite(place)
    accept_loss(place)
    engine = open_sqlite(place)
    assert (engine.revision, (await engine.range("")).rows) == (40, ())
    assert (await engine.txn(single("k"))).revision == 41
    await engine.close()


def missing(place: Place) -> None:
    for part in place.files:
        part.unlink(missing_ok=True)


def without_log(place: Place) -> None:
    place.files[1].unlink()


def with_a_damaged_log(place: Place) -> None:
    content = bytearray(place.files[1].read_bytes())
    content[5000] ^= 1
    place.files[1].write_bytes(content)


def older(place: Place) -> None:
    known = place.acknowledged()
    missing(place)
    (place.directory / "acknowledged").unlink()
    create(place)
    place.acknowledge(known)


async def killed(directory: Path) -> Place:
    """A store whose process was killed after it acknowledged some revisions: they are in the log only."""
    async with opened(directory / "alive") as engine:
        for n in range(9):
            await engine.txn(single(f"k{n}"))
        shutil.copytree(directory / "alive", directory / "dead")
    return Place(directory / "dead")


@pytest.mark.parametrize("lose", [missing, without_log, with_a_damaged_log, older])
async def test_a_store_that_lost_what_was_acknowledged_says_so_and_numbers_are_not_used_again(
    tmp_path: Path, lose: Callable[[Place], None]
) -> None:
    place = await killed(tmp_path)
    lose(place)
    for _ in range(2):
        with pytest.raises(tables.Damaged, match=r"revision 9 was acknowledged.*--accept-loss"):
            open_sqlite(place)
    accept_loss(place)
    engine = open_sqlite(place)
    assert engine.revision == 9
    assert (await engine.txn(single("k"))).revision == 10
    with pytest.raises(ManorError, match="compacted"):
        await engine.changes("", 8)
    await engine.close()


async def test_a_backup_takes_the_place_of_what_lost_something_and_no_old_log_is_taken_for_its_own(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path / "other") as other:
        await other.txn(single("kept"))
        await other.backup(tmp_path / "copy")
    place = await killed(tmp_path)
    place.file.unlink()
    assert create(place, tmp_path / "copy", "u") == 10
    engine = open_sqlite(place)
    assert [row.key for row in (await engine.range("")).rows] == ["kept"]
    await engine.close()


async def test_an_unreadable_mark_is_no_loss(tmp_path: Path) -> None:
    place = await killed(tmp_path)
    (place.directory / "acknowledged").write_bytes(b"")
    engine = open_sqlite(place)
    assert engine.revision == 9
    await engine.close()


async def test_a_lock_of_another_program_is_told_with_its_name_and_passes(tmp_path: Path) -> None:
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "c.execute('BEGIN IMMEDIATE'); print('held', flush=True); sys.stdin.read()"
    )
    async with opened(tmp_path) as engine:
        await engine.txn(single("k"))
        arguments = (sys.executable, "-c", script, str(tmp_path / "config.db"))
        process = await asyncio.create_subprocess_exec(*arguments, stdin=PIPE, stdout=PIPE)
        assert process.stdout is not None
        await process.stdout.readline()
        with pytest.raises(ManorError, match=rf"locked by .*\(pid {process.pid}\)") as refusal:
            await engine.txn(single("k"))
        assert (refusal.value.kind, refusal.value.delivered) == (Kind.UNAVAILABLE, False)
        await process.communicate(b"")
        assert (await engine.txn(single("k"))).revision == 2
        assert not engine.failed.is_set()


async def test_a_damaged_store_is_made_anew_from_a_backup(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        await engine.txn(single("k", b"1"))
        await engine.backup(tmp_path / "copy")
    (tmp_path / "config.db").write_bytes(b"x" * 5000)
    place = Place(tmp_path)
    with pytest.raises(tables.Damaged):
        open_sqlite(place)
    assert create(place, tmp_path / "copy", "upload") == 2
    engine = open_sqlite(place)
    assert not place.marker.exists()
    assert (await engine.range("")).rows == (Row("k", b"1", 1, 1, 1),)
    assert await engine.restored() == ("upload", 2)
    await engine.close()


async def test_a_crash_while_the_first_store_is_made_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "config.db.new").write_bytes(b"half a store")
    async with opened(tmp_path) as engine:
        assert engine.revision == 0


async def test_a_damaged_backup_is_refused(tmp_path: Path) -> None:
    inside = await _write_much(tmp_path)
    flip(tmp_path / "config.db", inside)
    with pytest.raises(tables.Damaged):
        check_copy(tmp_path / "config.db")
    (tmp_path / "text").write_text("no backup")
    with pytest.raises(tables.Damaged):
        check_copy(tmp_path / "text")


async def test_damage_found_while_reading_ends_the_service_of_the_file(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        await engine.txn(single("k", b"SECRET"))
        with closing(sqlite3.connect(tmp_path / "config.db")) as other:
            other.execute("UPDATE kv SET value=x'00'")
            other.commit()
        with pytest.raises(ManorError) as refusal:
            await engine.range("k")
        assert refusal.value.kind is Kind.UNAVAILABLE
        await asyncio.wait_for(engine.failed.wait(), 5)
        with pytest.raises(ManorError, match="checksum"):
            await engine.txn(single("k"))


async def test_readers_cannot_write_or_fold_the_log(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        await engine.txn(single("k"))
        with closing(connect(tmp_path / "config.db", mode="ro")) as reader:
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                reader.execute("DELETE FROM kv")
            assert reader.execute("PRAGMA wal_autocheckpoint").fetchone()[0] == 0


async def test_a_backup_is_of_one_moment_while_writing_goes_on(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        for n in range(50):
            await engine.txn(single(f"a{n}", b"x" * 3000))
        copying = asyncio.ensure_future(engine.backup(tmp_path / "copy"))
        for n in range(50, 90):
            await engine.txn(single(f"a{n}", b"x" * 3000))
        revision = await copying
    with closing(connect(tmp_path / "copy", mode="copy")) as copy:
        numbers = [entry.revision for entry in tables.entries_after(copy, "", 0)]
    assert numbers == list(range(1, revision + 1))
