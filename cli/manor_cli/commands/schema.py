"""`manor schema`: what messages and documents look like."""

from __future__ import annotations

from typing import Any

import click

from manor_bus.wire.errors import not_found
from manor_cli.app import App
from manor_cli.kinds import DOCUMENTS
from manor_cli.output import answering, show
from manor_cli.render import View, as_json

CATALOGUE = View.of("type sort request reply part changes subjects+", name="type")


@click.command()
@click.argument("name", required=False, default="")
@click.option("--asyncapi", is_flag=True, help="The whole bus as an AsyncAPI 3 document (YAML).")
@answering
def schema(app: App, name: str, asyncapi: bool, output: str) -> None:
    """List all messages, or print the JSON Schema of one.

    NAME: a type, a subject, or a kind of document.

    \b
    Example:
      manor schema
      manor schema lifecycle.domain.start
      manor schema Domain
      manor schema --asyncapi > manor.yaml
    """
    if asyncapi:
        from manor_bus.wire.asyncapi import written

        app.out(written().rstrip())
    elif name:
        app.out(as_json(_schema(name)))
    else:
        show(app, CATALOGUE, _catalogue(), output)


def _catalogue() -> list[dict[str, Any]]:
    from manor_bus.wire.messages.catalogue import CALLS, EVENTS

    rows: list[tuple[Any, ...]] = [
        (one.type_name, "call", one.request, one.reply, one.part, one.changes, (one.subject,))
        for one in CALLS
    ]
    rows += [
        (one.type_name, "event" if one.state else "news", one.body, None, None, False, one.patterns)
        for one in EVENTS
    ]
    keys = [column.key for column in CATALOGUE.columns]
    return [dict(zip(keys, map(_named, row), strict=True)) for row in rows]


def _named(value: Any) -> Any:
    """Return a type's name; nothing where there is none, and all else as it is."""
    return "" if value is None else getattr(value, "__name__", value)


def _schema(name: str) -> Any:
    """Return the JSON Schema of a type, of a subject's present version, or of a kind of document."""
    from manor_bus.wire import schema as schemas
    from manor_bus.wire.messages import documents
    from manor_bus.wire.messages.catalogue import CALL_BY_SUBJECT

    kind = next((one for one in DOCUMENTS if one.lower() == name.lower()), "")
    if kind:
        return schemas.document(getattr(documents, kind))
    type_name = CALL_BY_SUBJECT[name].type_name if name in CALL_BY_SUBJECT else name
    try:
        return schemas.schema(type_name)
    except KeyError:
        raise not_found(f"there is no message {name}", hint="see them all: manor schema -o name") from None
