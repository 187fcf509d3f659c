"""One example of every message: all fields set, or only those that must be. The same whenever it is made."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import inspect

from manor_bus.wire import codec
from manor_bus.wire.messages import Call, Event, Message
from manor_bus.wire.messages.catalogue import CALLS, EVENTS
from manor_bus.wire.schema import parts_of

DEPTH_MAX = 6


def bodies() -> dict[str, type[Message]]:
    """Every struct that travels by itself, by type name and role."""
    entries: tuple[Call | Event, ...] = (*CALLS, *EVENTS)
    return {f"{one.type_name} {role}": body for one in entries for role, body in parts_of(one).items()}


def example(wanted: type, *, full: bool = True) -> Any:
    """Make one value of a type."""
    return _value(inspect.type_info(wanted), "", full, DEPTH_MAX)


_SIMPLE: dict[type[inspect.Type], Any] = {
    inspect.BoolType: True,
    inspect.NoneType: None,
    inspect.AnyType: {"any": [1, "two", None]},
    inspect.RawType: msgspec.Raw(codec.encode({"raw": 1})),
}


def _value(kind: inspect.Type, name: str, full: bool, depth: int) -> Any:
    if type(kind) in _SIMPLE:
        return _SIMPLE[type(kind)]
    match kind:
        case inspect.StrType():
            return _text(kind, name)
        case inspect.IntType():
            return max(7, kind.ge or 0, (kind.gt or 0) + 1) if kind.le is None else kind.le
        case inspect.FloatType():
            return 1.5 if kind.le is None else float(kind.le)
        case inspect.BytesType():
            return b"\x00" + name.encode()
        case inspect.LiteralType():
            return kind.values[-1]
        case inspect.EnumType():
            return list(kind.cls)[-1]
        case _:
            return _many(kind, name, full, depth)


def _many(kind: inspect.Type, name: str, full: bool, depth: int) -> Any:
    match kind:
        case inspect.StructType():
            return _struct(kind, full, depth)
        case inspect.UnionType():
            chosen = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
            structs = [one for one in chosen if isinstance(one, inspect.StructType)]
            return _value((structs or chosen)[0], name, full, depth)
        case inspect.VarTupleType() | inspect.ListType():
            return [_value(kind.item_type, name, full, depth - 1)] if depth else []
        case inspect.TupleType():
            return [_value(one, name, full, depth - 1) for one in kind.item_types]
        case inspect.DictType():
            key = _value(kind.key_type, "key", full, depth)
            return {key: _value(kind.value_type, name, full, depth - 1)} if depth else {}
        case _:
            raise AssertionError(f"no example of {kind}")


def _struct(kind: inspect.StructType, full: bool, depth: int) -> Any:
    values = {} if kind.tag_field is None else {kind.tag_field: kind.tag}
    for field in kind.fields:
        if field.required or (full and depth > 0):
            values[field.encode_name] = _value(field.type, field.name, full, depth - 1)
    return msgspec.convert(values, kind.cls)


def _text(kind: inspect.StrType, name: str) -> str:
    if kind.pattern is None:
        return name or "text"
    known = ("web", "web.a", "n1", "00000000-0000-4000-8000-000000000001", "52:54:00:00:00:01", "1")
    return next(text for text in known if re.search(kind.pattern or "", text))
