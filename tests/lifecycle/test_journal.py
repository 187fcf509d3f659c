"""What is noted is found again, whatever happened to the end of the file; the log is tested in its room."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from manor_lifecycle.journal import FILE, Journal
from manor_lifecycle.ledger import Numbered, Record


def journal(folder: Path) -> Journal:
    return Journal(folder, durable=False, records=list)


def test_what_was_noted_is_found_again_in_order(tmp_path: Path) -> None:
    noted: list[Record] = [Numbered(uuid="a", generation=n) for n in range(5)]
    first = journal(tmp_path)
    assert first.load() == []
    for record in noted:
        first.append(record)
    asyncio.run(first.close())
    assert journal(tmp_path).load() == noted


def test_a_torn_end_and_a_record_of_another_version_are_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = journal(tmp_path)
    first.load()
    first.append(Numbered(uuid="a", generation=1))
    first._log.append(b'{"r":"nothing-we-know"}')
    first.append(Numbered(uuid="a", generation=2))
    asyncio.run(first.close())
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-3])
    with caplog.at_level(logging.WARNING):
        assert journal(tmp_path).load() == [Numbered(uuid="a", generation=1)]
    assert "damaged" in caplog.text
