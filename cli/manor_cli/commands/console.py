"""`manor console`: the serial console of a domain."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any

import click

from manor_cli import names, reach, terminal
from manor_cli.app import App
from manor_cli.serial_console import Console, Wish


@click.command()
@names.argument("domain")
@click.option("--watch", is_flag=True, help="Only look; any number may.")
@click.option("--steal", is_flag=True, help="Take the console from whoever writes to it now.")
@click.option("--no-scrollback", is_flag=True, help="Not what was printed before.")
@click.option(
    "--until", default="", metavar="TEXT", help="End when the guest has printed TEXT (after our input)."
)
@click.option(
    "--idle",
    type=float,
    default=1.0,
    show_default=True,
    help="Without a terminal: end after so many quiet seconds.",
)
@click.option("--safe", is_flag=True, help="Escape control characters of the guest.")
@click.pass_obj
def console(
    app: App, name: str, watch: bool, steal: bool, no_scrollback: bool, until: str, idle: float, safe: bool
) -> None:
    """Attach to the serial console of a domain. Ctrl-] leaves it.

    First comes what was printed before, then what is printed now. One writes, others may --watch.
    Without a terminal, standard input is typed at the console, and it ends when nothing more is printed, or
    with --until when TEXT was; the global --timeout ends it with code 9.

    \b
    Example:
      manor console web
      echo uptime | manor --timeout 10 console web --until 'load average'
    """
    wish = Wish(
        name=name, write=not watch, steal=steal, scrollback=not no_scrollback, until=until.encode(),
        idle_s=idle, timeout_s=app.timeout,
    )  # fmt: skip
    interactive = sys.stdin.isatty()
    if interactive:
        app.note(f"console of {name}; Ctrl-] leaves it")
    with terminal.raw(sys.stdin.fileno()) if interactive else nullcontext():
        asyncio.run(_run(app, wish, safe=safe, interactive=interactive))
    if interactive:
        app.note("")


async def _run(app: App, wish: Wish, *, safe: bool, interactive: bool) -> None:
    """Connect and attach."""
    line_end = "\r\n" if interactive else "\n"

    def emit(content: bytes) -> None:
        terminal.written(sys.stdout.fileno(), terminal.harmless(content) if safe else content)

    def note(text: str) -> None:
        sys.stderr.write(f"{line_end}{text}{line_end}")
        sys.stderr.flush()

    typed: AsyncIterator[bytes] = terminal.typed(sys.stdin.fileno())
    if not wish.write and not interactive:
        typed = _nothing()
    peer: Any = await reach.attached(app.settings, app.budget)
    try:
        await Console(peer, wish, emit, note).run(typed)
    finally:
        await peer.close()


async def _nothing() -> AsyncIterator[bytes]:
    """Yield nothing, and never end: only output, --until or --timeout ends a watcher without a terminal."""
    await asyncio.Event().wait()
    yield b""
