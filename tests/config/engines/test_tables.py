from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import apsw
import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_config.engines import tables
from manor_config.engines.sqlite import connect
from manor_config.revision import Transaction, Write
from tests.config.engines.disk import Disk, DiskVfs, PowerCut

SEEDS = 220
CUTS = 3


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(tmp_path / "store")) as opened:
        tables.prepare(opened)
        tables.create(opened)
        yield opened


def put(key: str, value: bytes | None) -> Transaction:
    return Transaction(writes=(Write(key, value),))


def test_commits_are_durable_by_the_settings_of_the_connection(connection: sqlite3.Connection) -> None:
    said = {
        name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
    }
    assert said == {"journal_mode": "wal", "synchronous": 2}  # FULL


def test_a_sound_store_passes_its_check(connection: sqlite3.Connection) -> None:
    tables.commit(connection, [put("k", b"1"), put("k", b"2"), put("k", None), put("l", b"")])
    tables.check(connection)


@pytest.mark.parametrize(
    ("tampering", "finding"),
    [
        ("UPDATE kv SET value=x'ff' WHERE key='k'", "checksum of 'k'"),
        ("UPDATE kv SET mod_rev=9 WHERE key='k'", "checksum of 'k'"),
        ("UPDATE hist SET value=x'ff' WHERE rev=1", "checksum of 'k' at revision 1"),
        ("UPDATE hist SET value=NULL WHERE rev=1", "checksum of 'k' at revision 1"),
        ("DELETE FROM hist WHERE rev=2", "counters disagree"),
        ("UPDATE meta SET rev=1", "counters disagree"),
        ("DELETE FROM meta", "counters are missing"),
        ("PRAGMA application_id=7", "not a store of Manor"),
    ],
)
def test_the_check_names_what_is_damaged(
    connection: sqlite3.Connection, tampering: str, finding: str
) -> None:
    tables.commit(connection, [put("k", b"1"), put("k", b"2")])
    connection.execute(tampering)
    with pytest.raises(tables.Damaged, match=finding):
        tables.check(connection)


def test_a_store_of_a_newer_version_is_not_called_damaged(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA user_version={tables.FORMAT + 1}")
    with pytest.raises(ManorError, match="format 2") as refusal:
        tables.check(connection)
    assert refusal.value.kind is Kind.DENIED_STATE


def test_what_fails_in_the_middle_of_a_commit_leaves_nothing(connection: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.Error):
        tables.commit(connection, [put("k", b"1"), Transaction(writes=(Write("l", b"2"),), note=object())])  # type: ignore[arg-type]
    assert not connection.in_transaction
    assert tables.meta(connection).revision == 0
    assert tables.look(connection, "k") is None


def test_a_repetition_among_others_does_not_turn_the_counter_back(connection: sqlite3.Connection) -> None:
    first = Transaction(writes=(Write("k", b"1"),), op_id="op")
    tables.commit(connection, [first, put("l", b"")])
    outcomes = tables.commit(connection, [put("m", b""), first, put("n", b"")])
    assert [(outcome.revision, outcome.repeated) for outcome in outcomes] == [
        (3, False),
        (1, True),
        (4, False),
    ]


def test_compaction_goes_in_steps(connection: sqlite3.Connection) -> None:
    tables.commit(connection, [put("k", b"%d" % n) for n in range(10)])
    assert tables.compact(connection, 9, 5)
    assert not tables.compact(connection, 9, 5)
    assert [entry.revision for entry in tables.entries_after(connection, "", 0)] == [9, 10]
    tables.check(connection)


class Cut:
    """A store on a disk whose power is cut again and again, and what was acknowledged."""

    def __init__(self, seed: int, synchronous: str) -> None:
        self.rng = random.Random(seed)
        self.disk = Disk(self.rng)
        self.vfs = DiskVfs(f"disk-{seed}-{synchronous}", self.disk)
        self.synchronous = synchronous
        self.acknowledged: list[tuple[str, bytes | None]] = []
        self.under_way: list[tuple[str, bytes | None]] = []
        with closing(self.open()) as connection:
            tables.create(connection)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def open(self) -> apsw.Connection:
        connection = apsw.Connection("store", vfs=self.vfs.name)
        connection.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()  # no shared memory on this disk
        tables.prepare(connection)
        connection.execute(f"PRAGMA synchronous={self.synchronous}")
        connection.execute("PRAGMA wal_autocheckpoint=12").fetchall()  # so that cuts hit checkpoints too
        return connection

    def live(self) -> None:
        """Commit groups until the power is cut."""
        connection = self.open()
        self.disk.fuse = self.rng.randrange(2, self.rng.choice((40, 400)))
        try:
            while True:
                self.under_way = [
                    (f"k{self.rng.randrange(6)}", self.rng.randbytes(self.rng.choice((0, 9, 700, 5_000))))
                    for _ in range(self.rng.randrange(1, 5))
                ]
                tables.commit(connection, [put(*write) for write in self.under_way])
                self.acknowledged += self.under_way
                self.under_way = []
        except PowerCut:
            pass
        finally:
            self.disk.fuse = 0
            with suppress(PowerCut, apsw.Error):
                connection.close(force=True)
        self.disk.restart()

    def verify(self) -> None:
        """All that was acknowledged is there, and the group under way whole or not at all."""
        with closing(self.open()) as connection:
            tables.check(connection)
            found = [(entry.key, entry.value) for entry in tables.entries_after(connection, "", 0)]
            assert found in (self.acknowledged, self.acknowledged + self.under_way)
            self.acknowledged, self.under_way = found, []


def losses(synchronous: str, seeds: range) -> int:
    """Return how many seeds lost something that was acknowledged, or ended with a damaged file."""
    lost = 0
    for seed in seeds:
        cut = Cut(seed, synchronous)
        try:
            for _ in range(CUTS):
                cut.live()
                cut.verify()
        except (AssertionError, tables.Damaged, apsw.Error):
            lost += 1
    return lost


def test_hundreds_of_power_cuts_lose_nothing_that_was_acknowledged() -> None:
    assert losses("FULL", range(SEEDS)) == 0


def test_the_power_loss_test_would_notice_a_weaker_setting() -> None:
    assert losses("NORMAL", range(30)) >= 5
