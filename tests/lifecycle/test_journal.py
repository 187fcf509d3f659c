from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from manor_bus.wire.messages.lifecycle import OperationState
from manor_lifecycle import journal as module
from manor_lifecycle.journal import Journal, line, read
from manor_lifecycle.ledger import Begun, Closed, Ledger, Record, Stepped, replay


def begun(n: int) -> Begun:
    return Begun(id=f"op{n}", kind="start", target="web", uuid="u", created=1.0)


async def write(directory: Path, records: list[Record], *, durable: bool = True) -> None:
    journal = Journal(directory, durable=durable, records=list)
    journal.load()
    for record in records:
        journal.append(record)
    await journal.commit()
    await journal.close()


def load(directory: Path) -> list[Record]:
    journal = Journal(directory, durable=False, records=list)
    return journal.load()


@pytest.mark.parametrize("durable", [True, False])
async def test_what_was_committed_is_read_back_in_order(tmp_path: Path, durable: bool) -> None:
    records: list[Record] = [begun(1), Stepped(id="op1", index=0), begun(2)]
    await write(tmp_path, records, durable=durable)
    assert load(tmp_path) == records


async def test_a_torn_tail_loses_only_itself_at_every_byte(tmp_path: Path) -> None:
    await write(tmp_path, [begun(1), begun(2)])
    path = tmp_path / module.FILE
    whole = path.read_bytes()
    first = len(line(begun(1)))
    for cut in range(first, len(whole)):
        path.write_bytes(whole[:cut])
        expected = [begun(1), begun(2)] if cut >= len(whole) - 1 else [begun(1)]
        assert load(tmp_path) == expected


async def test_a_record_after_a_torn_tail_is_not_swallowed(tmp_path: Path) -> None:
    await write(tmp_path, [begun(1), begun(2)])
    path = tmp_path / module.FILE
    path.write_bytes(path.read_bytes()[:-5])
    await write(tmp_path, [begun(3)])
    assert load(tmp_path) == [begun(1), begun(3)]


def test_a_damaged_line_is_noticed() -> None:
    good = line(begun(1))
    for at in range(len(good) - 1):
        damaged = good[:at] + bytes((good[at] ^ 1,)) + good[at + 1 :]
        assert begun(1) not in [record for record in read(damaged) if record != begun(1)]
        assert list(read(damaged)) != [begun(1)] or damaged[:8].lower() == good[:8]


async def test_many_appends_share_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = 0
    real = module.os.fdatasync

    def counted(descriptor: int) -> None:
        nonlocal syncs
        syncs += 1
        real(descriptor)

    monkeypatch.setattr(module.os, "fdatasync", counted)
    journal = Journal(tmp_path, durable=True, records=list)
    journal.load()
    for n in range(200):
        journal.append(begun(n))
    await asyncio.gather(*(journal.commit() for _ in range(200)))
    await journal.close()
    assert syncs < 5
    assert len(load(tmp_path)) == 200


async def test_a_grown_journal_is_written_anew_without_losing_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMPACT_BYTES_MIN", 2_000)
    ledger = Ledger(keep=5)
    journal = Journal(tmp_path, durable=True, records=ledger.records)
    journal.load()
    for n in range(100):
        for record in (begun(n), Closed(id=f"op{n}", state=OperationState.DONE, at=1.0)):
            ledger.apply(record)
            journal.append(record)
        await journal.commit()
    await journal.close()
    assert (tmp_path / module.FILE).stat().st_size < 10_000
    assert list(replay(load(tmp_path), keep=5).ended) == list(ledger.ended)
