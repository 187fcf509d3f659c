"""`manor console`: the serial console of a domain."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any

import click
from msgspec import structs

from manor_bus.wire.messages.consoles import ConsoleRecall, LastRun
from manor_cli import names, reach, terminal
from manor_cli.app import App
from manor_cli.render import as_json, clean
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
@click.option(
    "--run", type=click.IntRange(-1, 0), default=0, help="-1: print what the last run that is over printed."
)
@click.pass_obj
def console(
    app: App, name: str, watch: bool, steal: bool, no_scrollback: bool, until: str, idle: float, safe: bool,
    run: int,
) -> None:  # fmt: skip
    """Attach to the serial console of a domain. Ctrl-] leaves it.

    First comes what was printed before, then what is printed now. One writes, others may --watch.
    Without a terminal, standard input is typed at the console, and it ends when nothing more is printed, or
    with --until when TEXT was; the global --timeout ends it with code 9.

    \b
    Example:
      manor console web
      manor console web --run -1
      echo uptime | manor --timeout 10 console web --until 'load average'
    """
    if run:
        content = app.call(ConsoleRecall(name=name), LastRun).console
        terminal.written(sys.stdout.fileno(), terminal.harmless(content) if safe or app.terminal else content)
        if not content:
            app.note("the last run printed nothing that is kept")
        return
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


@click.command()
@names.argument("domain")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_obj
def logs(app: App, name: str, output: str) -> None:
    """Print what the hypervisor said about the last run of a domain that is over.

    The log of a service is another one: `manor service logs NAME`.

    \b
    Example:
      manor logs web
      manor logs web -o json
    """
    found = app.call(ConsoleRecall(name=name), LastRun)
    if output == "json":
        shown = {key: value.decode(errors="replace") for key, value in structs.asdict(found).items()}
        app.out(as_json({"name": name, **shown}))
        return
    for line in found.log.decode(errors="replace").splitlines():
        app.out(clean(line))
    if not found.log:
        app.note("the hypervisor said nothing about the last run")


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
