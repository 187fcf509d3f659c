from __future__ import annotations

import os
from pathlib import Path

import pytest

from manor_lifecycle.hypervisors.qemu.lending import in_memory, lend


def content(descriptor: int) -> bytes:
    with open(f"/dev/fd/{descriptor}", "rb") as file:
        found = file.read()
    os.close(descriptor)
    return found


def test_a_file_in_memory_can_be_opened_by_its_number() -> None:
    assert content(in_memory("probe", b"code")) == b"code"


def test_a_file_that_everybody_may_read_is_lent_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(b"bits")
    path.chmod(0o644)
    descriptor = lend(path, copy=True)
    assert os.fstat(descriptor).st_ino == path.stat().st_ino
    assert content(descriptor) == b"bits"


def test_a_private_file_is_lent_as_a_copy(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(b"bits" * 100_000)
    path.chmod(0o600)
    descriptor = lend(path, copy=True)
    assert os.fstat(descriptor).st_ino != path.stat().st_ino
    assert content(descriptor) == b"bits" * 100_000


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        lend(tmp_path / "none", copy=True)


def test_what_would_never_end_or_never_begin_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/proc/kmsg"), Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match=str(path)):
            lend(path, copy=True)


def test_a_private_file_for_our_own_user_is_lent_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(b"bits")
    path.chmod(0o600)
    descriptor = lend(path, copy=False)
    assert os.fstat(descriptor).st_ino == path.stat().st_ino
    assert content(descriptor) == b"bits"
