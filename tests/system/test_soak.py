"""The short form of `make soak`, and that it sees what grows."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.system.nodes import node
from tests.system.soak import BOUNDS, PER_CYCLE, Size, growth, soak

CYCLES = 30
SIZE = Size(processes=6, descriptors=100, kib=200_000, files=40, written=1_000_000)


@pytest.mark.system
def test_many_domains_and_kills_leave_nothing_behind() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="manor") as folder,  # where the users of domains may pass
        node(Path(folder), "--hypervisor", "fake") as running,
    ):
        before, after = soak(running, CYCLES, kill_every=5)
    assert growth(before, after, CYCLES) == []


@pytest.mark.parametrize("what", ["processes", "descriptors", "kib", "files", "written"])
def test_growth_of_anything_is_seen(what: str) -> None:
    allowed = getattr(BOUNDS, what) + (PER_CYCLE * 10 if what == "written" else 0)
    at_the_bound = replace(SIZE, **{what: getattr(SIZE, what) + allowed})
    assert growth(SIZE, at_the_bound, 10) == []
    (told,) = growth(SIZE, replace(at_the_bound, **{what: getattr(at_the_bound, what) + 1}), 10)
    assert told.startswith(what)
