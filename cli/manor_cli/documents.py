"""Read documents from YAML and JSON text, several in one text, with the line of everything. Pure.

YAML is read by its tree of nodes, so that a repeated key, a date that was meant as text, or an alias that
would grow into a million copies is refused with its line instead of being guessed at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from manor_bus.errors import ManorError, Problem, bad_request

TEXT_BYTES_MAX: Final = 32 * 1_048_576
DOCUMENTS_MAX: Final = 50_000
ELEMENTS_MAX: Final = 20_000  # of one document, aliases counted as often as they are used
DEPTH_MAX: Final = 12
_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
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


@dataclass
class _Walk:
    """The state of reading one YAML document."""

    source: str
    left: int = ELEMENTS_MAX
    lines: dict[str, int] = field(default_factory=dict)


def parse(text: str, source: str) -> tuple[Parsed, ...]:
    """Read all documents of a text; empty ones are skipped. Raises `bad_request` with file and line."""
    if len(text) > TEXT_BYTES_MAX:
        raise _refuse(source, 1, f"larger than {TEXT_BYTES_MAX // 1_048_576} MiB", "split the file")
    found: list[Parsed] = []
    reader = _json if text.lstrip()[:1] in ("{", "[") else _yaml
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


def _yaml(text: str, source: str) -> Iterator[Parsed]:
    """Read a stream of YAML documents."""
    loader = _LOADER(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            walk = _Walk(source)
            content = _value(loader, node, walk, "", DEPTH_MAX)
            if content is not None:
                yield _document(content, source, node.start_mark.line + 1, walk.lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = f"not YAML: {error.problem or error.context}"
        raise _refuse(source, mark.line + 1 if mark else 1, reason) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise _refuse(source, 1, f"not YAML: {str(error) or 'nested too deeply'}") from None
    finally:
        loader.dispose()


def _value(loader: Any, node: yaml.Node, walk: _Walk, path: str, depth: int) -> Any:
    """Turn one node into plain values, noting the line of each path."""
    line = node.start_mark.line + 1
    walk.lines.setdefault(path, line)
    walk.left -= 1
    if walk.left < 0:
        raise _refuse(walk.source, line, f"more than {ELEMENTS_MAX} elements in one document")
    if depth < 0:
        raise _refuse(walk.source, line, f"nested deeper than {DEPTH_MAX} levels")
    if isinstance(node, yaml.MappingNode):
        return _mapping(loader, node, walk, path, depth)
    if isinstance(node, yaml.SequenceNode):
        return [
            _value(loader, item, walk, f"{path}[{index}]", depth - 1) for index, item in enumerate(node.value)
        ]
    if node.tag not in _PLAIN:
        reason = f"{node.value!r} would be read as a {node.tag.rpartition(':')[2]}"
        raise _refuse(walk.source, line, reason, "put it in quotes")
    return _scalar(loader, node, walk.source, line)


def _scalar(loader: Any, node: yaml.Node, source: str, line: int) -> Any:
    try:
        value = loader.construct_object(node)
    except ValueError:
        raise _refuse(source, line, f"{node.value!r} is not {_PLAIN[node.tag]}") from None
    if isinstance(value, float) and not -1e300 < value < 1e300:
        raise _refuse(source, line, f"{node.value!r} is not a finite number", "put it in quotes")
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise _refuse(source, line, f"{node.value!r} is too large a number", "put it in quotes")
    return value


def _mapping(loader: Any, node: yaml.MappingNode, walk: _Walk, path: str, depth: int) -> dict[str, Any]:
    """Turn a mapping node into a dict; keys are texts and stand once."""
    found: dict[str, Any] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.tag != "tag:yaml.org,2002:str":
            written = key.value if isinstance(key.value, str) else "a structure"
            raise _refuse(walk.source, line, f"the key {written!r} is not text", "put it in quotes")
        if key.value in found:
            raise _refuse(walk.source, line, f"the key {key.value!r} stands twice in one mapping")
        under = f"{path}.{key.value}" if path else key.value
        walk.lines[under] = line
        found[key.value] = _value(loader, value, walk, under, depth - 1)
    return found
