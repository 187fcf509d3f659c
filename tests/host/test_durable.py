from __future__ import annotations

import errno
import os

import pytest

from manor_host import durable
from manor_host.durable import Log


def log(path, useful=list, **options):
    return Log(path, lambda: useful() if callable(useful) else useful, **options)


async def written(path, *bodies):
    one = log(path)
    one.load()
    for body in bodies:
        one.append(body)
    await one.commit()
    await one.close()


async def test_what_was_committed_is_there_in_its_order(tmp_path):
    await written(tmp_path / "log", b"one", b"two")
    await written(tmp_path / "log", b"three")
    assert log(tmp_path / "log").load() == durable.Loaded((b"one", b"two", b"three"))


async def test_cut_at_any_byte_every_whole_record_is_there_and_the_next_one_is_readable(tmp_path):
    await written(tmp_path / "log", b"first", b"second", b"third")
    content = (tmp_path / "log").read_bytes()
    ends = [0]
    for body in (b"first", b"second", b"third"):
        ends.append(ends[-1] + len(durable.line(body)))
    for cut in range(len(content) + 1):
        (tmp_path / "log").write_bytes(content[:cut])
        whole = sum(end <= cut for end in ends) - 1
        one = log(tmp_path / "log")
        loaded = one.load()
        assert loaded.records == (b"first", b"second", b"third")[:whole]
        assert loaded.torn == cut - ends[whole]
        one.append(b"next")
        await one.commit()
        await one.close()
        assert log(tmp_path / "log").load() == durable.Loaded((*loaded.records, b"next"))


async def test_a_damaged_line_is_told_by_its_number_and_harms_no_other(tmp_path):
    await written(tmp_path / "log", b"first", b"second", b"third")
    content = (tmp_path / "log").read_bytes()
    (tmp_path / "log").write_bytes(content.replace(b"second", b"secoNd"))
    assert log(tmp_path / "log").load() == durable.Loaded((b"first", b"third"), damaged=(2,))


def fill(monkeypatch, reserve):
    """A disk that is full until the reserve is given up (or for ever, without one)."""
    write = os.write

    def full(descriptor, content):
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if name.endswith("/log") and (reserve is None or reserve.exists()):
            write(descriptor, bytes(content[:3]))  # as much as there was room for
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, content)

    monkeypatch.setattr(os, "write", full)


async def test_on_a_full_disk_the_reserve_is_given_up_and_what_frees_space_is_noted(tmp_path, monkeypatch):
    one = log(tmp_path / "log")
    one.load()
    fill(monkeypatch, tmp_path / "log.reserve")
    one.append(b"a volume is deleted")
    await one.commit()
    await one.close()
    assert log(tmp_path / "log").load().records == (b"a volume is deleted",)


async def test_without_a_reserve_a_full_disk_is_told_and_nothing_is_forgotten_or_torn(tmp_path, monkeypatch):
    one = log(tmp_path / "log")
    one.load()
    with monkeypatch.context() as patch:
        fill(patch, None)
        one.append(b"one")
        with pytest.raises(OSError, match="No space left"):
            await one.commit()
    assert (tmp_path / "log").read_bytes() == b""
    one.append(b"two")
    await one.commit()
    await one.close()
    assert log(tmp_path / "log").load() == durable.Loaded((b"one", b"two"))


async def test_commits_of_one_moment_share_a_sync(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    one = log(tmp_path / "log")
    one.load()
    for number in range(50):
        one.append(b"%d" % number)
    await one.commit()
    await one.close()
    assert len(synced) <= 2
    assert len(log(tmp_path / "log").load().records) == 50


async def test_what_is_of_no_use_any_more_goes_also_when_the_service_restarts_often(tmp_path, monkeypatch):
    monkeypatch.setattr(durable, "COMPACT_BYTES_MIN", 1_000)
    for start in range(100):
        useful = [b"the last one"]
        one = log(tmp_path / "log", useful)
        one.load()
        for _ in range(5):
            useful[0] = b"%06d" % start
            one.append(useful[0])
        await one.commit()
        await one.close()
    assert (tmp_path / "log").stat().st_size < 2_000
    assert log(tmp_path / "log").load().records[-1] == b"000099"


async def test_what_is_useful_is_never_lost_by_writing_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(durable, "COMPACT_BYTES_MIN", 500)
    kept = {}
    one = log(tmp_path / "log", lambda: [b"%d" % key for key in kept])
    one.load()
    for number in range(1_000):
        kept[number] = None
        kept.pop(number - 3, None)
        one.append(b"%d" % number)
        if number % 7 == 0:
            await one.commit()
    await one.close()
    records = log(tmp_path / "log").load().records
    assert [record for record in (b"997", b"998", b"999") if record not in records] == []


async def test_without_durability_it_is_written_at_once_and_by_no_thread(tmp_path):
    async def never(work):
        raise AssertionError("a thread")

    one = log(tmp_path / "log", durable=False, run=never)
    one.load()
    one.append(b"one")
    assert (tmp_path / "log").read_bytes() == durable.line(b"one")
    await one.close()


def test_a_small_file_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    durable.replace(tmp_path / "name", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")))
        with pytest.raises(OSError, match="I/O"):
            durable.replace(tmp_path / "name", b"new")
    assert durable.read(tmp_path / "name") == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["name"]
    durable.replace(tmp_path / "name", b"new", 0o644)
    assert durable.read(tmp_path / "name") == b"new"
    assert (tmp_path / "name").stat().st_mode & 0o777 == 0o644


def test_absent_and_empty_are_two_answers(tmp_path):
    assert durable.read(tmp_path / "name") is None
    (tmp_path / "name").touch()
    assert durable.read(tmp_path / "name") == b""
