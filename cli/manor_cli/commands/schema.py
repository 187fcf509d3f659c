"""`manor schema`: what messages and documents look like."""

from __future__ import annotations

from typing import Any

import click

from manor_bus.wire.errors import not_found
from manor_cli.app import App
from manor_cli.kinds import DOCUMENTS
from manor_cli.output import output_option, show
from manor_cli.render import Column, View, as_json

CATALOGUE = View(
    (
        Column("TYPE", "type"),
        Column("SORT", "sort"),
        Column("REQUEST OR BODY", "request"),
        Column("REPLY", "reply"),
        Column("PARTS", "part"),
        Column("CHANGES", "changes"),
        Column("SUBJECTS", "subjects", wide=True),
    ),
    name="type",
)


@click.command()
@click.argument("name", required=False, default="")
@click.option("--asyncapi", is_flag=True, help="The whole bus as an AsyncAPI 3 document (YAML).")
@output_option
@click.pass_obj
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

    calls = [
        {
            "type": call.type_name,
            "sort": "call",
            "request": call.request.__name__,
            "reply": call.reply.__name__,
            "part": call.part.__name__ if call.part else "",
            "changes": call.changes,
            "subjects": (call.subject,),
        }
        for call in CALLS
    ]
    events = [
        {
            "type": event.type_name,
            "sort": "event" if event.state else "news",
            "request": event.body.__name__,
            "reply": "",
            "part": "",
            "changes": False,
            "subjects": event.patterns,
        }
        for event in EVENTS
    ]
    return [*calls, *events]


def _schema(name: str) -> Any:
    """Return the JSON Schema of a type, of a subject's present version, or of a kind of document."""
    import msgspec

    from manor_bus.wire import schema as schemas
    from manor_bus.wire.messages import documents
    from manor_bus.wire.messages.catalogue import CALL_BY_SUBJECT

    kind = next((one for one in DOCUMENTS if one.lower() == name.lower()), "")
    if kind:
        return msgspec.json.schema(getattr(documents, kind))
    type_name = CALL_BY_SUBJECT[name].type_name if name in CALL_BY_SUBJECT else name
    try:
        return schemas.schema(type_name)
    except KeyError:
        raise not_found(f"there is no message {name}", hint="see them all: manor schema -o name") from None
