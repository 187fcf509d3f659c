"""Makes docs/documents.md: every field of every document, as written in YAML; `make docs` runs it."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import inspect

from manor_bus.wire.messages import documents
from manor_config import effects
from manor_config.documents import KINDS
from manor_config.rules import Rule, rule_of
from manor_config.shapes import choices_of, fields_of

INTRODUCTION: Final = """\
# Documents

Every field of every document, as it is written in YAML or JSON. This page is made from the code
(`make docs`): do not edit it. What documents are for is on the page
[Config](config.md). A key that is not listed is refused with the nearest one that is; `spec.extra` of a
Domain carries what Manor does not understand.

```yaml
kind: Domain
metadata: {name: web, labels: {tier: front}}
spec:
  cpu: {count: 2}
  memory: {size_mib: 512}
  disks:
    - {id: root, source: /var/lib/images/web.qcow2, format: qcow2}
  nics:
    - {id: net0, network: lan}
```

`kind` is one of %s.
`[]` stands for an element of a list, `{}` for any key. A bold key is required.
"""
HEAD: Final = "| key | holds | default | allowed | |\n|---|---|---|---|---|"
_MESSAGES: Final = runpy.run_path(str(Path(__file__).with_name("messages.py")))
_SHAPES: Final = {shape.name: shape for shape in _MESSAGES["shapes"](documents)}


def page() -> str:
    """Return docs/documents.md."""
    chapters = [_chapter("metadata", documents.Metadata, "What every document has.")]
    for name, kind in KINDS.items():
        spec = fields_of(kind)["spec"].type
        assert isinstance(spec, inspect.StructType)
        chapters.append(_chapter("spec", spec.cls, _SHAPES[spec.cls.__name__].doc, title=name))
    introduction = INTRODUCTION % ", ".join(f"`{name}`" for name in KINDS)
    return "\n".join([introduction, *chapters]).rstrip() + "\n"


def _chapter(path: str, struct: type, doc: str, *, title: str = "metadata") -> str:
    return "\n".join([f"## {title}", "", doc, "", HEAD, *_rows(path, struct), ""])


def _rows(path: str, struct: type) -> Iterator[str]:
    told = {field.name: field.doc for field in _SHAPES[struct.__name__].fields}
    for name, field in fields_of(struct).items():
        key, wanted = f"{path}.{name}", field.type
        if isinstance(wanted, inspect.VarTupleType):
            key, wanted = f"{key}[]", wanted.item_type
        if isinstance(wanted, inspect.StructType):
            doc = " ".join(_SHAPES[wanted.cls.__name__].doc.split())
            yield f"| {_key(key, field)} | | | | {doc}{_force(struct, name)} |"
            yield from _rows(key, wanted.cls)
            continue
        key += ".{}" if isinstance(wanted, inspect.DictType) else ""
        allowed, doc = _allowed(wanted, rule_of(struct, name)), told[name] + _force(struct, name)
        yield f"| {_key(key, field)} | {_holds(wanted)} | {_default(field)} | {allowed} | {doc} |"


def _force(struct: type, name: str) -> str:
    if name in effects.REFUSED.get(struct, ()):
        return " **not supported yet**"
    return " **kept, not in force yet**" if name in effects.NOT_IN_FORCE.get(struct, ()) else ""


def _key(key: str, field: inspect.Field) -> str:
    return f"**`{key}`**" if field.required else f"`{key}`"


def _holds(wanted: inspect.Type) -> str:
    if isinstance(wanted, inspect.UnionType):
        return _holds(next(one for one in wanted.types if not isinstance(one, inspect.NoneType)))
    if isinstance(wanted, inspect.DictType):
        return _holds(wanted.value_type)
    names = {inspect.IntType: "whole number", inspect.FloatType: "number", inspect.BoolType: "true or false"}
    return names.get(type(wanted), "anything" if isinstance(wanted, inspect.AnyType) else "text")


def _allowed(wanted: inspect.Type, rule: Rule | None) -> str:
    choices = choices_of(wanted)
    if choices is not None:
        return ", ".join(f"`{choice}`" if choice else "nothing" for choice in choices)
    return rule.allowed if rule is not None else ""


def _default(field: inspect.Field) -> str:
    default: Any = field.default
    if default in (msgspec.NODEFAULT, None, "", ()) or isinstance(default, msgspec.Struct):
        return ""
    return f"`{msgspec.json.encode(default).decode()}`"
