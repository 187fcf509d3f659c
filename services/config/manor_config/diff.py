"""What differs between two versions of a document, field by field. Pure.

Paths read `spec.memory.size_mib`; an element of a list that has ids is named by its id, `spec.disks[root]`,
so that inserting one does not look like changing all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from manor_bus.wire.messages.config import DiffLine
from manor_bus.wire.messages.documents import AnyDocument

VALUE_CHARACTERS_MAX: Final = 400
REPLY_BYTES_MAX: Final = 256 * 1024  # of differences in one reply
_ABSENT: Final = object()


def differences(old: AnyDocument | None, new: AnyDocument | None) -> tuple[DiffLine, ...]:
    """Return the changed fields of the spec, the labels and the annotations."""
    return tuple(_compare("", _asked_for(old), _asked_for(new)))


def bounded(diff: tuple[DiffLine, ...], room: int) -> tuple[tuple[DiffLine, ...], int]:
    """Return differences that fit into so many bytes (or how many there are), and the room that is left."""
    size = sum(len(line.path) + len(line.old) + len(line.new) + 24 for line in diff)
    if size > room:
        return (DiffLine(path="spec", new=f"{len(diff)} more fields changed"),), room
    return diff, room - size


def _asked_for(document: AnyDocument | None) -> Any:
    """Return what a person says in a document, without what config fills in."""
    if document is None:
        return {}
    metadata = {"labels": document.metadata.labels, "annotations": document.metadata.annotations}
    return {"metadata": metadata, "spec": msgspec.to_builtins(document.spec)}


def _compare(path: str, old: Any, new: Any) -> Iterator[DiffLine]:
    if old == new:
        return
    before, after = _children(path, old), _children(path, new)
    if before is None or after is None or not (before or after):
        yield DiffLine(path=path, old=_text(old), new=_text(new))
        return
    orders = ([k for k in before if k in after], [k for k in after if k in before])
    if orders[0] != orders[1]:
        was, now = ([key.rpartition("[")[2].rstrip("]") for key in order] for order in orders)
        yield DiffLine(path=path, old=_text(was), new=_text(now))
    for key in [*before, *(key for key in after if key not in before)]:
        yield from _compare(key, before.get(key, _ABSENT), after.get(key, _ABSENT))


def _children(path: str, value: Any) -> Mapping[str, Any] | None:
    """Return the parts of a value by their paths; None for what has none."""
    if value is _ABSENT:
        return {}
    if isinstance(value, Mapping):
        dot = "." if path else ""
        return {f"{path}{dot}{key}": part for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        ids = [part.get("id") if isinstance(part, Mapping) else None for part in value]
        named = None not in ids and len(set(ids)) == len(ids)
        return {f"{path}[{ids[n] if named else n}]": part for n, part in enumerate(value)}
    return None


def _text(value: Any) -> str:
    if value is _ABSENT:
        return ""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= VALUE_CHARACTERS_MAX else text[: VALUE_CHARACTERS_MAX - 1] + "…"
