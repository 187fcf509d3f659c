"""The one home of MessagePack: typed structs to bytes and back, and the structural check of foreign bytes.

Decoding validates types in the same pass. `check` refuses what the decoder would let through: duplicate
keys (both common decoders keep the last one, so two readers could disagree), deep nesting, extension
types, keys that are not strings, too many elements. Source: design page "The bus", section Message.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from functools import lru_cache
from typing import Any, Final, TypeVar, get_args, get_type_hints

import msgspec

from manor_bus.wire.errors import Problem, bad_request

T = TypeVar("T")

FRAME_BYTES_MAX: Final = 1_048_576 + 1_024  # data of 1 MiB and an envelope around it
DEPTH_MAX: Final = 16  # the deepest message of ours, a snapshot of domain facts, needs 10
ELEMENTS_MAX: Final = 200_000

_encoder: Final = msgspec.msgpack.Encoder()
_as_map: Final = msgspec.msgpack.Decoder(dict[str, msgspec.Raw]).decode
_as_list: Final = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_as_any: Final = msgspec.msgpack.Decoder().decode
_SCALARS: Final = frozenset((str, bytes, int, float, bool, type(None)))
_TEXT: Final = frozenset((str,))
_MAPS: Final = frozenset((*range(0x80, 0x90), 0xDE, 0xDF))
_ARRAYS: Final = frozenset((*range(0x90, 0xA0), 0xDC, 0xDD))
_TWICE: Final = "a key stands twice in one map"
_DEEP: Final = f"nested deeper than {DEPTH_MAX}"
NIL: Final = msgspec.Raw(b"\xc0")
_EMPTY: Final = msgspec.Raw(b"\x80")


class Malformed(Exception):
    """Bytes that are not a message: the reason, never the bytes themselves."""


def encode(message: object) -> bytes:
    """Encode a struct, or plain values, as MessagePack; what it cannot hold becomes one `bad_request`."""
    try:
        return _encoder.encode(message)
    except UnicodeEncodeError:
        reason = "holds half of a character (a lone surrogate)"
    except OverflowError:
        reason = "holds a number beyond 64 bits"
    except (TypeError, ValueError, RecursionError) as error:
        reason = f"cannot be encoded: {error}"
    raise bad_request("the body cannot be sent", Problem(path="", reason=reason))


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


def read_body(untrusted: msgspec.Raw, wanted: type[T]) -> T:
    """Decode any body (nothing at all is an empty one), and refuse also what `check` refuses."""
    body = _EMPTY if untrusted == NIL else untrusted
    value = decode(body, wanted)
    # As our encoder writes it, no key stands twice and nothing is unknown.
    if _open(wanted) or _encoder.encode(value) != bytes(body):  # type: ignore[arg-type]
        try:
            check(body, DEPTH_MAX - 1)
        except Malformed as error:
            raise bad_request(f"the body is not well-formed: {error}") from None
    return value


@lru_cache(maxsize=512)
def _open(wanted: Hashable) -> bool:
    """Whether a type holds plain values somewhere, which may be anything."""
    if wanted is Any or wanted is object:
        return True
    if isinstance(wanted, type) and issubclass(wanted, msgspec.Struct):
        return any(map(_open, get_type_hints(wanted).values()))
    return any(map(_open, get_args(wanted)))


def _refused(error: msgspec.ValidationError) -> Exception:
    reason, _, path = str(error).partition(" - at `$")
    problem = Problem(path=path.rstrip("`").lstrip("."), reason=reason)
    return bad_request(f"the body is invalid: {reason}", problem)


def check(untrusted: bytes | msgspec.Raw, depth: int = DEPTH_MAX) -> None:
    """Look through one encoded value; raise Malformed with the reason when it breaks a rule."""
    try:
        value = _as_any(untrusted)
        _walk(value, depth, ELEMENTS_MAX)
        if _encoder.encode(value) != bytes(untrusted):  # not as we write it, or less than was there
            _compare_counts(untrusted)
    except RecursionError:
        raise Malformed(_DEEP) from None
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError) as error:
        reason = str(error) if isinstance(error, msgspec.MsgspecError) else type(error).__name__
        raise Malformed(reason) from None


def fields(untrusted: bytes) -> dict[str, msgspec.Raw]:
    """Return the values of one encoded map, undecoded; raise Malformed when a key stands twice."""
    try:
        children = _as_map(untrusted)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Malformed(str(error)) from None
    if len(children) != _announced(memoryview(untrusted)):
        raise Malformed(_TWICE)
    return children


def _announced(view: memoryview) -> int:
    """Return how many elements an array or map says it has."""
    first = view[0]
    if first < 0xA0:
        return first & 0x0F
    return int.from_bytes(view[1:3] if first in (0xDC, 0xDE) else view[1:5])


def _walk(value: Any, depth: int, left: int) -> int:
    """Look through a decoded value that may have `left` elements; returns how many may still follow."""
    children: Collection[Any] = value
    if type(value) is dict:
        if not _TEXT.issuperset(map(type, value)):
            raise Malformed("a key is not a string")
        children = value.values()
    elif type(value) in _SCALARS:
        return left
    elif type(value) is not list:
        raise Malformed("extension types are not used here")
    left -= len(value)
    if depth == 0 or left < 0:
        raise Malformed(_DEEP if depth == 0 else f"more than {ELEMENTS_MAX} elements")
    if not _SCALARS.issuperset(map(type, children)):
        for child in children:
            left = _walk(child, depth - 1, left)
    return left


def _compare_counts(value: bytes | msgspec.Raw) -> None:
    """Raise where a map announces more keys than it has."""
    view = memoryview(value)
    if view[0] in _MAPS or view[0] in _ARRAYS:
        children = _as_map(value).values() if view[0] in _MAPS else _as_list(value)
        if len(children) != _announced(view):
            raise Malformed(_TWICE)
        for child in children:
            _compare_counts(child)
