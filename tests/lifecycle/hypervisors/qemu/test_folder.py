from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.consoles import LastRun
from manor_bus.wire.messages.documents import DomainSpec
from manor_lifecycle.hypervisors.qemu import folder
from manor_lifecycle.hypervisors.qemu.record import Record
from manor_lifecycle.hypervisors.seen import EndReason

RECORD = Record(
    uuid="u1", name="web", incarnation=1, spec=DomainSpec(), uid=0, machine="pc-q35-7.2", accelerator="tcg",
    cpus=1, memory_mib=64, slots=3, created=1.0,
)  # fmt: skip


@pytest.mark.parametrize("durable", [True, False])
def test_a_record_is_read_back(tmp_path: Path, durable: bool) -> None:
    folder.write_record(tmp_path, RECORD, durable=durable)
    assert folder.read_record(tmp_path) == RECORD
    assert [path.name for path in tmp_path.iterdir()] == [folder.RECORD]


@pytest.mark.parametrize("content", [b"", b"{", b'{"uuid": 1}'])
def test_a_record_that_cannot_be_read_is_damaged_not_absent(tmp_path: Path, content: bytes) -> None:
    assert folder.read_record(tmp_path) is None
    (tmp_path / folder.RECORD).write_bytes(content)
    with pytest.raises(folder.Damaged, match=folder.RECORD):
        folder.read_record(tmp_path)


def test_a_number_is_noted_before_its_run_and_never_given_again(tmp_path: Path) -> None:
    notes = folder.Notes(tmp_path, durable=True)
    notes.begin("u1", 3)
    again = folder.Notes(tmp_path, durable=True)
    again.read(tmp_path / "u1")
    for number in (2, 3):
        with pytest.raises(ManorError) as refused:
            again.begin("u1", number)
        assert refused.value.kind is Kind.STALE
    again.end("u1", 3, EndReason.CRASH, "panic")
    third = folder.Notes(tmp_path, durable=True)
    third.read(tmp_path / "u1")
    assert third.known["u1"] == folder.Note(3, EndReason.CRASH, "panic")


@pytest.mark.parametrize(
    ("number", "kind", "hint"),
    [
        (errno.ENOSPC, Kind.NO_CAPACITY, "Free space"),
        (errno.EDQUOT, Kind.NO_CAPACITY, "quota"),
        (errno.EROFS, Kind.UNAVAILABLE, "read-only"),
        (errno.EIO, Kind.UNAVAILABLE, "disk fails"),
    ],
)
def test_what_cannot_be_written_has_the_hint_of_its_cause(number: int, kind: Kind, hint: str) -> None:
    error = folder.unwritable(Path("/x"), OSError(number, os.strerror(number)))
    assert error.kind is kind
    assert hint in (error.hint or "")


def test_the_variables_of_the_firmware_outlive_the_run(tmp_path: Path) -> None:
    template = tmp_path / "template"
    template.write_bytes(b"fresh")
    room = tmp_path / "u1"
    room.mkdir()
    descriptor = folder.variables(room, str(template))
    os.write(descriptor, b"saved")
    os.close(descriptor)
    folder.write_record(room, RECORD, durable=False)
    folder.empty(room)
    assert [path.name for path in room.iterdir()] == [folder.VARIABLES]
    again = folder.variables(room, str(template))
    assert os.read(again, 10) == b"saved"
    os.close(again)


def test_what_a_run_said_last_is_kept_until_the_next_has_ended(tmp_path: Path) -> None:
    for said in (b"x" * (1 << 20) + b"first", b"second"):
        (tmp_path / folder.CONSOLE_LOG).write_bytes(said)
        folder.write_record(tmp_path, RECORD, durable=False)
        folder.empty(tmp_path)
        last = folder.last_run(tmp_path, over=False)
        assert last is not None
        assert last.console.endswith(said[-5:])
        assert len(last.console) <= folder.LAST_KEPT
        assert last.log == b""
    assert [(one.kind, one.size) for one in folder.leftovers(tmp_path)] == [("console", 6)]


def test_what_is_kept_of_a_run_that_ended_is_its_own_words(tmp_path: Path) -> None:
    assert folder.last_run(tmp_path, over=True) is None
    for said in (b"first", b"second"):
        folder.keep_words(tmp_path)
        (tmp_path / folder.CONSOLE_LOG).write_bytes(said)
    assert folder.last_run(tmp_path, over=True) == LastRun(console=b"second", log=b"")
    assert folder.last_run(tmp_path, over=False) == LastRun(console=b"first", log=b"")


def test_last_words_are_the_end_of_the_log_and_bounded(tmp_path: Path) -> None:
    assert folder.last_words(tmp_path) == ""
    (tmp_path / folder.QEMU_LOG).write_bytes(b"x" * 10_000 + b"\xff the end\n")
    words = folder.last_words(tmp_path)
    assert words.endswith("the end")
    assert len(words) <= folder.TAIL


def test_logs_are_bounded_and_offsets_in_the_console_stay(tmp_path: Path) -> None:
    console, qemu = tmp_path / folder.CONSOLE_LOG, tmp_path / folder.QEMU_LOG
    size = folder.CONSOLE_LOG_KEPT + (8 << 20)
    console.write_bytes(b"a" * (size - 4) + b"last")
    qemu.write_bytes(b"x" * (folder.QEMU_LOG_MAX + 1))
    folder.trim_logs(tmp_path)
    assert console.stat().st_size == size
    assert console.read_bytes().endswith(b"last")
    assert qemu.stat().st_size == 0
    if console.read_bytes()[:1] == b"\0":  # the file system has holes
        assert console.stat().st_blocks * 512 < size
