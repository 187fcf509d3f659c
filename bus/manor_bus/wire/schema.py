"""JSON Schemas of the typed messages.

The schemas describe the JSON form; on the wire a `bytes` field is MessagePack bin instead of base64 text.
"""

from __future__ import annotations

from collections.abc import Iterable
from inspect import cleandoc
from typing import Any, Final

import msgspec

from manor_bus.wire.messages import Call, Event, Message
from manor_bus.wire.messages.catalogue import CALL_BY_TYPE, EVENT_BY_TYPE

_OPENAPI_ONLY: Final = frozenset({"discriminator"})  # AsyncAPI's has another form, and `anyOf` says it all
_NAMING: Final = frozenset({"properties", "$defs"})


def schema(type_name: str) -> dict[str, Any]:
    """Return the schemas of one type of the catalogue: `request`, `reply` and maybe `part`, or `body`.

    They share one `$defs`. An unknown type is a KeyError.
    """
    bodies = _bodies(type_name)
    roots, shared = msgspec.json.schema_components(bodies.values(), ref_template="#/$defs/{name}")
    parts = {**dict(zip(bodies, roots, strict=True)), "$defs": shared}
    return {role: _without(_OPENAPI_ONLY, part, named=role == "$defs") for role, part in parts.items()}


def document(kind: type[Message]) -> dict[str, Any]:
    """Return the schema of one kind of document, with its own `$defs`."""
    found: dict[str, Any] = _without(_OPENAPI_ONLY, msgspec.json.schema(kind))
    return found


def parts_of(entry: Call | Event) -> dict[str, type[Message]]:
    """Return the structs of a catalogue entry by the role they play."""
    if isinstance(entry, Event):
        return {"body": entry.body}
    roles = {"request": entry.request, "reply": entry.reply}
    return roles if entry.part is None else {**roles, "part": entry.part}


def _bodies(type_name: str) -> dict[str, type[Message]]:
    call = CALL_BY_TYPE.get(type_name)
    return parts_of(EVENT_BY_TYPE[type_name] if call is None else call)


def components(bodies: Iterable[type[Message]]) -> dict[str, Any]:
    """Return the schemas of structs and of all they use by name, as AsyncAPI's `components/schemas`."""
    _, shared = msgspec.json.schema_components(bodies, ref_template="#/components/schemas/{name}")
    cleaned: dict[str, Any] = _without(_OPENAPI_ONLY, shared, named=True)
    return cleaned


def _without(words: frozenset[str], part: Any, *, named: bool = False) -> Any:
    """Drop schema words; `named`: the keys of this level are names of fields or types, not schema words.

    Descriptions lose the indentation of their docstrings, which Python keeps only before 3.13.
    """
    if isinstance(part, dict):
        return {
            key: cleandoc(value)
            if key == "description" and isinstance(value, str)
            else _without(words, value, named=key in _NAMING and not named)
            for key, value in part.items()
            if named or key not in words
        }
    if isinstance(part, list):
        return [_without(words, one) for one in part]
    return part
