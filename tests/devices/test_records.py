"""The room's durable records."""

import asyncio
import os
import sys

import pytest

from manor_devices import records
from manor_devices.records import Journal


async def inline(work):
    work()


def open_journal(path):
    return Journal(path / "records", run=inline)


async def test_what_was_synced_is_there_after_reopening(tmp_path):
    journal = open_journal(tmp_path)
    journal.put("a/1", {"x": 1})
    journal.put("a/2", {"x": 2})
    journal.drop("a/2")
    await journal.sync()
    again = open_journal(tmp_path)
    assert again.keys("a/") == ("a/1",)
    assert again.get("a/1", dict) == {"x": 1}
    assert again.get("a/2", dict) is None
    await journal.close()
    await again.close()


async def test_a_torn_end_is_cut_off_and_writing_goes_on(tmp_path):
    journal = open_journal(tmp_path)
    journal.put("kept", 1)
    await journal.close()
    with (tmp_path / "records").open("ab") as file:
        file.write(b'00000000 ["torn",')
    journal = open_journal(tmp_path)
    journal.put("next", 2)
    await journal.close()
    again = open_journal(tmp_path)
    assert (again.get("kept", int), again.get("next", int), again.get("torn", int)) == (1, 2, None)
    await again.close()


async def test_a_damaged_line_is_skipped_and_the_others_are_read(tmp_path, caplog):
    journal = open_journal(tmp_path)
    for key in ("one", "two", "three"):
        journal.put(key, 7)
        await journal.sync()
    await journal.close()
    path = tmp_path / "records"
    path.write_bytes(path.read_bytes().replace(b'"two",7', b'"two",8'))
    again = open_journal(tmp_path)
    assert again.keys("") == ("one", "three")
    assert "is damaged" in caplog.text
    await again.close()


async def test_callers_at_the_same_time_share_one_write(tmp_path):
    writes = []

    async def counted(work):
        writes.append(1)
        await asyncio.sleep(0)
        work()

    journal = Journal(tmp_path / "records", run=counted)

    async def one(number):
        journal.put(f"k{number}", number)
        await journal.sync()

    await asyncio.gather(*(one(number) for number in range(50)))
    assert len(writes) <= 2
    await journal.close()


async def test_a_full_disk_is_told_and_the_next_sync_writes_everything(tmp_path, monkeypatch):
    journal = open_journal(tmp_path)
    journal.put("before", 1)
    await journal.sync()
    whole_write = os.write

    def half_write(file, content):
        whole_write(file, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records.os, "write", half_write)
    journal.put("key", 2)
    with pytest.raises(OSError, match="No space left"):
        await journal.sync()
    monkeypatch.undo()
    journal.put("after", 3)
    await journal.close()
    again = open_journal(tmp_path)
    assert [again.get(key, int) for key in ("before", "key", "after")] == [1, 2, 3]
    await again.close()


async def test_the_file_does_not_grow_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "SPARE_LINES", 20)
    journal = open_journal(tmp_path)
    for number in range(200):
        journal.put(f"k{number % 3}", number)
        await journal.sync()
    assert len((tmp_path / "records").read_bytes().splitlines()) <= 4 * 3 + 20
    journal.put("last", 1)
    await journal.close()
    again = open_journal(tmp_path)
    assert [again.get(f"k{number}", int) for number in range(3)] == [198, 199, 197]
    assert again.get("last", int) == 1
    await again.close()


WRITER = """
import asyncio, sys
from pathlib import Path
from manor_devices.records import Journal
async def main():
    journal = Journal(Path(sys.argv[1]))
    number = 0
    while True:
        number += 1
        journal.put(f"k{number % 50}", number)
        await journal.sync()
        print(number, flush=True)
asyncio.run(main())
"""


async def test_what_was_acknowledged_survives_kill_9(tmp_path):
    path = tmp_path / "records"
    last = 0
    for _ in range(3):
        writer = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, str(path), stdout=asyncio.subprocess.PIPE
        )
        for _ in range(200):
            last = int(await asyncio.wait_for(writer.stdout.readline(), 30))
        writer.kill()
        rest = (await writer.communicate())[0].split(b"\n")[:-1]
        last = int(rest[-1]) if rest else last
        journal = Journal(path, run=inline)
        newest = max(journal.get(key, int) for key in journal.keys("k"))
        assert newest in (last, last + 1)
        await journal.close()
        path.unlink()


async def test_records_are_readable_by_nobody_else(tmp_path):
    journal = open_journal(tmp_path)
    await journal.close()
    assert (tmp_path / "records").stat().st_mode & 0o777 == 0o600
