"""Recordings of the bus: what passed, byte for byte, and when.

A file is the magic, then entries: u32 length, f64 seconds since the recording began, and that many bytes, all
big-endian. The first entry is the header (MessagePack), every further one a frame as the broker sent it
(`RawDown`: verified senders, and each envelope exactly as its sender wrote it). A file that was cut off ends
with its last whole entry.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from manor_bus.wire import codec
from manor_bus.wire.envelope import RawDown
from manor_bus.wire.errors import bad_request
from manor_bus.wire.messages import Message

VERSION: Final = 1
ENTRY_BYTES_MAX: Final = 64 * codec.FRAME_BYTES_MAX  # a batch of events may be larger than one message
_MAGIC: Final = b"manor-recording\n"
_HEAD: Final = struct.Struct(">Id")


class Header(Message, frozen=True, kw_only=True):
    """What a recording says about itself."""

    version: int = VERSION
    began: float = 0.0  # seconds since 1970
    recorder: str = ""  # the address of who recorded
    pattern: str = ""


@dataclass(frozen=True)
class Entry:
    """One frame, `at` seconds after the recording began."""

    at: float
    frame: RawDown


def begin(file: BinaryIO, header: Header) -> None:
    """Write what stands before the first frame."""
    file.write(_MAGIC)
    write(file, 0.0, codec.encode(header))


def write(file: BinaryIO, at: float, frame: bytes) -> None:
    """Write one frame."""
    file.write(_HEAD.pack(len(frame), at) + frame)


def read(file: BinaryIO) -> tuple[Header, Iterator[Entry]]:
    """Return the header, and the frames as they are read; raises ManorError for what is no recording."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise bad_request("this is not a recording of the bus", hint="Make one: manor bus record FILE")
    first = next(_entries(file), None)
    if first is None:
        raise bad_request("the recording has no header")
    header = codec.decode(first[1], Header)
    if header.version != VERSION:
        raise bad_request(f"this recording has version {header.version}, known is {VERSION}")
    return header, (Entry(at, codec.decode(frame, RawDown)) for at, frame in _entries(file))


def _entries(file: BinaryIO) -> Iterator[tuple[float, bytes]]:
    while len(head := file.read(_HEAD.size)) == _HEAD.size:
        length, at = _HEAD.unpack(head)
        if length > ENTRY_BYTES_MAX:
            raise bad_request(f"the recording is damaged: an entry of {length} bytes")
        frame = file.read(length)
        if len(frame) < length:
            return
        yield at, frame
