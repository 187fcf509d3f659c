"""Ask discovery what is there."""

from __future__ import annotations

import time
from typing import Final, Literal

from manor_bus.wire.errors import Kind, ManorError, not_found
from manor_bus.wire.messages.discovery import DomainFact, Entry, FactChanged, Find, Found, FoundPart
from manor_bus.wire.messages.lifecycle import DomainStatus
from manor_cli.app import App

SETTLED_S: Final = 5.0
POLL_S: Final = 0.05
Fact = Literal["node", "service", "provider", "resource", "domain"]


def find(app: App, kind: Fact, *, selector: str = "", name: str = "") -> list[Entry]:
    """Return all registered facts of a kind, sorted by name.

    A discovery that has just started is asked again until it has heard from everybody. Who may only watch is
    given what a watcher sees first.
    """
    deadline = time.monotonic() + min(app.budget, SETTLED_S)
    try:
        while True:
            entries, settling = _ask(app, Find(kind=kind, selector=selector, name=name))
            if not settling or time.monotonic() > deadline:
                break
            time.sleep(POLL_S)
    except ManorError as error:
        if error.kind is not Kind.FORBIDDEN or selector:
            raise
        entries, settling = _watched(app, kind, name), False
    if settling:
        app.note("note: discovery has just started and may not know everything yet")
    return sorted(entries, key=lambda entry: entry.fact.name)


def _ask(app: App, request: Find) -> tuple[list[Entry], bool]:
    entries: list[Entry] = []

    def part(piece: FoundPart) -> None:
        entries.extend(piece.entries)

    return entries, app.call(request, Found, on_part=part).settling


def _watched(app: App, kind: Fact, name: str) -> list[Entry]:
    """Return what there is as a watcher is told it."""
    from manor_bus.peer.view import Synced

    pattern = f"{kind}.{name}" if name else f"{kind}.>" if kind == "service" else f"{kind}.*"
    entries: list[Entry] = []
    for change in app.client.watch(pattern, timeout=app.budget):
        if isinstance(change, Synced):
            break
        if isinstance(change.value, FactChanged):
            entries.append(change.value.entry)
    return entries


def domains(app: App, *, selector: str = "", name: str = "") -> list[DomainStatus]:
    """Return the status of all domains, or of those that match."""
    return [
        entry.fact.status
        for entry in find(app, "domain", selector=selector, name=name)
        if isinstance(entry.fact, DomainFact)
    ]


def domain(app: App, name: str) -> DomainStatus:
    """Return the status of one domain by name; `not_found` when nothing is known of it."""
    for status in domains(app, name=name):
        if status.name == name:
            return status
    raise not_found(f"no domain {name} is known", hint="see the names: manor list")
