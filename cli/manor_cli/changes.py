"""Post transactions on documents, tell what they did, and how two versions of a document differ."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import click
import msgspec

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.config import Applied, Apply, Change, Delete, DiffLine, Rename, Rollback
from manor_bus.wire.messages.documents import AnyDocument
from manor_cli import follow, settle, views
from manor_cli.app import App
from manor_cli.output import show
from manor_cli.render import clean, whole

_WOULD: Final = {"created": "be created", "changed": "be changed", "deleted": "be deleted"}
_COLORS: Final = {"created": "green", "changed": "yellow", "deleted": "red"}


def post(
    app: App, request: Apply | Delete | Rename | Rollback, form: str, *, wait: bool = False, device: str = ""
) -> None:
    """Change documents, all or none; tell what became of each, and wait, if wanted, until all is so.

    `device`: of the domains only what becomes of this one is waited for.
    """
    try:
        applied = app.call(request, Applied, key=follow.new_id())
    except ManorError as error:
        if error.kind is Kind.CONFLICT and not error.hint:
            error.hint = "somebody changed it meanwhile: repeat the command"
        raise
    told(app, applied, form)
    if wait:
        settle.wait(app, applied.changes, device=device)


def written(document: AnyDocument, *, new: bool = False, reason: str = "") -> Apply:
    """Return the request to write a document, if nobody else has changed it since it was read; one that is
    `new` must not exist yet."""
    content = msgspec.to_builtins(document)
    content["metadata"]["revision"] = 0 if new else document.metadata.revision
    return Apply(documents=(content,), reason=reason)


def told(app: App, applied: Applied, form: str, *, dry_run: bool = False) -> None:
    """Print what happened to each document (in a dry run: what would)."""
    if form not in ("table", "wide"):
        show(app, views.CHANGES, [row(change) for change in applied.changes], form)
        return
    made = {change.uuid for change in applied.changes if change.action == "created"}
    before = {one.uuid: one.name for one in applied.changes if one.action == "deleted" and one.uuid in made}
    for change in applied.changes:
        if change.action == "deleted" and change.uuid in before:
            continue  # it has another name now
        app.out(line(app, change, before.get(change.uuid, ""), dry_run=dry_run))
        if dry_run or form == "wide":
            diff(app, change.diff)


def any_of(changes: Iterable[Change]) -> bool:
    """Whether anything was changed."""
    return any(change.action != "unchanged" for change in changes)


def row(change: Change) -> dict[str, Any]:
    """Return one change as an object."""
    return {**whole(change), "path": f"{change.kind.lower()}/{change.name}"}


def line(app: App, change: Change, before: str, *, dry_run: bool) -> str:
    """Return one change as a sentence; `before` is the name that the document had, if it was another."""
    words = f"would {_WOULD[change.action]}" if dry_run and change.action in _WOULD else change.action
    subject = f"{change.kind.lower()}/{clean(change.name)}"
    at = "" if dry_run else f" (revision {change.revision})"
    if before:
        return f"{subject} has a new name{at}, it was {clean(before)}"
    return f"{subject} {_style(app, words, _COLORS.get(change.action, ''))}{at}"


def diff(app: App, lines: Iterable[DiffLine]) -> None:
    """Print changed fields: `-` what was, `+` what is."""
    for one in lines:
        if one.old:
            app.out(_style(app, f"  - {clean(one.path)}: {clean(one.old)}", "red"))
        if one.new:
            app.out(_style(app, f"  + {clean(one.path)}: {clean(one.new)}", "green"))


def _style(app: App, text: str, color: str) -> str:
    return click.style(text, fg=color) if color and app.terminal and app.settings.color else text
