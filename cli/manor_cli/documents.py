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
_BETWEEN: Final[tuple[type[yaml.Event], ...]] = (
    yaml.StreamStartEvent,
    yaml.DocumentStartEvent,
    yaml.DocumentEndEvent,
)
_LOOKS_LIKE_JSON: Final = re.compile(r'\s*[{\[]\s*(["{\[\]}]|$)')
_TAG: Final = "tag:yaml.org,2002:"
_PLAIN: Final = {
    "str": "text",
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
    "null": "null",
}
# What plain words are in YAML 1.2; PyYAML says what they are in YAML 1.1.
_CORE: Final = (
    ("null", re.compile(r"|~|null|Null|NULL")),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE")),
    ("int", re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")),
    (
        "float",
        re.compile(
            r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
        ),
    ),
)
_LEADING_ZERO: Final = re.compile(r"[-+]?0[0-9]+")
_ESCAPE: Final = re.compile(r"\\(u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|.)", re.DOTALL)
_QUOTES: Final = "put it in quotes if it is text"


@dataclass(frozen=True)
class Parsed:
    """One document as plain values, and where it stood.

    `lines` maps paths (`spec.disks[0].id`) to lines, `written` those of numbers to what was written.
    """

    content: dict[str, Any]
    source: str
    line: int
    lines: Mapping[str, int] = field(default_factory=dict)
    written: Mapping[str, str] = field(default_factory=dict)

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


@dataclass
class _Reading:
    """The state of reading one document; `anchors` are values of YAML and their sizes."""

    source: str
    above: int = 0  # lines before the text that is read
    json: bool = False
    left: int = ELEMENTS_MAX
    lines: dict[str, int] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)
    anchors: dict[str, tuple[Any, int]] = field(default_factory=dict)

    def refuse(self, line: int, reason: str, hint: str = "") -> ManorError:
        """Return the refusal of something at a line."""
        return _refuse(self.source, line, reason, hint)

    def spend(self, line: int, count: int = 1) -> None:
        """Count elements; too many are refused."""
        self.left -= count
        if self.left < 0:
            raise self.refuse(line, f"more than {ELEMENTS_MAX} elements in one document")

    def enter(self, depth: int, line: int) -> None:
        """Go one level down."""
        if depth == 0:
            raise self.refuse(line, f"nested deeper than {DEPTH_MAX} levels")

    def key(self, found: Mapping[str, Any], key: str, path: str, line: int) -> str:
        """Take a key that stands at a line, and return its path."""
        if key in found:
            raise self.refuse(line, f"the key {key!r} stands twice in one mapping")
        under = f"{path}.{key}" if path else key
        self.lines[under] = line
        return under

    def scalar(self, value: Any, written: str, path: str, line: int) -> Any:
        """Take a plain value, unless no reader on the way could hold it."""
        if isinstance(value, float) and not -1e300 < value < 1e300:
            raise self.refuse(line, f"{written!r} is not a finite number", _QUOTES)
        if isinstance(value, int) and not -(2**63) <= value < 2**64:
            raise self.refuse(line, f"{written!r} is too large a number: it has more than 64 bits", _QUOTES)
        if not isinstance(value, str) and str(value) != written:
            self.written[path] = written
        return value

    def document(self, content: Any, line: int) -> Parsed:
        """Return what was read as a document, if it has the form of one."""
        if not isinstance(content, dict):
            raise self.refuse(line, "a document is a mapping of kind, metadata and spec")
        parsed = Parsed(content, self.source, line, self.lines, self.written)
        if parsed.kind == "List":
            advice = "let `---` stand between documents; in JSON write [document, document]"
            raise self.refuse(line, "`kind: List` is no document", advice)
        if not parsed.kind or not parsed.name:
            missing = "`kind`" if not parsed.kind else "`metadata.name`"
            advice = "`manor schema config.apply` has the form"
            raise self.refuse(line, f"the document has no {missing}", advice)
        return parsed


# -- JSON: its own reader says whether it is; the one of YAML, which reads all of it, says where things stand.


def _json(text: str, source: str) -> Iterator[Parsed]:
    """Read one or more JSON values after each other; a list stands for the documents in it."""
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    at = 0
    while (at := len(text) - len(text[at:].lstrip())) < len(text):
        line = text.count("\n", 0, at)
        try:
            _, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise _refuse(source, error.lineno, f"not JSON: {error.msg} (column {error.colno})") from None
        except (ValueError, RecursionError) as error:
            raise _refuse(source, line + 1, str(error) or "nested too deeply") from None
        yield from _yaml(_ESCAPE.sub(_as_yaml, text[at:end]), source, line, json_=True)
        at = end


def _no_constant(name: str) -> Any:
    reason = f"{name} is not a number"
    raise ValueError(reason)


def _as_yaml(match: re.Match[str]) -> str:
    """Write an escape of JSON as YAML has it: a character beyond 16 bits is one, not a pair."""
    if len(match[1]) > 1:
        high, low = int(match[1][1:5], 16), int(match[1][7:], 16)
        return f"\\U{0x10000 + ((high - 0xD800) << 10) + low - 0xDC00:08x}"
    return "/" if match[1] == "/" else match[0]


