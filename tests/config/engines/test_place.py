from __future__ import annotations

import stat
from pathlib import Path

from manor_config.engines.place import Place


def test_the_folder_is_closed_to_others(tmp_path: Path) -> None:
    place = Place(tmp_path / "a" / "config")
    place.close_to_others()
    assert stat.S_IMODE(place.directory.stat().st_mode) == 0o700


def test_a_damaged_store_is_moved_with_its_log_and_nothing_is_overwritten(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for round_ in (1, 2):
        place.file.write_bytes(b"bad %d" % round_)
        place.file.with_name("config.db-wal").write_bytes(b"log %d" % round_)
        said = place.put_aside("a page is torn")
        assert "a page is torn" in said
        assert f"config.db.damaged-{round_}" in said
        assert (tmp_path / f"config.db.damaged-{round_}").read_bytes() == b"bad %d" % round_
        assert (tmp_path / f"config.db.damaged-{round_}-wal").read_bytes() == b"log %d" % round_
        assert place.damage() == said
    place.sound()
    assert place.damage() == ""


def test_a_sign_beside_a_store_means_the_crash_of_a_repair(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.put_aside("torn")
    place.unfinished.write_bytes(b"good")
    place.finished()
    assert place.damage() == ""
