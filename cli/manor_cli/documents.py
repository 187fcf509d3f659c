"""Read documents from YAML and JSON text, several in one text, with the line of everything. Pure.

YAML is read by its tree of nodes, so that a repeated key, a date that was meant as text, or an alias that
would grow into a million copies is refused with its line instead of being guessed at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from manor_bus.wire.errors import ManorError, Problem, bad_request

TEXT_BYTES_MAX: Final = 32 * 1_048_576
DOCUMENTS_MAX: Final = 50_000
ELEMENTS_MAX: Final = 20_000  # of one document, aliases counted as often as they are used
DEPTH_MAX: Final = 12
_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LOOKS_LIKE_JSON: Final = re.compile(r'\s*[{\[]\s*(["{\[\]}]|$)')
_PLAIN: Final = {
    "tag:yaml.org,2002:str": "text",
    "tag:yaml.org,2002:int": "a number",
    "tag:yaml.org,2002:float": "a number",
    "tag:yaml.org,2002:bool": "true or false",
    "tag:yaml.org,2002:null": "null",
}


@dataclass(frozen=True)
class Parsed:
    """One document as plain values, and where it stood. `lines` maps paths (`spec.disks[0].id`) to lines."""

    content: dict[str, Any]
    source: str
    line: int
    lines: Mapping[str, int] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The `kind` as written."""
        return str(self.content.get("kind", ""))

    @property
    def name(self) -> str:
        """The name as written."""
        metadata = self.content.get("metadata")
        return str(metadata.get("name", "")) if isinstance(metadata, dict) else ""

    def place(self, path: str) -> str:
        """Return `file:line` of a path, or of its nearest parent."""
        while path and path not in self.lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return f"{self.source}:{self.lines.get(path, self.line)}"


def parse(text: str, source: str) -> tuple[Parsed, ...]:
    """Read all documents of a text; empty ones are skipped. Raises `bad_request` with file and line."""
    if len(text) > TEXT_BYTES_MAX:
        raise _refuse(source, 1, f"larger than {TEXT_BYTES_MAX // 1_048_576} MiB", "split the file")
    found: list[Parsed] = []
    reader = _json if _LOOKS_LIKE_JSON.match(text) else _yaml
    for parsed in reader(text, source):
        found.append(parsed)
        if len(found) > DOCUMENTS_MAX:
            raise _refuse(source, parsed.line, f"more than {DOCUMENTS_MAX} documents", "split the file")
    return tuple(found)


def _refuse(source: str, line: int, reason: str, hint: str = "") -> ManorError:
    problem = Problem(path=f"{source}:{line}", reason=reason)
    return bad_request(f"{source} cannot be read", problem, hint=hint)


def _document(content: Any, source: str, line: int, lines: Mapping[str, int]) -> Parsed:
    if not isinstance(content, dict):
        raise _refuse(source, line, "a document is a mapping of kind, metadata and spec")
    parsed = Parsed(content, source, line, lines)
    if not parsed.kind or not parsed.name:
        missing = "`kind`" if not parsed.kind else "`metadata.name`"
        raise _refuse(
            source, line, f"the document has no {missing}", "`manor schema config.apply` has the form"
        )
    return parsed


# -- JSON ----------------------------------------------------------------------------------------------------


