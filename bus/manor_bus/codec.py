"""The one home of MessagePack: typed structs to bytes and back, and the structural check of foreign bytes.

Decoding validates types in the same pass. `check` refuses what the decoder would let through: duplicate
keys (both common decoders keep the last one, so two readers could disagree), deep nesting, extension
types, keys that are not strings, too many elements. Source: design page "The bus", section Message.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, TypeVar

import msgspec

from manor_bus.errors import Problem, bad_request

T = TypeVar("T")

FRAME_BYTES_MAX: Final = 1_048_576 + 1_024  # data of 1 MiB and an envelope around it
DEPTH_MAX: Final = 16  # the deepest message of ours, a snapshot of domain facts, needs 10
ELEMENTS_MAX: Final = 200_000

_encoder: Final = msgspec.msgpack.Encoder()
_as_map: Final = msgspec.msgpack.Decoder(dict[str, msgspec.Raw]).decode
_as_list: Final = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
NIL: Final = msgspec.Raw(b"\xc0")


class Malformed(Exception):
    """Bytes that are not a message: the reason, never the bytes themselves."""


def encode(message: object) -> bytes:
    """Encode a struct, or plain values, as MessagePack."""
    return _encoder.encode(message)


@lru_cache(maxsize=512)
def _decoder(wanted: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(wanted)


def decode(untrusted: bytes | msgspec.Raw, wanted: type[T]) -> T:
    """Decode and validate in one pass; whatever is wrong becomes one `bad_request` naming the path."""
    try:
        value: T = _decoder(wanted).decode(untrusted)  # type: ignore[arg-type]
    except msgspec.ValidationError as error:
        raise _refused(error) from None
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
        problem = Problem(path="", reason=f"not MessagePack: {type(error).__name__}")
        raise bad_request("the body cannot be decoded", problem) from None
    return value


def _refused(error: msgspec.ValidationError) -> Exception:
    reason, _, path = str(error).partition(" - at `$")
    problem = Problem(path=path.rstrip("`").lstrip("."), reason=reason)
    return bad_request(f"the body is invalid: {reason}", problem)


def check(untrusted: bytes | msgspec.Raw) -> None:
    """Walk the structure of one encoded value; raise Malformed with the reason when it breaks a rule."""
    try:
        _walk(untrusted, DEPTH_MAX, ELEMENTS_MAX)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
        reason = str(error) if isinstance(error, msgspec.MsgspecError) else type(error).__name__
        raise Malformed(reason) from None


def _walk(value: bytes | msgspec.Raw, depth: int, left: int) -> int:
    """Return how many elements may still follow."""
    view = memoryview(value)
    first = view[0] if len(view) else 0xC1
    if 0x80 <= first <= 0x8F or first in (0xDE, 0xDF):
        children = _as_map(value)
        announced = first & 0x0F if first <= 0x8F else int.from_bytes(view[1 : 3 if first == 0xDE else 5])
        if len(children) != announced:
            raise Malformed("a key stands twice in one map")
        return _descend(children.values(), depth, left)
    if 0x90 <= first <= 0x9F or first in (0xDC, 0xDD):
        return _descend(_as_list(value), depth, left)
    if first in _EXTENSIONS:
        raise Malformed("extension types are not used here")
    return left


_EXTENSIONS: Final = frozenset((0xC1, 0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8))
_NESTED: Final = frozenset((*range(0x80, 0xA0), *range(0xDC, 0xE0))) | _EXTENSIONS


def _descend(children: Any, depth: int, left: int) -> int:
    if depth == 0:
        reason = f"nested deeper than {DEPTH_MAX}"
        raise Malformed(reason)
    left -= len(children)
    if left < 0:
        reason = f"more than {ELEMENTS_MAX} elements"
        raise Malformed(reason)
    for child in children:
        if memoryview(child)[0] in _NESTED:
            left = _walk(child, depth - 1, left)
    return left


class Body:
    """An encoded body that is decoded when its type is known."""

    __slots__ = ("raw",)

    def __init__(self, raw: msgspec.Raw) -> None:
        self.raw = raw

    def read(self, wanted: type[T]) -> T:
        """Decode it as `wanted`."""
        return decode(self.raw, wanted)
