"""The command `manor`: one table of commands, each imported only when it is asked for.

Nothing but click is imported here, so that a short command stays short.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from importlib import import_module
from typing import Final, cast

import click

from manor_cli.app import App

COMMANDS: Final = {
    "init": "node:init",
    "up": "node:up",
    "down": "node:down",
    "status": "node:status",
    "apply": "apply:apply",
    "diff": "apply:diff",
    "get": "show:get",
    "list": "show:list_",
    "describe": "describe:describe",
    "delete": "revisions:delete",
    "history": "revisions:history",
    "rollback": "revisions:rollback",
    "start": "domain:start",
    "shutdown": "domain:shutdown",
    "reboot": "domain:reboot",
    "reset": "domain:reset",
    "pause": "domain:pause",
    "resume": "domain:resume",
    "destroy": "domain:destroy",
    "save": "domain:save",
    "restore": "domain:restore",
    "discard": "domain:discard",
    "rename": "domain:rename",
    "clear": "domain:clear",
    "nmi": "domain:nmi",
    "screenshot": "domain:screenshot",
    "console": "console:console",
    "device": "device:device",
    "volume": "volume:volume",
    "backend": "backend:backend",
    "watch": "watch:watch",
    "ops": "ops:ops",
    "bus": "bus:bus",
    "service": "service:service",
    "schema": "schema:schema",
    "credential": "credential:credential",
    "call": "post:call",
    "publish": "post:publish",
    "config": "store:config",
    "version": "version:version",
    "completion": "completion:completion",
}


class LazyCommands:
    """What click needs of a mapping name -> command; looking a command up imports its module."""

    def get(self, name: str, default: click.Command | None = None) -> click.Command | None:
        """Return a command by name."""
        place = COMMANDS.get(name)
        if place is None:
            return default
        module, _, attribute = place.partition(":")
        found: click.Command = getattr(import_module(f"manor_cli.commands.{module}"), attribute)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


@click.group(
    commands=cast("MutableMapping[str, click.Command]", LazyCommands()),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Begin with: manor up --detach; manor apply -f FILE; manor list. Every command has --help.",
)
@click.option("--dir", "directory", metavar="DIR", help="State directory (default: $MANOR_DIR).")
@click.option(
    "--timeout", type=click.FloatRange(min=0.1), metavar="SECONDS", help="How long to wait at most."
)
@click.version_option(package_name="manor-cli", message="manor %(version)s", prog_name="manor")
@click.pass_context
def manor(context: click.Context, directory: str | None, timeout: float | None) -> None:
    """Run virtual machines: describe them, start them, watch them.

    \b
    Example:
      manor up --detach && manor apply -f web.yaml && manor list
    """
    app = context.ensure_object(App)
    app.configure(directory=directory or "", timeout=timeout)
    context.call_on_close(app.close)


def main(arguments: Sequence[str] | None = None, app: App | None = None) -> int:
    """Run one command and return its exit code (the table of errors; 130 after Ctrl-C)."""
    try:
        result = manor.main(
            None if arguments is None else list(arguments), prog_name="manor", standalone_mode=False, obj=app
        )
    except click.UsageError as error:
        return _misused(error)
    except click.ClickException as error:
        click.echo(f"error: bad_request: {error.format_message()}", err=True)
        return 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough
        _forget_output()
        return 0
    except _refusals() as error:
        return _refused(error)
    return result if isinstance(result, int) else 0


def program() -> None:
    """Be the program `manor`: once everything is said, taking the interpreter apart would only cost time.

    So would looking for garbage while modules are loaded; `reach` turns that on for what lives longer.
    """
    gc.disable()
    code = main()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        _forget_output()
    os._exit(code)


def _misused(error: click.UsageError) -> int:
    """Tell a wrong command line in the form of every other error."""
    click.echo(f"error: bad_request: {error.format_message()}", err=True)
    path = error.ctx.command_path if error.ctx else "manor"
    click.echo(f"hint: {path} --help", err=True)
    return 2


def _refusals() -> type[Exception]:
    """Return the exception of refusals; evaluated only once something was raised."""
    from manor_bus.wire.errors import ManorError

    return ManorError


def _refused(error: Exception) -> int:
    from manor_bus.wire.errors import ManorError
    from manor_cli import exits

    if not isinstance(error, ManorError):
        raise error
    for line in exits.lines(error):
        click.echo(line, err=True)
    return exits.code(error)


def _forget_output() -> None:
    """Send what is still buffered nowhere, so that the interpreter's end does not complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
