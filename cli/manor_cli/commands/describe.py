"""`manor describe`: everything there is to know about one thing, for people."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import click

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import config
from manor_bus.wire.messages.devices import DeviceList, DevicesListed, VolumeList, VolumesListed
from manor_bus.wire.messages.lifecycle import OperationList, OperationsListed
from manor_cli import facts, names, views
from manor_cli.app import App
from manor_cli.kinds import FACTS, document_kind, singular
from manor_cli.output import show
from manor_cli.render import View, as_yaml, clean, duration, mebibytes, moment, text, whole

RECENT: Final = 5


@click.command()
@names.documents_argument("KIND NAME")
@click.pass_obj
def describe(app: App, words: Sequence[str]) -> None:
    """Describe one thing: asked for, there, and lately.

    \b
    Example:
      manor describe domain web
      manor describe node n1
    """
    kind, name = _named(words)
    wanted = singular(kind)
    document = None if wanted in ("service", "resource") else _document(app, kind, name)
    observed = _observed(app, wanted, name)
    if document is None and not observed:
        raise ManorError(
            Kind.NOT_FOUND, f"there is no {wanted} {name}", hint=f"see the names: manor list {wanted}"
        )
    app.out(f"{wanted} {clean(name)}")
    for key, value in observed.items():
        app.out(f"  {key:<14} {clean(text(value))}")
    if wanted == "domain":
        _domain(app, name)
    if document is not None:
        _section(app, "asked for")
        for line in as_yaml(document).splitlines():
            app.out(f"  {line}")
        _history(app, document_kind(kind), name)


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


def _observed(app: App, kind: str, name: str) -> dict[str, Any]:
    """Return what is observed, by the words people use."""
    if kind == "domain":
        return _status(app, name)
    if kind == "volume":
        found: list[Any] = [one for one in app.call(VolumeList(), VolumesListed).volumes if one.name == name]
    elif kind in FACTS:
        found = [entry.fact for entry in facts.find(app, kind, name=name)]  # type: ignore[arg-type]
    else:
        found = []
    return {key: value for key, value in whole(found[0]).items() if key != "kind"} if found else {}


def _status(app: App, name: str) -> dict[str, Any]:
    try:
        status = facts.domain(app, name)
    except ManorError as error:
        if error.kind is not Kind.NOT_FOUND:
            raise
        return {}
    row = views.domain_row(status, time.time())
    return {
        "state": row["state"] + (f" ({status.reason})" if status.reason else ""),
        "uuid": status.uuid,
        "node": status.node,
        "hypervisor": status.hypervisor,
        "generation": status.generation,
        "incarnation": status.incarnation,
        "revision": status.revision,
        "cpus": status.cpus,
        "memory": mebibytes(status.memory_mib),
        "uptime": f"{duration(row['uptime_s'])} (since {moment(status.started)})" if row["uptime_s"] else "",
        "run policy": status.run,
        "restarts": status.restarts,
        "operation": status.operation,
        "allowed now": status.allowed,
        "pending": views.pending_lines(status.pending),
    }


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
