"""Recordings of the bus: one MessagePack stream, which any MessagePack library reads piece by piece.

Each piece is [seconds since the begin, verified sender, the envelope's bytes]. What a broken recorder left
half written at the end is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import msgpack

from manor_bus.wire.codec import FRAME_BYTES_MAX
from manor_bus.wire.errors import Problem, bad_request

PIECE_BYTES_MAX: Final = 2 * FRAME_BYTES_MAX


class Recorded(NamedTuple):
    """One message as it passed."""

    at: float
    sender: str
    envelope: bytes


def write(file: BinaryIO, recorded: Recorded) -> None:
    """Add one message."""
    file.write(msgpack.packb(recorded))


def read(path: Path) -> Iterator[Recorded]:
    """Yield what was recorded; `bad_request` with the number of the first piece that is none."""
    with path.open("rb") as file:
        pieces = msgpack.Unpacker(file, max_buffer_size=PIECE_BYTES_MAX)
        whole = 0
        try:
            for piece in pieces:
                yield _checked(piece)
                whole += 1
        except (ValueError, msgpack.UnpackException) as error:
            problem = Problem(path=f"{path}:{whole + 1}", reason=str(error) or type(error).__name__)
            raise bad_request(f"{path} is not a recording", problem) from None


def _checked(piece: object) -> Recorded:
    match piece:
        case [float() | int() as at, str() as sender, bytes() as envelope]:
            return Recorded(at, sender, envelope)
        case _:
            raise ValueError("not [seconds, sender, envelope]")
