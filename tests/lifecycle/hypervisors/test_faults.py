"""What a document or the file of faults says is what happens, as often as it says."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_lifecycle.hypervisors.fake.faults import Faults
from tests.testkit import virtual


async def kind_of(faults: Faults, call: str, told: Mapping[str, object], name: str = "web") -> Kind | None:
    try:
        await faults.obey(call, name, "u1", told)
    except ManorError as error:
        return error.kind
    return None


def test_a_call_that_nothing_is_said_about_goes_well(tmp_path: Path) -> None:
    assert virtual.run(kind_of(Faults(tmp_path), "create", {"pause": "fail"})) is None


@pytest.mark.parametrize(("wish", "kind"), [("fail", Kind.INTERNAL), ("refuse", Kind.DENIED_STATE)])
def test_a_call_fails_as_it_was_told(tmp_path: Path, wish: str, kind: Kind) -> None:
    assert virtual.run(kind_of(Faults(tmp_path), "create", {"create": wish})) is kind


def test_a_call_fails_only_so_many_times(tmp_path: Path) -> None:
    async def scenario() -> None:
        faults, told = Faults(tmp_path), {"create": {"do": "fail", "times": 2}}
        outcomes = [await kind_of(faults, "create", told) for _ in range(3)]
        assert outcomes == [Kind.INTERNAL, Kind.INTERNAL, None]

    virtual.run(scenario())


def test_a_call_takes_as_long_as_it_was_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        before = loop.time()
        await Faults(tmp_path).obey("create", "web", "u1", {"create": {"wait_s": 2}})
        assert loop.time() - before == pytest.approx(2)

    virtual.run(scenario())


def test_a_hanging_call_lasts_until_it_is_cancelled(tmp_path: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await Faults(tmp_path).obey("create", "web", "u1", {"create": "hang"})

    virtual.run(scenario())


def test_the_process_ends_only_where_it_was_allowed_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    told = {"create": "exit"}
    virtual.run(kind_of(Faults(tmp_path), "create", told))
    assert ended == []
    virtual.run(kind_of(Faults(tmp_path, exits=True), "create", told))
    assert ended == [9]


def test_the_file_comes_before_the_document_and_a_name_before_all(tmp_path: Path) -> None:
    (tmp_path / "faults.json").write_text('{"*": {"create": "refuse"}, "web": {"create": "fail"}}')
    faults, told = Faults(tmp_path), {"create": "hang", "pause": "fail"}
    assert faults.wish("create", "web", told) == "fail"
    assert faults.wish("create", "db", told) == "refuse"
    assert faults.wish("pause", "db", told) == "fail"


def test_a_changed_file_is_read_again_and_a_removed_one_forgotten(tmp_path: Path) -> None:
    file, faults = tmp_path / "faults.json", Faults(tmp_path)
    for number, wish in enumerate(("fail", "refuse")):
        file.write_text(f'{{"web": {{"create": "{wish}"}}}}')
        os.utime(file, (number + 1, number + 1))
        assert faults.wish("create", "web", {}) == wish
    file.unlink()
    assert faults.wish("create", "web", {}) is None


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "faults.json").write_text("{")
    with pytest.raises(ManorError, match=r"faults\.json cannot be read") as refused:
        Faults(tmp_path).wish("create", "web", {})
    assert refused.value.kind is Kind.BAD_REQUEST
