"""The command `manor`: one table of commands, each imported only when it is asked for.

Nothing but click is imported here, so that a short command stays short.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, Final, TextIO, TypeVar, cast

import click

from manor_cli.app import App

T = TypeVar("T")
# All commands by what they are about, each behind the module that has it.
GROUPS: Final[dict[str, dict[str, str]]] = {
    "wishes": {
        "apply": "apply diff", "show": "get", "revisions": "delete history rollback", "domain": "rename",
    },
    "domains": {"domain": "start shutdown reboot reset pause resume destroy save restore discard clear nmi"},
    "looking": {
        "show": "list", "describe": "describe", "watch": "watch", "console": "console logs",
        "domain": "screenshot", "ops": "ops",
    },
    "devices": {"device": "device", "volume": "volume", "backend": "backend"},
    "this node": {
        "node": "init up down status node", "service": "service", "credential": "credential",
        "store": "config",
    },
    "the bus": {"bus": "bus", "post": "call publish", "schema": "schema"},
    "beside": {"version": "version", "completion": "completion"},
}  # fmt: skip
COMMANDS: Final = {
    name: module for group in GROUPS.values() for module, names in group.items() for name in names.split()
}
# Words of other tools, and what they are here.
MEANT: Final = {
    "stop": "shutdown", "poweroff": "shutdown", "restart": "reboot", "kill": "destroy", "suspend": "save",
    "unpause": "resume", "run": "start", "boot": "start", "create": "apply", "define": "apply",
    "update": "apply", "edit": "get domain NAME -o yaml", "rm": "delete", "remove": "delete",
    "undefine": "delete", "ps": "list", "ls": "list", "show": "describe", "inspect": "describe",
    "dominfo": "describe", "dumpxml": "get domain NAME -o yaml", "log": "logs",
    "attach": "device attach", "detach": "device detach",
    "events": "watch", "top": "bus top",
    "exec": "console", "shell": "console", "ssh": "console", "user": "credential", "backup": "config backup",
    "operations": "ops list", "nodes": "list nodes", "vm": "list", "domain": "list", "help": "--help",
}  # fmt: skip

# Where the standard streams lead that the caller closed; what is printed into /dev/full is told to be lost.
STREAMS: Final = {"stdin": os.devnull, "stdout": "/dev/full", "stderr": os.devnull}


class Output:
    """Standard output that remembers why it takes nothing any more."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failed: OSError | None = None

    def write(self, text: str) -> int:
        """Write a text."""
        return self._tried(lambda: self._stream.write(text))

    def flush(self) -> None:
        """Have written what is kept back."""
        self._tried(self._stream.flush)

    def _tried(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except OSError as error:
            self.failed = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class LazyCommands:
    """What click needs of a mapping name -> command; looking a command up imports its module."""

    def get(self, name: str, default: click.Command | None = None) -> click.Command | None:
        """Return a command by name."""
        if name in COMMANDS:
            there = vars(import_module(f"manor_cli.commands.{COMMANDS[name]}")).values()
            return next(one for one in there if isinstance(one, click.Command) and one.name == name)
        if name in MEANT:
            raise click.UsageError(f"there is no command {name!r}; here it is `manor {MEANT[name]}`")
        return default

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


@click.group(
    commands=cast("MutableMapping[str, click.Command]", LazyCommands()),
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Begin with: manor up --detach; manor apply -f FILE; manor list. Every command has --help.",
)
@click.option("--dir", "directory", metavar="DIR", help="State directory (default: $MANOR_DIR).")
@click.option(
    "--timeout", type=click.FloatRange(min=0.1), metavar="SECONDS", help="How long to wait at most."
)
@click.option("--utc", is_flag=True, help="Tell times in UTC, not in the zone of this machine.")
@click.option("--debug", is_flag=True, help="Print where in the program an unexpected error came from.")
@click.version_option(package_name="manor-cli", message="manor %(version)s", prog_name="manor")
@click.pass_context
def manor(
    context: click.Context, directory: str | None, timeout: float | None, utc: bool, debug: bool
) -> None:
    """Run virtual machines: describe them, start them, watch them.

    \b
    Example:
      manor up --detach && manor apply -f web.yaml && manor list
    """
    app = context.ensure_object(App)
    app.configure(directory=directory or "", timeout=timeout, debug=debug)
    context.call_on_close(app.close)
    if utc:
        os.putenv("TZ", "UTC")
        time.tzset()
    if context.invoked_subcommand is None:
        app.out("Manor runs virtual machines: describe them, start them, watch them.\n")
        for title, modules in GROUPS.items():
            app.out(f"  {title:<10} {' '.join(modules.values())}")
        app.out(
            "\nBegin with `manor up --detach`, `manor apply FILE`, `manor list`. Every command has --help."
        )


def main(arguments: Sequence[str] | None = None, app: App | None = None) -> int:
    """Run one command and return its exit code (the table of errors; 130 after Ctrl-C); never a traceback."""
    app, before = app or App(), sys.stdout
    sys.stdout = output = cast("Any", Output(before))
    try:
        result = manor.main(
            None if arguments is None else list(arguments), prog_name="manor", standalone_mode=False, obj=app
        )
    except click.UsageError as error:
        return _misused(app, error)
    except click.ClickException as error:
        app.note(f"error: bad_request: {error.format_message()}")
        return 2
    except (click.Abort, KeyboardInterrupt):
        app.note("interrupted")
        return 130
    except (Exception, SystemExit) as error:
        return _ended(app, error, output.failed)
    finally:
        sys.stdout = before
    return result if isinstance(result, int) else 0


def program() -> None:
    """Be the program `manor`: once everything is said, taking the interpreter apart would only cost time.

    So would looking for garbage while modules are loaded; `reach` turns that on for what lives longer.
    """
    if sys.flags.optimize > 1:  # helps are docstrings, which such an interpreter throws away
        os.execv(sys.executable, [sys.executable, "-E", *sys.argv])
    gc.disable()
    for number, (name, place) in enumerate(STREAMS.items()):
        _opened(number, name, place)
    code = main()
    try:
        sys.stdout.flush()
    except OSError as error:
        code = _ended(App(), error, error)
    os._exit(code)


def _opened(number: int, name: str, place: str) -> None:
    """Open a standard stream that the caller closed, lest the next file or socket takes its number."""
    if getattr(sys, name) is None:
        os.dup2(os.open(place, os.O_RDWR | os.O_CLOEXEC), number)
        setattr(sys, name, open(number, "r" if number == 0 else "w"))  # noqa: SIM115
    elif number:
        getattr(sys, name).reconfigure(errors="backslashreplace")


def _misused(app: App, error: click.UsageError) -> int:
    """Tell a wrong command line in the form of every other error; a group alone shows what is in it."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        app.note(error.format_message())
        return 2
    app.note(f"error: bad_request: {error.format_message()}")
    path = error.ctx.command_path if error.ctx else "manor"
    app.note(f"hint: {path} --help")
    return 2


def _ended(app: App, error: BaseException, lost: OSError | None) -> int:
    """Tell why a command ended early, in one error and a hint; returns the exit code."""
    from manor_cli import exits, failures

    if isinstance(lost or error, BrokenPipeError):  # the reader of our output has seen enough
        _forget_output()
        return 0
    if lost is not None:
        _forget_output()
        app.note(f"error: the answer cannot be written ({lost.strerror}); {app.changed}")
        app.note("hint: standard output is full or closed; give it a place to write to")
        return exits.LOST_OUTPUT
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, FileNotFoundError) and error.filename is None and _lost_folder():
        app.note(f"error: the working folder is not there any more; {app.changed}")
        app.note("hint: cd to a folder that exists, then repeat the command")
        return exits.LOST_FOLDER
    return app.refused(failures.known(error) or failures.fault(error, app.details(error)))


def _forget_output() -> None:
    """Send what is still buffered nowhere, so that no later end complains."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _lost_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False