# -- YAML ----------------------------------------------------------------------------------------------------


def _yaml(text: str, source: str, above: int = 0, *, json_: bool = False) -> Iterator[Parsed]:
    """Read a stream of YAML documents, or one value of JSON, that has `above` lines before it."""
    form = "JSON" if json_ else "YAML"
    try:
        loader, skipped = _LOADER(text), _BETWEEN
        if json_ and text[0] == "[":
            skipped += (yaml.SequenceEndEvent,)
            _begin_list(loader)
        while not isinstance(event := loader.get_event(), yaml.StreamEndEvent):
            if isinstance(event, skipped):
                continue
            reading = _Reading(source, above, json_)
            content = _value(reading, loader, event, "", DEPTH_MAX)
            if content is not None or json_:
                yield reading.document(content, event.start_mark.line + 1 + above)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = f"not {form}: {error.problem or error.context}"
        raise _refuse(source, mark.line + 1 + above if mark else 1, reason) from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise _refuse(source, 1 + above, f"not {form}: {error}") from None


def _begin_list(loader: Any) -> None:
    """Go into the list that stands for the documents in it."""
    while not isinstance(loader.get_event(), yaml.SequenceStartEvent):
        pass


def _value(reading: _Reading, loader: Any, event: Any, path: str, depth: int) -> Any:
    """Turn the events of one node into plain values, noting the line of each path."""
    line, before = event.start_mark.line + 1 + reading.above, reading.left
    reading.lines.setdefault(path, line)
    if isinstance(event, yaml.AliasEvent):
        if event.anchor not in reading.anchors:
            raise reading.refuse(line, f"the alias *{event.anchor} stands for nothing before it")
        value, size = reading.anchors[event.anchor]
        reading.spend(line, size)  # everything in it counts again
        return value
    reading.spend(line)
    value = _node(reading, loader, event, path, depth, line)
    if event.anchor is not None:
        reading.anchors[event.anchor] = (value, before - reading.left)
    return value


def _node(reading: _Reading, loader: Any, event: Any, path: str, depth: int, line: int) -> Any:
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(reading, loader, event, path, line)
    reading.enter(depth, line)
    if isinstance(event, yaml.MappingStartEvent):
        return _mapping(reading, loader, path, depth)
    found: list[Any] = []
    while not isinstance(item := loader.get_event(), yaml.SequenceEndEvent):
        found.append(_value(reading, loader, item, f"{path}[{len(found)}]", depth - 1))
    return found


def _scalar(reading: _Reading, loader: Any, event: Any, path: str, line: int) -> Any:
    """Read a scalar, and refuse what readers of YAML 1.1 and 1.2 do not read as the same."""
    plain = event.tag in (None, "!") and event.implicit[0]
    if plain and reading.json:
        return reading.scalar(json.loads(event.value), event.value, path, line)
    tag = (_tag(loader, event) if event.tag in (None, "!") else event.tag).removeprefix(_TAG)
    if tag not in _PLAIN:
        reason = f"{event.value!r} would be read as a {tag.rpartition(':')[2]}"
        raise reading.refuse(line, reason, "put it in quotes")
    if plain:
        newer = next((name for name, form in _CORE if form.fullmatch(event.value)), "str")
        if newer != tag or (tag == "int" and _LEADING_ZERO.fullmatch(event.value)):
            words = "true and false are the words" if "bool" in (newer, tag) else "write the number plainly"
            reason = f"{event.value!r} is not the same in YAML 1.1 and YAML 1.2"
            raise reading.refuse(line, reason, f"{_QUOTES}; else {words}")
    try:
        value = loader.construct_object(yaml.ScalarNode(_TAG + tag, event.value))
    except (ValueError, KeyError):
        raise reading.refuse(line, f"{event.value!r} is not {_PLAIN[tag]}") from None
    return reading.scalar(value, event.value, path, line)


def _tag(loader: Any, event: Any) -> str:
    return str(loader.resolve(yaml.ScalarNode, event.value, event.implicit))


def _mapping(reading: _Reading, loader: Any, path: str, depth: int) -> dict[str, Any]:
    """Read a mapping up to its end; keys are texts and stand once."""
    found: dict[str, Any] = {}
    while not isinstance(key := loader.get_event(), yaml.MappingEndEvent):
        line = key.start_mark.line + 1 + reading.above
        scalar = isinstance(key, yaml.ScalarEvent)
        tag = (key.tag or _tag(loader, key)) if scalar else ""
        if tag == f"{_TAG}merge":
            raise reading.refuse(line, "merge keys (<<) are not read", "write the keys out, or use an alias")
        if tag != f"{_TAG}str":
            written = key.value if scalar else "a structure"
            raise reading.refuse(line, f"the key {written!r} is not text", "put it in quotes")
        under = reading.key(found, key.value, path, line)
        found[key.value] = _value(reading, loader, loader.get_event(), under, depth - 1)
    return found
