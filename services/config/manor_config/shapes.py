"""Whether a raw mapping has the shape of a struct: every problem of it at once, not only the first. Pure.

Walks the value beside the struct's own type information, then asks `rules` about each field and `relations`
about each struct that is well-formed in itself.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

import msgspec
from msgspec import inspect

from manor_bus.wire.errors import Problem
from manor_bus.wire.messages import documents as d
from manor_config.effects import REFUSED
from manor_config.relations import RELATIONS
from manor_config.rules import ELEMENTS_MAX, FIGURE_MAX, TEXT, Rule, rule_of

VALUE_CHARACTERS_MAX: Final = 80
NOT_YET: Final = "not supported yet; it would have no effect"
EXTRA_DEPTH_MAX: Final = 8
# What people who know xl write, and where it belongs.
_XL_WORDS: Final = MappingProxyType(
    {
        "vcpus": "cpu.count", "maxvcpus": "cpu.max", "cpus": "cpu.affinity", "maxmem": "memory.max_mib",
        "kernel": "boot.kernel", "ramdisk": "boot.initrd", "initrd": "boot.initrd", "cmdline": "boot.cmdline",
        "bios": "boot.firmware", "firmware": "boot.firmware", "disk": "disks", "vif": "nics",
        "vnc": "graphics", "builder": "type", "serial": "console", "seclabel": "label", "localtime": "clock",
        "autostart": "run", "nestedhvm": "cpu.nested", "on_soft_reset": "on_reboot",
    }
)  # fmt: skip


def shown(value: Any) -> str:
    """Return a value as a problem shows it: short, and without control characters."""
    text = value if isinstance(value, str) else reprlib.repr(value)
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text[:VALUE_CHARACTERS_MAX])
    return text if len(text) <= VALUE_CHARACTERS_MAX else text[: VALUE_CHARACTERS_MAX - 1] + "…"


def problems_of(value: Any, struct: type, path: str) -> list[Problem]:
    """Return everything that keeps a raw value from being this struct."""
    return list(_struct(value, struct, path))


@lru_cache(maxsize=64)
def fields_of(struct: type) -> Mapping[str, inspect.Field]:
    """Return the fields of a struct by their names on the wire."""
    described = inspect.type_info(struct)
    assert isinstance(described, inspect.StructType)
    return MappingProxyType({field.encode_name: field for field in described.fields})


def _struct(value: Any, struct: type, path: str) -> Iterator[Problem]:
    if not isinstance(value, Mapping):
        yield _wrong(value, path, f"a mapping with {', '.join(list(fields_of(struct))[:6])}")
        return
    clean = True
    for problem in _fields(value, struct, path):
        clean = False
        yield problem
    check = RELATIONS.get(struct)
    if clean and check is not None:
        for inside, reason, found, allowed in check(msgspec.convert(value, struct)):
            where = f"{path}.{inside}" if path and inside else path or inside
            yield Problem(path=where, reason=reason, value=shown(found), allowed=allowed)


def _fields(value: Mapping[Any, Any], struct: type, path: str) -> Iterator[Problem]:
    fields = fields_of(struct)
    dot = f"{path}." if path else ""
    for key, part in value.items():
        field = fields.get(key) if isinstance(key, str) else None
        if field is not None:
            rule = None if part == field.default else rule_of(struct, key)
            wrong = list(_value(part, field.type, f"{dot}{key}", rule))
            if not wrong and key in REFUSED.get(struct, ()) and _says(part, field):
                wrong = [Problem(path=f"{dot}{key}", reason=NOT_YET, value=shown(part), allowed="nothing")]
            yield from wrong
        elif not (key == "kind" and getattr(struct, "__struct_config__").tag):  # noqa: B009
            yield _unknown(key, struct, dot)
    for name, field in fields.items():
        if field.required and name not in value:
            yield Problem(path=f"{dot}{name}", reason="missing", allowed=_told(field.type))


def _says(value: Any, field: inspect.Field) -> bool:
    """Say whether a value is another one than not to give any."""
    if isinstance(field.type, inspect.StructType):
        return bool(msgspec.convert(value, field.type.cls) != field.type.cls())
    return bool(value != field.default) and value not in ([], ())


def _unknown(key: Any, struct: type, dot: str) -> Problem:
    fields = fields_of(struct)
    text = shown(key)
    close = get_close_matches(text, fields, n=1, cutoff=0.6)
    meant = _XL_WORDS.get(text, "") if struct is d.DomainSpec else ""
    hint = f"; did you mean {meant or close[0]}?" if meant or close else ""
    return Problem(path=f"{dot}{text}", reason=f"unknown key{hint}", value=text, allowed=", ".join(fields))


def _wrong(value: Any, path: str, wanted: str) -> Problem:
    if value is None:
        return Problem(path=path, reason="nothing is given; leave the key out", allowed=wanted)
    kind = {dict: "a mapping", list: "a list", str: "a text", bool: "yes or no", int: "a number"}
    found = kind.get(type(value), "a number" if isinstance(value, float) else "another thing")
    quote = "; put it in quotes" if wanted == "a text" and isinstance(value, bool | int | float) else ""
    return Problem(
        path=path, reason=f"{found} where {wanted} belongs{quote}", value=shown(value), allowed=wanted
    )


def _value(value: Any, wanted: inspect.Type, path: str, rule: Rule | None) -> Iterator[Problem]:
    """Yield the problems of one value: by its type first, then by its rule."""
    match wanted:
        case inspect.StructType(cls=struct):
            yield from _struct(value, struct, path)
        case inspect.UnionType(types=types):  # only `X | None`
            if value is not None:
                given = next(one for one in types if not isinstance(one, inspect.NoneType))
                yield from _value(value, given, path, rule)
        case inspect.VarTupleType(item_type=item):
            yield from _elements(value, item, path, rule)
        case inspect.DictType(value_type=inspect.AnyType()):
            yield from _extra(value, path)
        case inspect.DictType():
            yield from _pairs(value, path, rule)
        case _:
            yield from _plain(value, wanted, path, rule)


def _elements(value: Any, item: inspect.Type, path: str, rule: Rule | None) -> Iterator[Problem]:
    if not isinstance(value, list | tuple):
        yield _wrong(value, path, "a list")
    elif len(value) > ELEMENTS_MAX:
        yield Problem(path=path, reason="too many", value=str(len(value)), allowed=f"at most {ELEMENTS_MAX}")
    else:
        for number, part in enumerate(value):
            yield from _value(part, item, f"{path}[{number}]", rule)


def _pairs(value: Any, path: str, rule: Rule | None) -> Iterator[Problem]:
    if not isinstance(value, Mapping):
        yield _wrong(value, path, "a mapping of texts")
    elif len(value) > ELEMENTS_MAX:
        yield Problem(path=path, reason="too many", value=str(len(value)), allowed=f"at most {ELEMENTS_MAX}")
    else:
        for key, part in value.items():
            inside = f"{path}.{shown(key)}"
            if not isinstance(key, str) or not isinstance(part, str):
                yield _wrong(part if isinstance(key, str) else key, inside, "a text")
            elif rule is not None and not rule.ok((key, part)):
                yield Problem(path=inside, reason="not allowed here", value=shown(part), allowed=rule.allowed)


def _plain(value: Any, wanted: inspect.Type, path: str, rule: Rule | None) -> Iterator[Problem]:
    choices = choices_of(wanted)
    if not _is(value, wanted):
        yield _wrong(value, path, _told(wanted))
    elif choices is not None and value not in choices:
        close = get_close_matches(value, choices, n=1, cutoff=0.6)
        hint = f"; did you mean {close[0]}?" if close and close[0] else ""
        yield Problem(path=path, reason=f"not one of them{hint}", value=shown(value), allowed=_told(wanted))
    elif choices is None:
        rule = rule or (TEXT if isinstance(value, str) else None)
        if rule is not None and not rule.ok(value):
            yield Problem(path=path, reason="not allowed here", value=shown(value), allowed=rule.allowed)


def choices_of(wanted: inspect.Type) -> tuple[str, ...] | None:
    """Return the values of an enumeration, or None for any other type."""
    if isinstance(wanted, inspect.EnumType):
        return tuple(str(one.value) for one in wanted.cls)
    if isinstance(wanted, inspect.LiteralType):
        return tuple(str(one) for one in wanted.values)
    return None


def _is(value: Any, wanted: inspect.Type) -> bool:
    match wanted:
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.IntType():
            return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= FIGURE_MAX
        case inspect.FloatType():
            number = isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool))
            return number and math.isfinite(value) and abs(value) <= FIGURE_MAX
        case _:
            return isinstance(value, str)


def _told(wanted: inspect.Type) -> str:
    """Return in words what a type accepts."""
    choices = choices_of(wanted)
    if choices is not None:
        return ", ".join(one or '""' for one in choices)
    match wanted:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return "a whole number"
        case inspect.FloatType():
            return "a number"
        case inspect.StructType(cls=struct):
            return f"a mapping with {', '.join(list(fields_of(struct))[:6])}"
        case _:
            return "a text"


def _extra(value: Any, path: str, depth: int = EXTRA_DEPTH_MAX) -> Iterator[Problem]:
    """Check what is carried but not understood: plain values that every reader of JSON can keep."""
    if depth == 0:
        yield Problem(path=path, reason="nested too deep", allowed=f"{EXTRA_DEPTH_MAX} levels")
    elif isinstance(value, Mapping):
        for key, part in value.items():
            inside = f"{path}.{shown(key)}"
            if not isinstance(key, str) or not TEXT.ok(key):
                yield Problem(path=inside, reason="not a key", value=shown(key), allowed=TEXT.allowed)
            else:
                yield from _extra(part, inside, depth - 1)
    elif depth == EXTRA_DEPTH_MAX:
        yield _wrong(value, path, "a mapping")
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from _extra(part, f"{path}[{number}]", depth - 1)
    else:
        yield from _scalar(value, path)


def _scalar(value: Any, path: str) -> Iterator[Problem]:
    kept = value is None or isinstance(value, bool)
    if isinstance(value, int | float):
        kept = math.isfinite(value) and abs(value) <= FIGURE_MAX
    if isinstance(value, str):
        kept = not any("\ud800" <= c <= "\udfff" for c in value)
    if not kept:
        yield Problem(path=path, reason="cannot be kept", value=shown(value), allowed="JSON values")
