"""Turn values into text: tables, JSON, YAML, names. Pure; the terminal is somebody else's.

Everything that came from outside passes `clean` (or an encoder that escapes) before it reaches a terminal:
a guest or a document must not be able to send control sequences to the person who looks at it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final

import msgspec

# C0 and C1 controls, DEL, and the characters that change the direction or the line of a text.
_CONTROLS: Final = "\x00-\x1f\x7f-\x9f"
_MARKS: Final = "\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069"


@cache
def _unsafe() -> re.Pattern[str]:
    """Return what may not reach a terminal; compiled when the first text needs it, which is seldom."""
    return re.compile(f"[{_CONTROLS}{_MARKS}\ud800-\udfff]")


@cache
def _unsafe_json() -> re.Pattern[str]:
    """Return what JSON lets through and a terminal would obey."""
    return re.compile(f"[\x7f-\x9f{_MARKS}]")


def clean(text: str) -> str:
    r"""Return `text` with every control character written as an escape (`\x1b`)."""
    if text.isascii() and text.isprintable():
        return text
    return _unsafe().sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def whole(value: Any) -> Any:
    """Return wire structs as mappings with *all* their fields, defaults too; bytes as base64 text."""
    if isinstance(value, msgspec.Struct):
        tag = value.__struct_config__.tag
        fields = {name: whole(getattr(value, name)) for name in value.__struct_fields__}
        return fields if tag is None else {str(value.__struct_config__.tag_field): tag, **fields}
    if isinstance(value, (list, tuple)):
        return [whole(item) for item in value]
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    return msgspec.to_builtins(value)


# -- cells ---------------------------------------------------------------------------------------------------


def text(value: Any) -> str:
    """Show a plain value; nothing is a dash."""
    if value is None or value == "" or value == () or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ",".join(text(item) for item in value)
    if isinstance(value, dict):
        return ",".join(f"{key}={item}" for key, item in value.items()) or "-"
    return str(value)


def duration(seconds: float) -> str:
    """Show a length of time in its two largest units: `3d4h`, `12m5s`, `0.8s`."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f}s"
    rest, parts = int(seconds), []
    for letter, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        parts.append(f"{count}{letter}" if count else "")
    first = next(index for index, part in enumerate(parts) if part)
    return "".join(parts[first : first + 2])


def mebibytes(count: int) -> str:
    """Show MiB, or GiB when that is a short number."""
    if count >= 1024 and count % 256 == 0:
        return f"{count / 1024:g}G"
    return f"{count}M" if count else "-"


def percent(fraction: float) -> str:
    """Show 0..1 as a percentage."""
    return f"{100 * fraction:.0f}%"


def moment(seconds: float) -> str:
    """Show seconds since 1970 as UTC."""
    import datetime

    if not seconds:
        return "-"
    when = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return when.strftime("%Y-%m-%d %H:%M:%SZ")


# -- tables --------------------------------------------------------------------------------------------------


class Column(msgspec.Struct, frozen=True):
    """One column: its title, the row's key, how a value is shown, and whether only `-o wide` has it."""

    title: str
    key: str
    show: Callable[[Any], str] = text
    wide: bool = False


class View(msgspec.Struct, frozen=True):
    """How rows of one kind are shown. `name` is the key that `-o name` prints, after `prefix`."""

    columns: tuple[Column, ...]
    name: str = "name"
    prefix: str = ""
    empty: str = "nothing there"

    def shown(self, *, wide: bool) -> tuple[Column, ...]:
        """Return the columns of the narrow or the wide form."""
        return tuple(column for column in self.columns if wide or not column.wide)

    def cells(self, rows: Iterable[Mapping[str, Any]], *, wide: bool) -> list[list[str]]:
        """Return the escaped cells of all rows."""
        columns = [(column.key, column.show) for column in self.shown(wide=wide)]
        return [[clean(show(row.get(key))) for key, show in columns] for row in rows]


def plain(titles: Sequence[str], cells: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table without a terminal's help: aligned, two spaces apart."""
    widths = [max([len(title), *(len(row[at]) for row in cells)]) for at, title in enumerate(titles)]
    for row in (titles, *cells):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


# -- machine-readable ----------------------------------------------------------------------------------------


def as_json(value: Any, *, indent: int = 2) -> str:
    """Return JSON (`indent` 0: one line), with the characters escaped that would change a terminal."""
    encoded = msgspec.json.encode(value)
    found = (msgspec.json.format(encoded, indent=indent) if indent else encoded).decode()
    if found.isascii() and "\x7f" not in found:
        return found
    return _unsafe_json().sub(lambda match: f"\\u{ord(match[0]):04x}", found)


def as_yaml(value: Any, *, many: bool = False) -> str:
    """Return YAML; `many`: a stream of documents. Needs PyYAML, imported here because few commands do."""
    import yaml

    dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    documents = [msgspec.to_builtins(item) for item in (value if many else [value])]
    safe = all(not _unsafe_json().search(as_json_raw(item)) for item in documents)
    return str(
        yaml.dump_all(
            documents,
            Dumper=dumper,
            sort_keys=False,
            allow_unicode=safe,
            explicit_start=many and len(documents) > 1,
            default_flow_style=False,
            width=100,
        )
    )


def as_json_raw(value: Any) -> str:
    """Return JSON without the extra escapes, to look for unsafe characters in."""
    return msgspec.json.encode(value).decode()


def names(view: View, rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield one name a line, for shell loops."""
    for row in rows:
        yield clean(f"{view.prefix}{row.get(view.name, '')}")
