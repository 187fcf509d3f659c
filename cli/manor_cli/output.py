"""Print an answer in the form that was asked for: `-o table|wide|json|yaml|name`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import click

from manor_cli import render
from manor_cli.app import App
from manor_cli.render import View

FORMS: Final = ("table", "wide", "json", "yaml", "name")
RICH_ROWS_MAX: Final = 500  # rich takes a millisecond for each row
STYLES: Final = {
    "RUNNING": "green",
    "CONNECTED": "green",
    "ready": "green",
    "loaded": "green",
    "done": "green",
    "CRASHED": "red",
    "FAILED": "red",
    "failed": "red",
    "LOST": "red",
    "ORPHANED": "red",
    "BROKEN": "red",
    "PAUSED": "yellow",
    "SUSPENDED": "yellow",
    "cancelled": "yellow",
}
F = TypeVar("F", bound=Callable[..., Any])


def output_option(function: F) -> F:
    """Give a command the option `-o`, as the argument `output`."""
    option = click.option(
        "-o",
        "--output",
        type=click.Choice(FORMS),
        default="table",
        show_default=True,
        help="Form of the answer.",
    )
    return option(function)


def show(app: App, view: View, rows: Sequence[Mapping[str, Any]], output: str) -> None:
    """Print a list of rows."""
    if output == "json":
        app.out(render.as_json(rows))
    elif output == "yaml":
        app.out(render.as_yaml(list(rows)).rstrip())
    elif output == "name":
        for name in render.names(view, rows):
            app.out(name)
    elif not rows:
        app.note(view.empty)
    else:
        _table(app, view, rows, wide=output == "wide")


def show_one(app: App, view: View, row: Mapping[str, Any], output: str) -> None:
    """Print one thing: an object in JSON and YAML, a table of one row otherwise."""
    if output == "json":
        app.out(render.as_json(row))
    elif output == "yaml":
        app.out(render.as_yaml(dict(row)).rstrip())
    else:
        show(app, view, [row], output)


def _table(app: App, view: View, rows: Sequence[Mapping[str, Any]], *, wide: bool) -> None:
    titles = [column.title for column in view.shown(wide=wide)]
    cells = view.cells(rows, wide=wide)
    if not app.terminal or len(rows) > RICH_ROWS_MAX:
        for line in render.plain(titles, cells):
            app.out(line)
        return
    console(app).print(rich_table(titles, cells))


def console(app: App, *, stderr: bool = False) -> Any:
    """Return rich's console; colours only where they are wanted."""
    from rich.console import Console

    return Console(
        stderr=stderr, force_terminal=app.terminal or None, no_color=not app.settings.color, highlight=False
    )


def rich_table(titles: Sequence[str], cells: Sequence[Sequence[str]]) -> Any:
    """Return a table for a terminal; cells are texts, never mark-up."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    return table
