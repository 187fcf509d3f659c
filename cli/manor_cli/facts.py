"""Ask discovery what is there."""

from __future__ import annotations

from typing import Literal

from manor_bus.errors import not_found
from manor_bus.messages.discovery import DomainFact, Entry, Find, Found, FoundPart
from manor_bus.messages.lifecycle import DomainStatus
from manor_cli.app import App

Fact = Literal["node", "service", "provider", "resource", "domain"]


def find(app: App, kind: Fact, *, selector: str = "", name: str = "") -> list[Entry]:
    """Return all registered facts of a kind, sorted by name."""
    entries: list[Entry] = []

    def part(piece: FoundPart) -> None:
        entries.extend(piece.entries)

    found = app.call(Find(kind=kind, selector=selector, name=name), Found, on_part=part)
    if found.settling:
        app.note("note: discovery has just started and may not know everything yet")
    return sorted(entries, key=lambda entry: entry.fact.name)


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
