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
    """Show a size in the largest unit in which it is a short number."""
    if not count:
        return "-"
    for unit, size in (("TiB", 1_048_576), ("GiB", 1_024)):
        if count >= size and count % (size // 4) == 0:
            return f"{count / size:g}{unit}"
    return f"{count}MiB"


def percent(fraction: float) -> str:
    """Show 0..1 as a percentage."""
    return f"{100 * fraction:.0f}%"


def moment(seconds: float) -> str:
    """Show seconds since 1970 in local time (with `--utc` in UTC), with the zone's distance from UTC."""
    import datetime

    if not seconds:
        return "-"
    when = datetime.datetime.fromtimestamp(seconds, datetime.UTC).astimezone()
    return when.strftime("%Y-%m-%d %H:%M:%S%z")


def count(items: Any) -> str:
    """Show how many there are; none is a dash."""
    return str(len(items)) if items else "-"


def number(value: Any) -> str:
    """Show a whole number; nothing is a dash, zero is zero."""
    return "-" if value is None else f"{value:g}"


def seconds(value: Any) -> str:
    """Show a length of time; none is a dash."""
    return duration(value) if value else "-"


def milliseconds(value: Any) -> str:
    """Show a length of time that is told in milliseconds; zero is one, too."""
    return duration((value or 0) / 1000)


# -- tables --------------------------------------------------------------------------------------------------

CUT_MIN: Final = 12
MOMENTS: Final = frozenset({"created", "ended", "at", "modified", "since", "started", "not_answering_since"})
BY_ENDING: Final[tuple[tuple[str, Callable[[Any], str]], ...]] = (
    ("_mib", mebibytes),
    ("_ms", milliseconds),
    ("_s", seconds),
)


class Column(msgspec.Struct, frozen=True):
    """One column: its title, the row's key, how a value is shown, and what becomes of it in a narrow table.

    `wide`: only `-o wide` has it. `cut`: free text that may end with an ellipsis. `optional`: not shown when
    no row has it. Columns of a higher `rank` are dropped first.
    """

    title: str
    key: str
    show: Callable[[Any], str] = text
    wide: bool = False
    cut: bool = False
    optional: bool = False
    rank: int = 1


class View(msgspec.Struct, frozen=True):
    """How rows of one kind are shown. `name` is the key that `-o name` prints, after `prefix`."""

    columns: tuple[Column, ...]
    name: str = "name"
    prefix: str = ""
    empty: str = "nothing there"

    @staticmethod
    def of(
        words: str, *, name: str = "name", prefix: str = "", empty: str = "nothing there", **shows: Any
    ) -> View:
        """Return the view of a struct's fields, in order.

        Marks behind a field: `+` wide only, `~` may be cut, `?` only when there is one, `!` dropped last, `-`
        dropped first. How a value is shown follows from the field's name unless `shows` says it.
        """
        return View(tuple(column(word, shows) for word in words.split()), name, prefix, empty)

    def shown(self, *, wide: bool) -> tuple[Column, ...]:
        """Return the columns of the narrow or the wide form."""
        return tuple(column for column in self.columns if wide or not column.wide)

    def cells(self, rows: Iterable[Mapping[str, Any]], *, wide: bool) -> list[list[str]]:
        """Return the escaped cells of all rows."""
        columns = [(column.key, column.show) for column in self.shown(wide=wide)]
        return [[clean(show(row.get(key))) for key, show in columns] for row in rows]

    def table(
        self, rows: Sequence[Mapping[str, Any]], *, wide: bool, width: int | None = None
    ) -> list[list[str]]:
        """Return the titles and the cells of all rows, within a width if there is one."""
        columns, cells = self.shown(wide=wide), self.cells(rows, wide=wide)
        kept = [
            at
            for at, column in enumerate(columns)
            if not column.optional or wide or any(row[at] != "-" for row in cells)
        ]
        lines = [[column.title for column in columns], *cells]
        if width is not None:
            return fitted([columns[at] for at in kept], [[row[at] for at in kept] for row in lines], width)
        return lines if len(kept) == len(columns) else [[row[at] for at in kept] for row in lines]


def column(word: str, shows: Mapping[str, Callable[[Any], str]]) -> Column:
    """Return the column of a field, which may have marks behind it."""
    key = word.rstrip("+~?!-")
    marks = word[len(key) :]
    ending, show = next(((end, show) for end, show in BY_ENDING if key.endswith(end)), ("", text))
    show = shows.get(key, moment if key in MOMENTS else percent if key == "progress" else show)
    title = key.removesuffix(ending).replace("_", " ").upper()
    rank = 0 if "!" in marks else 2 if "-" in marks else 1
    return Column(title, key, show, "+" in marks, "~" in marks, "?" in marks, rank)


def fitted(columns: Sequence[Column], lines: Sequence[Sequence[str]], width: int) -> list[list[str]]:
    """Return a table within a width: free texts are cut, then columns dropped, the least important first."""
    natural = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    order = sorted(range(1, len(columns)), key=lambda at: (columns[at].rank, at))
    for count_ in range(len(order), -1, -1):
        kept = sorted([0, *order[:count_]])
        widths = {at: natural[at] for at in kept}
        over = sum(widths.values()) + 2 * (len(kept) - 1) - width
        cut = [at for at in kept if columns[at].cut or not count_]
        for at in sorted(cut, key=lambda at: -natural[at]):
            widths[at] -= max(0, min(over, natural[at] - CUT_MIN))
            over -= natural[at] - widths[at]
        if over <= 0 or not count_:
            break
    return [[_short(line[at], widths[at]) for at in kept] for line in lines]


def _short(cell: str, width: int) -> str:
    return cell if len(cell) <= width else f"{cell[: width - 1]}…"


def plain(lines: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """Yield the cells of each line of a table, filled up to the width of their column."""
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    for row in lines:
        yield [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]


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
    safe = all(not _unsafe_json().search(msgspec.json.encode(item).decode()) for item in documents)
    form: dict[str, Any] = {
        "sort_keys": False,
        "default_flow_style": False,
        "width": 100,
        "allow_unicode": safe,
    }
    return str(yaml.dump_all(documents, Dumper=dumper, explicit_start=many and len(documents) > 1, **form))


def names(view: View, rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield one name a line, for shell loops."""
    for row in rows:
        yield clean(f"{view.prefix}{row.get(view.name, '')}")
