"""The room's durable records."""

import asyncio
import os
import sys

import pytest

from manor_devices.records import Records
from manor_host import durable


async def inline(work):
    work()


def open_store(path):
    return Records(path / "records", run=inline)


async def test_what_was_synced_is_there_after_reopening(tmp_path):
    store = open_store(tmp_path)
    store.put("a/1", {"x": 1})
    store.put("a/2", {"x": 2})
    store.drop("a/2")
    await store.sync()
    again = open_store(tmp_path)
    assert again.keys("a/") == ("a/1",)
    assert again.get("a/1", dict) == {"x": 1}
    assert again.get("a/2", dict) is None
    await store.close()
    await again.close()


async def test_a_torn_end_is_cut_off_and_writing_goes_on(tmp_path):
    store = open_store(tmp_path)
    store.put("kept", 1)
    await store.close()
    with (tmp_path / "records").open("ab") as file:
        file.write(b'00000000 ["torn",')
    store = open_store(tmp_path)
    store.put("next", 2)
    await store.close()
    again = open_store(tmp_path)
    assert (again.get("kept", int), again.get("next", int), again.get("torn", int)) == (1, 2, None)
    await again.close()


async def test_a_damaged_line_is_skipped_and_the_others_are_read(tmp_path, caplog):
    store = open_store(tmp_path)
    for key in ("one", "two", "three"):
        store.put(key, 7)
        await store.sync()
    await store.close()
    path = tmp_path / "records"
    path.write_bytes(path.read_bytes().replace(b'"two",7', b'"two",8'))
    again = open_store(tmp_path)
    assert again.keys("") == ("one", "three")
    assert "are damaged" in caplog.text
    await again.close()


async def test_callers_at_the_same_time_share_one_write(tmp_path):
    writes = []

    async def counted(work):
        writes.append(1)
        await asyncio.sleep(0)
        work()

    store = Records(tmp_path / "records", run=counted)

    async def one(number):
        store.put(f"k{number}", number)
        await store.sync()

    await asyncio.gather(*(one(number) for number in range(50)))
    assert len(writes) <= 2
    await store.close()


async def test_a_full_disk_is_told_and_the_next_sync_writes_everything(tmp_path, monkeypatch):
    store = open_store(tmp_path)
    store.put("before", 1)
    await store.sync()
    whole_write = os.write

    def half_write(file, content):
        whole_write(file, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable.os, "write", half_write)
    store.put("key", 2)
    with pytest.raises(OSError, match="No space left"):
        await store.sync()
    monkeypatch.undo()
    store.put("after", 3)
    await store.close()
    again = open_store(tmp_path)
    assert [again.get(key, int) for key in ("before", "key", "after")] == [1, 2, 3]
    await again.close()


async def test_the_file_does_not_grow_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(durable, "COMPACT_BYTES_MIN", 500)
    store = open_store(tmp_path)
    for number in range(200):
        store.put(f"k{number % 3}", number)
        await store.sync()
    assert (tmp_path / "records").stat().st_size < 1_000
    store.put("last", 1)
    await store.close()
    again = open_store(tmp_path)
    assert [again.get(f"k{number}", int) for number in range(3)] == [198, 199, 197]
    assert again.get("last", int) == 1
    await again.close()


WRITER = """
import asyncio, sys
from pathlib import Path
from manor_devices.records import Records
async def main():
    store = Records(Path(sys.argv[1]))
    number = 0
    while True:
        number += 1
        store.put(f"k{number % 50}", number)
        await store.sync()
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
        store = Records(path, run=inline)
        newest = max(store.get(key, int) for key in store.keys("k"))
        assert newest in (last, last + 1)
        await store.close()
        path.unlink()


async def test_records_are_readable_by_nobody_else(tmp_path):
    store = open_store(tmp_path)
    await store.close()
    assert (tmp_path / "records").stat().st_mode & 0o777 == 0o600
