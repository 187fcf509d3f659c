"""Tell what a transaction did to documents, and how two versions of one differ."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import click

from manor_bus.wire.messages.config import Applied, Change, DiffLine
from manor_cli import views
from manor_cli.app import App
from manor_cli.output import show
from manor_cli.render import clean, whole

_WOULD: Final = {"created": "be created", "changed": "be changed", "deleted": "be deleted"}
_COLORS: Final = {"created": "green", "changed": "yellow", "deleted": "red"}


def told(app: App, applied: Applied, form: str, *, dry_run: bool = False, diffs: bool = False) -> None:
    """Print what happened to each document (in a dry run: what would)."""
    if form not in ("table", "wide"):
        show(app, views.CHANGES, [row(change) for change in applied.changes], form)
        return
    for change in applied.changes:
        app.out(line(app, change, dry_run=dry_run))
        if diffs or dry_run or form == "wide":
            diff(app, change.diff)


def any_of(changes: Iterable[Change]) -> bool:
    """Whether anything was changed."""
    return any(change.action != "unchanged" for change in changes)


def row(change: Change) -> dict[str, Any]:
    """Return one change as an object."""
    return {**whole(change), "path": f"{change.kind.lower()}/{change.name}"}


def line(app: App, change: Change, *, dry_run: bool) -> str:
    """Return one change as a sentence."""
    words = f"would {_WOULD[change.action]}" if dry_run and change.action in _WOULD else change.action
    subject = f"{change.kind.lower()}/{clean(change.name)}"
    at = "" if dry_run else f" (revision {change.revision})"
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
