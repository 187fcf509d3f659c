from __future__ import annotations

import re

from manor_host import clock


def test_the_boot_id_is_the_same_until_the_next_boot() -> None:
    assert re.fullmatch(r"[0-9a-f-]{36}", clock.boot_id())
    assert clock.boot_id() == clock.boot_id()


def test_memory_is_told_in_kib() -> None:
    before = clock.resident_kib()
    ballast = bytearray(64 * 1024 * 1024)
    ballast[::4096] = b"x" * len(ballast[::4096])
    assert clock.resident_kib() - before > 48 * 1024
    assert ballast