def _json(text: str, source: str) -> Iterator[Parsed]:
    """Read one or more JSON values after each other; a list stands for the documents in it."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
    at = 0
    while (at := len(text) - len(text[at:].lstrip())) < len(text):
        line = text.count("\n", 0, at) + 1
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise _refuse(source, error.lineno, f"not JSON: {error.msg} (column {error.colno})") from None
        except (ValueError, RecursionError) as error:
            raise _refuse(source, line, str(error) or "nested too deeply") from None
        for content in value if isinstance(value, list) else [value]:
            _bound(content, source, line)
            yield _document(content, source, line, {})


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        reason = f"the key {twice!r} stands twice in one mapping"
        raise ValueError(reason)
    return found


def _no_constant(name: str) -> Any:
    reason = f"{name} is not a number"
    raise ValueError(reason)


def _bound(content: Any, source: str, line: int) -> None:
    """Refuse a value with too many elements or levels."""
    level, left = [content], ELEMENTS_MAX
    for _ in range(DEPTH_MAX):
        below: list[Any] = []
        for value in level:
            below += value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
        level, left = below, left - len(below)
        if left < 0:
            raise _refuse(source, line, f"more than {ELEMENTS_MAX} elements in one document")
    if any(isinstance(value, (dict, list)) for value in level):
        raise _refuse(source, line, f"nested deeper than {DEPTH_MAX} levels")


# -- YAML ----------------------------------------------------------------------------------------------------


@dataclass
class _Reading:
    """The state of reading one YAML document from its events; `anchors` are values and their sizes."""

    loader: Any
    source: str
    left: int = ELEMENTS_MAX
    lines: dict[str, int] = field(default_factory=dict)
    anchors: dict[str, tuple[Any, int]] = field(default_factory=dict)


def _yaml(text: str, source: str) -> Iterator[Parsed]:
    """Read a stream of YAML documents."""
    try:
        loader = _LOADER(text)
        while not isinstance(event := loader.get_event(), yaml.StreamEndEvent):
            if not isinstance(event, yaml.DocumentStartEvent):
                continue
            first, reading = loader.get_event(), _Reading(loader, source)
            content = _value(reading, first, "", DEPTH_MAX)
            if content is not None:
                yield _document(content, source, first.start_mark.line + 1, reading.lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = f"not YAML: {error.problem or error.context}"
        raise _refuse(source, mark.line + 1 if mark else 1, reason) from None
    except yaml.YAMLError as error:
        raise _refuse(source, 1, f"not YAML: {error}") from None


def _value(reading: _Reading, event: Any, path: str, depth: int) -> Any:
    """Turn the events of one node into plain values, noting the line of each path."""
    line, before = event.start_mark.line + 1, reading.left
    reading.lines.setdefault(path, line)
    if isinstance(event, yaml.AliasEvent):
        value, size = _aliased(reading, event, line)
        reading.left -= size
    else:
        reading.left -= 1
        value = _node(reading, event, path, depth, line)
        if event.anchor is not None:
            reading.anchors[event.anchor] = (value, before - reading.left)
    if reading.left < 0:
        raise _refuse(reading.source, line, f"more than {ELEMENTS_MAX} elements in one document")
    return value


def _node(reading: _Reading, event: Any, path: str, depth: int, line: int) -> Any:
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(reading, event, line)
    if depth == 0:
        raise _refuse(reading.source, line, f"nested deeper than {DEPTH_MAX} levels")
    if isinstance(event, yaml.MappingStartEvent):
        return _mapping(reading, path, depth)
    found: list[Any] = []
    while not isinstance(item := reading.loader.get_event(), yaml.SequenceEndEvent):
        found.append(_value(reading, item, f"{path}[{len(found)}]", depth - 1))
    return found


def _aliased(reading: _Reading, event: Any, line: int) -> tuple[Any, int]:
    """Return what an alias stands for; everything in it counts again."""
    if event.anchor not in reading.anchors:
        raise _refuse(reading.source, line, f"the alias *{event.anchor} stands for nothing before it")
    return reading.anchors[event.anchor]


def _scalar(reading: _Reading, event: Any, line: int) -> Any:
    """Read a scalar as YAML 1.1 does, and refuse what would surprise."""
    tag = event.tag if event.tag not in (None, "!") else _tag(reading, event)
    if tag not in _PLAIN:
        reason = f"{event.value!r} would be read as a {tag.rpartition(':')[2]}"
        raise _refuse(reading.source, line, reason, "put it in quotes")
    try:
        value = reading.loader.construct_object(yaml.ScalarNode(tag, event.value))
    except ValueError:
        raise _refuse(reading.source, line, f"{event.value!r} is not {_PLAIN[tag]}") from None
    if isinstance(value, float) and not -1e300 < value < 1e300:
        raise _refuse(reading.source, line, f"{event.value!r} is not a finite number", "put it in quotes")
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise _refuse(reading.source, line, f"{event.value!r} is too large a number", "put it in quotes")
    return value


def _tag(reading: _Reading, event: Any) -> str:
    return str(reading.loader.resolve(yaml.ScalarNode, event.value, event.implicit))


def _mapping(reading: _Reading, path: str, depth: int) -> dict[str, Any]:
    """Read a mapping up to its end; keys are texts and stand once."""
    found: dict[str, Any] = {}
    while not isinstance(key := reading.loader.get_event(), yaml.MappingEndEvent):
        line = key.start_mark.line + 1
        scalar = isinstance(key, yaml.ScalarEvent)
        if not scalar or (key.tag or _tag(reading, key)) != "tag:yaml.org,2002:str":
            written = key.value if scalar else "a structure"
            raise _refuse(reading.source, line, f"the key {written!r} is not text", "put it in quotes")
        if key.value in found:
            raise _refuse(reading.source, line, f"the key {key.value!r} stands twice in one mapping")
        under = f"{path}.{key.value}" if path else key.value
        reading.lines[under] = line
        found[key.value] = _value(reading, reading.loader.get_event(), under, depth - 1)
    return found
