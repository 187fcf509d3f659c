"""`manor describe`: everything there is to know about one thing, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import click

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import config
from manor_bus.wire.messages.devices import DeviceList, DevicesListed
from manor_bus.wire.messages.lifecycle import DomainStory, OperationList, OperationsListed, Story
from manor_cli import facts, names, views
from manor_cli.app import App
from manor_cli.kinds import DOCUMENTS, document_kind, singular
from manor_cli.listing import LISTS
from manor_cli.output import show
from manor_cli.render import View, as_yaml, clean, column, moment, whole

RECENT: Final = 5
UNSHOWN: Final = ("kind", "name", "devices")  # said in the first line, or below
WRITTEN: Final = tuple(kind.lower() for kind in DOCUMENTS)


@click.command()
@names.documents_argument("KIND NAME")
@click.option("--story", is_flag=True, help="Of a domain: what happened to it lately, and nothing else.")
@click.pass_obj
def describe(app: App, words: Sequence[str], story: bool) -> None:
    """Describe one thing: asked for, there, and lately.

    \b
    Example:
      manor describe domain web
      manor describe domain web --story
      manor describe node n1
    """
    kind, name = _named(words)
    wanted = singular(kind)
    if story:
        _story(app, wanted, name)
        return
    document = _document(app, kind, name) if wanted not in LISTS or wanted in WRITTEN else None
    observed = _observed(app, wanted, name)
    if document is None and not observed:
        hint = f"see the names: manor list {wanted}"
        raise ManorError(Kind.NOT_FOUND, f"there is no {wanted} {name}", hint=hint)
    app.out(f"{wanted} {clean(name)}")
    for title, value in observed:
        app.out(f"  {title:<14} {clean(value)}")
    if wanted == "domain":
        _domain(app, name)
    if document is not None:
        _section(app, "asked for")
        for line in as_yaml(document).splitlines():
            app.out(f"  {line}")
        _history(app, document_kind(kind), name)


def _story(app: App, kind: str, name: str) -> None:
    if kind != "domain":
        raise click.UsageError("only a domain has a story")
    for entry in app.call(DomainStory(name=name), Story).entries:
        app.out(f"{moment(entry.at)}  {clean(entry.state):<10}  {clean(entry.event)}")


def _named(words: Sequence[str]) -> tuple[str, str]:
    """Return kind and name of `domain web`, or of `domain/web`."""
    parts = words[0].split("/", 1) if len(words) == 1 else list(words)
    if len(parts) != 2:
        raise click.UsageError("name one thing: KIND NAME, or KIND/NAME")
    return parts[0], names.bare(singular(parts[0]), parts[1])


def _document(app: App, kind: str, name: str) -> Any:
    """Return the document, or None when there is none."""
    try:
        return app.call(config.Get(kind=document_kind(kind), name=name), config.Got).document
    except ManorError as error:
        if error.kind is not Kind.NOT_FOUND:
            raise
        return None


def _observed(app: App, kind: str, name: str) -> list[tuple[str, str]]:
    """Return the title and the value of every field of what is there; none when there is no such thing."""
    view, rows = LISTS.get(kind, (views.DOCUMENTS, None))
    if kind == "domain":
        row = _domain_row(app, name)
    else:
        row = next((one for one in rows(app, "") if one[view.name] == name), None) if rows else None
    columns = {column.key: column for column in view.columns}
    shown = [(columns.get(key) or column(key, {}), value) for key, value in (row or {}).items()]
    return [
        (one.title.lower(), views.pending(value) if one.key == "pending" else one.show(value))
        for one, value in shown
        if one.key not in UNSHOWN
    ]


def _domain_row(app: App, name: str) -> dict[str, Any] | None:
    try:
        return views.domain_row(facts.domain(app, name), app.node_clock)
    except ManorError as error:
        if error.kind is not Kind.NOT_FOUND:
            raise
        return None


def _domain(app: App, name: str) -> None:
    """Show the devices and the last operations of a domain."""
    devices = _or_nothing(app, DeviceList(domain=name), DevicesListed)
    _rows(
        app, "devices", views.DEVICES, [views.device_row(one) for one in devices.devices] if devices else []
    )
    listed = _or_nothing(app, OperationList(target=name, limit=RECENT), OperationsListed)
    rows = [whole(one) for one in listed.operations] if listed else []
    _rows(app, "last operations", views.OPERATIONS, rows)


def _or_nothing(app: App, request: Any, reply: Any) -> Any:
    """Ask, and say so when the one who knows is not there: the rest is still worth showing."""
    try:
        return app.call(request, reply)
    except ManorError as error:
        if error.kind not in (Kind.UNAVAILABLE, Kind.NOT_FOUND):
            raise
        app.note(f"note: {clean(error.message)}")
        return None


def _history(app: App, kind: str, name: str) -> None:
    listed = _or_nothing(app, config.History(kind=kind, name=name, limit=RECENT), config.HistoryListed)
    _rows(app, "last revisions", views.HISTORY, [whole(entry) for entry in listed.entries] if listed else [])


def _rows(app: App, title: str, view: View, rows: list[dict[str, Any]]) -> None:
    if rows:
        _section(app, title)
        show(app, view, rows, "table")


def _section(app: App, title: str) -> None:
    app.out("")
    app.out(f"{title}:")
