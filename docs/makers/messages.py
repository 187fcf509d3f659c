"""Makes docs/messages.md: every call, event and field; `make docs` runs it.

All comes from the structs: names and types from the code, meaning from docstrings and from the comment behind
a field.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Final

from manor_bus.wire import errors, messages
from manor_bus.wire.messages import (
    Call,
    Event,
    bus,
    config,
    consoles,
    devices,
    discovery,
    documents,
    guests,
    lifecycle,
    node,
    providers,
)

_ROOMS: Final = (bus, node, config, discovery, lifecycle, guests, consoles, devices, providers)
_NOT_ON_THE_WIRE: Final = frozenset({"ManorError", "Message", "Call", "Event"})
_INTRODUCTION: Final = """\
# Messages

Every call and every event of the bus, with every field. This page is made from the code by `make docs`: do
not edit it. How a message travels is on the page [The wire](wire.md); for tools there is
[asyncapi.yaml](asyncapi.yaml).

A *call* goes to its subject and is answered by one reply, maybe after parts. It *asks* or it *changes*; what
changes something does so once per idempotency key. An *event* is the new value of one object (*state*), or
passing *news*. `type` on the wire is the subject (for an event: the name) and a version, as in
`lifecycle.domain.start.v1`. A field without a default is required; one that is left out has its default;
unknown fields are ignored.
"""


@dataclass(frozen=True)
class Field:
    """One field of a struct, or one value of an enumeration (then `type` is empty)."""

    name: str
    type: str
    default: str
    doc: str


@dataclass(frozen=True)
class Shape:
    """A struct or an enumeration as its source tells it."""

    name: str
    doc: str
    fields: tuple[Field, ...]


def shapes(module: ModuleType) -> tuple[Shape, ...]:
    """Return the structs and enumerations a module defines, in the order of the source."""
    source = inspect.getsource(module)
    comments = dict(_comments(source))
    return tuple(
        Shape(one.name, _doc(one), tuple(_fields(one, comments)))
        for one in ast.parse(source).body
        if isinstance(one, ast.ClassDef) and one.name not in _NOT_ON_THE_WIRE
    )


def _comments(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ")


def _doc(owner: ast.ClassDef | ast.Module) -> str:
    """Return a docstring with its line breaks inside paragraphs removed."""
    paragraphs = (ast.get_docstring(owner) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _fields(owner: ast.ClassDef, comments: dict[int, str]) -> Iterator[Field]:
    for line in owner.body:
        doc = comments.get(line.end_lineno or 0, "")
        if isinstance(line, ast.AnnAssign):
            default = "" if line.value is None else ast.unparse(line.value)
            yield Field(ast.unparse(line.target), ast.unparse(line.annotation), default, doc)
        elif isinstance(line, ast.Assign):
            yield Field(str(ast.literal_eval(line.value)), "", "", doc)


def page() -> str:
    """Return docs/messages.md."""
    chapters = (_chapter(room) for room in _ROOMS)
    shared = (
        _shapes_section("Shared", messages),
        _shapes_section("Documents", documents),
        _shapes_section("Errors", errors),
    )
    return "\n".join((_INTRODUCTION, *chapters, *shared)).rstrip() + "\n"


def _chapter(room: ModuleType) -> str:
    name = room.__name__.rpartition(".")[2]
    lines = [f"## {name}", "", _module_doc(room), ""]
    calls = [_call_row(call) for call in room.CALLS]
    if calls:
        lines += ["| call | request | reply | parts | |", "|---|---|---|---|---|", *calls, ""]
    events = [_event_row(event) for event in room.EVENTS]
    if events:
        lines += ["| event | subscribe to | body | |", "|---|---|---|---|", *events, ""]
    return "\n".join(lines + _shape_lines(room))


def _shapes_section(title: str, module: ModuleType) -> str:
    return "\n".join([f"## {title}", "", _module_doc(module), "", *_shape_lines(module)])


def _module_doc(module: ModuleType) -> str:
    return _doc(ast.parse(inspect.getsource(module)))


def _call_row(call: Call) -> str:
    part = "" if call.part is None else _link(call.part)
    effect = "changes" if call.changes else "asks"
    return f"| `{call.subject}` | {_link(call.request)} | {_link(call.reply)} | {part} | {effect} |"


def _event_row(event: Event) -> str:
    patterns = ", ".join(f"`{pattern}`" for pattern in event.patterns)
    kind = "state" if event.state else "news"
    return f"| `{event.name}` | {patterns} | {_link(event.body)} | {kind} |"


def _link(body: type) -> str:
    return f"[{body.__name__}](#{body.__name__.lower()})"


def _shape_lines(module: ModuleType) -> list[str]:
    known = frozenset(shape.name for one in (*_ROOMS, documents, errors, messages) for shape in shapes(one))
    lines: list[str] = []
    for shape in shapes(module):
        lines += [f"### {shape.name}", "", shape.doc, "", *_table(shape, known)]
    return lines


def _table(shape: Shape, known: frozenset[str]) -> Iterable[str]:
    if not shape.fields:
        return ()
    if all(field.type == "" for field in shape.fields):
        return ("| value | |", "|---|---|", *(_row(f"`{f.name}`", f.doc) for f in shape.fields), "")
    rows = (_row(f"`{f.name}`", _type(f.type, known), _code(f.default), f.doc) for f in shape.fields)
    return ("| field | type | default | |", "|---|---|---|---|", *rows, "")


def _type(annotation: str, known: frozenset[str]) -> str:
    """Return a type, linked to the first struct it names."""
    named = next((word for word in re.findall(r"\w+", annotation) if word in known), "")
    return f"[`{annotation}`](#{named.lower()})" if named else f"`{annotation}`"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
