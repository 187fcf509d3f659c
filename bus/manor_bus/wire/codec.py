"""The one home of MessagePack: typed structs to bytes and back, and the structural check of foreign bytes.

Decoding validates types in the same pass. `check` refuses what the decoder would let through: duplicate
keys (both common decoders keep the last one, so two readers could disagree), deep nesting, extension
types, keys that are not strings, too many elements. Source: design page "The bus", section Message.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Any, Final, TypeVar

import msgspec

from manor_bus.wire.errors import Problem, bad_request

T = TypeVar("T")

FRAME_BYTES_MAX: Final = 1_048_576 + 1_024  # data of 1 MiB and an envelope around it
DEPTH_MAX: Final = 16  # the deepest message of ours, a snapshot of domain facts, needs 10
ELEMENTS_MAX: Final = 200_000
QUICK_BYTES_MAX: Final = 16_384

_encoder: Final = msgspec.msgpack.Encoder()
_as_map: Final = msgspec.msgpack.Decoder(dict[str, msgspec.Raw]).decode
_as_list: Final = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_as_any: Final = msgspec.msgpack.Decoder().decode
_as_any_map: Final = msgspec.msgpack.Decoder(dict[str, Any]).decode
_as_any_list: Final = msgspec.msgpack.Decoder(list[Any]).decode
_SCALARS: Final = frozenset((str, bytes, int, float, bool, type(None)))
_MAPS: Final = frozenset((*range(0x80, 0x90), 0xDE, 0xDF))
_CONTAINERS: Final = _MAPS | frozenset((*range(0x90, 0xA0), 0xDC, 0xDD))
_EXTENSIONS: Final = frozenset((0xC1, 0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8))
_NESTED: Final = _CONTAINERS | _EXTENSIONS
_TWICE: Final = "a key stands twice in one map"
_DEEP: Final = f"nested deeper than {DEPTH_MAX}"
_MANY: Final = f"more than {ELEMENTS_MAX} elements"
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
    """Decode the body of a call, nothing at all being an empty one; refuse also what `check` refuses."""
    body = _EMPTY if untrusted == NIL else untrusted
    value = decode(body, wanted)
    if encode(value) != memoryview(
        body
    ):  # else it is as our encoder writes it: no key twice, nothing unknown
        try:
            check(body, DEPTH_MAX - 1)
        except Malformed as error:
            raise bad_request(f"the body is not well-formed: {error}") from None
    return value


def _refused(error: msgspec.ValidationError) -> Exception:
    reason, _, path = str(error).partition(" - at `$")
    problem = Problem(path=path.rstrip("`").lstrip("."), reason=reason)
    return bad_request(f"the body is invalid: {reason}", problem)


def check(untrusted: bytes | msgspec.Raw, depth: int = DEPTH_MAX, left: int = ELEMENTS_MAX) -> int:
    """Walk the structure of one encoded value; raise Malformed with the reason when it breaks a rule.

    Returns how many of the `left` elements may still follow.
    """
    try:
        left = _walk(untrusted, depth, left)
        view = memoryview(untrusted)
        if view[0] not in _CONTAINERS or len(view) > QUICK_BYTES_MAX:
            _as_any(untrusted)  # strings there were not looked at yet
    except RecursionError:
        raise Malformed(_DEEP) from None
    except (msgspec.MsgspecError, ValueError, OverflowError) as error:
        reason = str(error) if isinstance(error, msgspec.MsgspecError) else type(error).__name__
        raise Malformed(reason) from None
    return left


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


def _walk(value: bytes | msgspec.Raw, depth: int, left: int) -> int:
    view = memoryview(value)
    first = view[0] if len(view) else 0xC1
    if first in _EXTENSIONS:
        raise Malformed("extension types are not used here")
    if first not in _CONTAINERS:
        return left
    count = _announced(view)
    if depth == 0 or count > left:
        raise Malformed(_DEEP if depth == 0 else _MANY)
    is_map = first in _MAPS
    if len(view) <= QUICK_BYTES_MAX:
        flat = _as_any_map(value).values() if is_map else _as_any_list(value)
        if len(flat) != count:
            raise Malformed(_TWICE)
        within = _listed(flat, depth)
        if 0 <= within <= left - count:  # most maps and arrays
            return left - count - within
    return _descend(_as_map(value).values() if is_map else _as_list(value), count, depth, left - count)


def _listed(values: Collection[Any], depth: int) -> int:
    """Return how many elements the arrays among these values have; -1 with maps in them, or too deep."""
    if _SCALARS.issuperset(map(type, values)):
        return 0
    total = 0
    for value in values:
        kind = type(value)
        if kind is list and depth > 1:
            within = _listed(value, depth - 1)
            if within < 0:
                return -1
            total += len(value) + within
        elif kind not in _SCALARS:
            return -1
    return total


def _descend(children: Collection[msgspec.Raw], count: int, depth: int, left: int) -> int:
    if len(children) != count:
        raise Malformed(_TWICE)
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
