"""Print an answer in the form that was asked for: `-o table|wide|json|yaml|name`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar, cast

import click

from manor_cli import render
from manor_cli.app import App
from manor_cli.render import View

FORMS: Final = ("table", "wide", "json", "yaml", "name")
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
line_option = click.option(
    "-o", "--output", type=click.Choice(["line", "json"]), default="line", show_default=True
)
reason_option = click.option("--reason", default="", help="Why; kept in the history.")
Row = Mapping[str, Any]
F = TypeVar("F", bound=Callable[..., Any])


def answering(function: F) -> F:
    """Give a command the app, and the option that says in which form it answers."""
    form = click.option(
        "-o",
        "--output",
        type=click.Choice(FORMS),
        default="table",
        show_default=True,
        help="Form of the answer.",
    )
    return cast("F", form(click.pass_obj(function)))


def show(app: App, view: View, found: Sequence[Row] | Row, output: str) -> None:
    """Print a list of rows, or one thing: an object in JSON and YAML, a table of one row otherwise."""
    rows = [found] if isinstance(found, Mapping) else found
    if output == "json":
        app.out(render.as_json(found))
    elif output == "yaml":
        app.out(render.as_yaml(found).rstrip())
    elif output == "name":
        for name in render.names(view, rows):
            app.out(name)
    elif not rows:
        app.note("none that is known now" if app.partial else view.empty)
    else:
        for line in lines(app, view, rows, wide=output == "wide"):
            app.out(line)


def _columns() -> int:
    """Return how wide the terminal is."""
    import shutil  # with its archives the slowest import of a short command

    return shutil.get_terminal_size().columns


def lines(app: App, view: View, rows: Sequence[Row], *, wide: bool) -> list[str]:
    """Return the lines of a table: on a terminal within its width and in colours, wide or elsewhere all."""
    width = _columns() if app.terminal and not wide else None
    table = list(render.plain(view.table(rows, wide=wide, width=width)))
    if app.terminal and app.settings.color:
        table = [[_colored(cell) for cell in row] for row in table]
    return ["  ".join(row).rstrip() for row in table]


def _colored(cell: str) -> str:
    color = STYLES.get(cell.rstrip())
    return click.style(cell, fg=color) if color else cell


@contextmanager
def status_line(app: App) -> Iterator[Callable[[str], None]]:
    """Yield a function that shows a text in the last line of the terminal; the line goes at the end."""

    def draw(text: str) -> None:
        with suppress(OSError):
            click.echo(f"\r\x1b[K{text[: _columns() - 1]}", nl=False, err=True)

    try:
        yield draw
    finally:
        draw("")
