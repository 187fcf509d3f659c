"""The one frame of every message, and what the broker puts around it on the way down. Pure.

Up: one MessagePack map (`Envelope`). Down: one array `[sid, n, [[from, envelope], …], superseded?]` in which
each envelope is, byte for byte, what its sender wrote and `from` is the identity the broker verified.
sid 0 carries calls and replies; for a call n is its deadline in milliseconds of the node's monotonic clock.
For a subscription n is the number of the first item; `superseded` counts events that newer ones replaced.
Several messages that wait may go as one frame `[0, [message, …]]`, both up and down, to who said that it can.
The byte-level description for other languages is docs/wire.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Final

import msgspec

from manor_bus.wire import codec
from manor_bus.wire.errors import ErrorBody


class Kind(IntEnum):
    """Kinds of envelopes. The numbers are frozen for ever; 16 to 31 are kept for channel frames."""

    HELLO = 1
    WELCOME = 2
    REQ = 3
    PART = 4
    REP = 5
    CANCEL = 6
    PUB = 7
    SUB = 8
    UNSUB = 9
    CREDIT = 10
    PING = 11
    DRAIN = 12
    RESET = 13


class Envelope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message. Names are CloudEvents attribute names where one exists; unknown keys are ignored."""

    k: int
    id: str = ""
    to: str = ""
    type: str = ""
    source: str = ""
    subject: str = ""
    time: float = 0.0  # seconds since 1970
    timeout: int = 0  # remaining budget in ms
    deadline: int = 0  # the same as ms of the monotonic clock, if the broker shares the sender's (boot_id)
    idempotencykey: str = ""
    re: str = ""
    last: bool = False
    epoch: str = ""
    rev: int = 0
    err: ErrorBody | None = None
    traceparent: str = ""
    tracestate: str = ""
    correlationid: str = ""
    causationid: str = ""
    on_behalf_of: str = ""  # of a REQ: the address of the caller a service acts for; the broker checks it
    data: msgspec.Raw = codec.NIL


_AROUND: Final = b"\x91" * 400  # arrays in each other


def read(untrusted: bytes) -> Envelope:
    """Decode a peer's frame, its body untouched: who reads that checks it.

    What a reader could not skip over, which sees it in a frame of the broker and may have less stack left,
    is refused here. Raises ManorError or codec.Malformed with the reason.
    """
    wire = codec.decode(untrusted, Envelope)
    if len(untrusted) > len(_AROUND):  # what is shorter is not nested so deep
        codec.decode(_AROUND + untrusted, tuple[msgspec.Raw])
    if codec.encode(wire) == untrusted:  # as our library writes it: no key stands twice, none is unknown
        return wire
    codec.fields(untrusted)
    return wire


class Item(msgspec.Struct, frozen=True, array_like=True):
    """One message on the way down, with its verified sender."""

    sender: str
    envelope: Envelope


class Down(msgspec.Struct, frozen=True, array_like=True):
    """One frame from the broker."""

    sid: int
    n: int
    items: tuple[Item, ...]
    superseded: int = 0


BATCH_BYTES_MAX: Final = 262_144  # what is larger alone goes alone
BATCH_MAX: Final = 64
_ARRAYS: Final = frozenset((*range(0x90, 0xA0), 0xDC, 0xDD))


def is_batch(frame: bytes) -> bool:
    """Whether a frame on the way up is a batch of messages (a message is a map)."""
    return frame[:1] != b"" and frame[0] in _ARRAYS


def unbatch(untrusted: bytes) -> list[bytes]:
    """Return the messages of a batch on the way up; raises ManorError or codec.Malformed with the reason."""
    zero, messages = codec.decode(untrusted, tuple[int, list[msgspec.Raw]])
    if zero != 0 or len(messages) > BATCH_MAX:
        raise codec.Malformed(f"a batch is [0, at most {BATCH_MAX} messages]")
    return [bytes(message) for message in messages]


def batches(frames: Sequence[bytes]) -> Iterator[bytes]:
    """Put messages into as few frames as may be, in their order."""
    together: list[bytes] = []
    size = 0
    for frame in frames:
        if together and (len(together) == BATCH_MAX or size + len(frame) > BATCH_BYTES_MAX):
            yield _together(together)
            together, size = [], 0
        together.append(frame)
        size += len(frame)
    if together:
        yield _together(together)


def _together(frames: list[bytes]) -> bytes:
    return frames[0] if len(frames) == 1 else b"\x92\x00" + array_header(len(frames)) + b"".join(frames)


def pack_text(text: str) -> bytes:
    """Encode one string."""
    return codec.encode(text)


def item(packed_sender: bytes, envelope: bytes) -> bytes:
    """Put a sender before the bytes it sent."""
    return b"\x92" + packed_sender + envelope


def single(packed_sender: bytes, envelope: bytes, deadline_ms: int = 0) -> bytes:
    """Build the down frame of one call or reply."""
    if deadline_ms == 0:
        return b"\x93\x00\x00\x91\x92" + packed_sender + envelope
    return b"\x93\x00\xcf" + deadline_ms.to_bytes(8) + b"\x91\x92" + packed_sender + envelope


def array_header(count: int) -> bytes:
    """Encode the head of an array of `count` elements."""
    if count < 16:
        return bytes((0x90 | count,))
    return b"\xdc" + count.to_bytes(2) if count < 65_536 else b"\xdd" + count.to_bytes(4)


def batch(sid: int, n: int, tail: bytes, superseded: int = 0) -> bytes:
    """Build the down frame of a subscription from a shared tail (array header and items)."""
    head = codec.encode(sid) + codec.encode(n)
    if superseded == 0:
        return b"\x93" + head + tail
    return b"\x94" + head + tail + codec.encode(superseded)
