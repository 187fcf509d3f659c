from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from manor_bus.wire import codec
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.config import PIECE_BYTES, Restore
from manor_config.uploads import Upload, pieces


def piece(offset: int, content: bytes, **more: Any) -> Restore:
    return Restore(**{"upload": "u1", "offset": offset, "content": content, **more})


def refused(upload: Upload, request: Restore) -> ManorError:
    with pytest.raises(ManorError) as refusal:
        upload.add(request)
    return refusal.value


def test_pieces_join_to_the_file_and_may_come_twice(tmp_path: Path) -> None:
    upload = Upload(tmp_path / "made" / "part")
    for request in (piece(0, b"abc"), piece(3, b"def"), piece(3, b"def"), piece(0, b"abc"), piece(6, b"")):
        upload.add(request)
    assert upload.path.read_bytes() == b"abcdef"
    assert upload.size == 6
    upload.check(hashlib.sha256(b"abcdef").hexdigest())


def test_a_gap_or_a_stranger_is_refused(tmp_path: Path) -> None:
    upload = Upload(tmp_path / "part")
    upload.add(piece(0, b"abc"))
    assert refused(upload, piece(4, b"e")).kind is Kind.CONFLICT
    assert refused(upload, piece(3, b"d", upload="u2")).kind is Kind.CONFLICT


def test_a_new_upload_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    upload = Upload(tmp_path / "part")
    upload.add(piece(0, b"abc"))
    upload.add(piece(0, b"x", upload="u2"))
    assert upload.path.read_bytes() == b"x"
    assert refused(upload, piece(3, b"d")).kind is Kind.CONFLICT


def test_what_arrived_differently_is_refused_and_forgotten(tmp_path: Path) -> None:
    upload = Upload(tmp_path / "part")
    upload.add(piece(0, b"abc"))
    with pytest.raises(ManorError, match="not arrive as it was sent"):
        upload.check("0" * 64)
    assert not upload.path.exists()
    assert refused(upload, piece(3, b"d")).kind is Kind.CONFLICT


def test_limits_are_named(tmp_path: Path) -> None:
    upload = Upload(tmp_path / "part")
    for request in (piece(0, b"", upload="../x"), piece(0, b"", upload="")):
        error = refused(upload, request)
        assert (error.kind, error.problems[0].path) == (Kind.BAD_REQUEST, "upload")
    assert not upload.path.exists()
    for request, path in (
        (piece(0, bytes(PIECE_BYTES + 1)), "content"),
        (piece(4 * 1024**3 + 1, b""), "offset"),
        (piece(-1, b""), "offset"),
    ):
        with pytest.raises(ManorError) as refusal:
            codec.decode(msgspec.Raw(codec.encode(request)), Restore)
        assert refusal.value.problems[0].path == path


def test_a_file_goes_out_in_pieces(tmp_path: Path) -> None:
    content = bytes(range(256)) * 3000
    (tmp_path / "f").write_bytes(content)
    found = list(pieces(tmp_path / "f"))
    assert [len(one) for one in found] == [PIECE_BYTES, len(content) - PIECE_BYTES]
    assert b"".join(found) == content
