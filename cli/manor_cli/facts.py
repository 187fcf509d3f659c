"""Ask discovery what is there, and config what is wished."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from manor_bus.wire.errors import Kind, ManorError, not_found
from manor_bus.wire.messages.discovery import Entry, Find, Found, FoundPart
from manor_bus.wire.messages.lifecycle import DomainStatus
from manor_cli.render import clean

if TYPE_CHECKING:
    from manor_cli.app import App

Fact = Literal["node", "service", "provider", "resource", "domain"]


def find(app: App, kind: Fact, *, selector: str = "", name: str = "") -> list[Entry]:
    """Return what is known of a kind, sorted by name. Whose word is missing is told, and kept in the app."""
    entries: list[Entry] = []

    def part(piece: FoundPart) -> None:
        entries.extend(piece.entries)

    found = app.call(Find(kind=kind, selector=selector, name=name), Found, on_part=part)
    for missing in found.missing:
        app.note(f"note: this is not all there is: {clean(missing)}")
    app.partial = app.partial or not found.complete
    return sorted(entries, key=lambda entry: entry.fact.name)


def domains(app: App, *, selector: str = "", name: str = "") -> list[DomainStatus]:
    """Return the status of all domains, or of those that match."""
    found = [entry.fact for entry in find(app, "domain", selector=selector, name=name)]
    return [fact for fact in found if isinstance(fact, DomainStatus)]


def domain(app: App, name: str) -> DomainStatus:
    """Return the status of one domain by name or uuid.

    `not_found` when there is none, `unavailable` when nobody knows whether there is one.
    """
    for status in domains(app, name=name):
        if name in (status.name, status.uuid):
            return status
    if app.partial:
        hint = "see which services run: manor status"
        raise ManorError(Kind.UNAVAILABLE, f"whether there is a domain {name} is not known now", hint=hint)
    raise not_found(f"no domain {name} is known", hint="see the names: manor list")


def documents(app: App, kind: str, selector: str = "") -> list[Any]:
    """Return all documents of a kind that match, page by page; of every kind when it is empty."""
    from manor_bus.wire.messages import config
    from manor_bus.wire.messages.documents import kind_of

    found: list[Any] = []
    more, after = True, ""
    while more:
        page = app.call(config.List(kind=kind, selector=selector, after=after), config.Listed)
        found += page.documents
        more = page.more and bool(page.documents)
        after = f"{kind_of(found[-1])}/{found[-1].metadata.name}" if found else ""
    return found
