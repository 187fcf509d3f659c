"""Makes docs/cli.md from the commands themselves; `make docs` runs it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Final

import click

from manor_bus.wire.errors import EXIT_CODES
from manor_cli.exits import FAULT_APART, INTERRUPTED, LOST_FOLDER, LOST_OUTPUT, NEXT_STEP
from manor_cli.main import manor

_INTRODUCTION: Final = """\
# The command line

Every command with its arguments and options. This page is made from the code: do not edit it, run
`make docs`. A tour that a test runs is on the page [Using Manor](using.md).

A command posts messages to the bus and shows the answers; it decides nothing. Answers go to standard output,
progress and advice to standard error. `-o json` and `-o yaml` have every field, `-o name` one name a line,
`-o wide` more columns. Control characters of guests and documents are shown as escapes, never obeyed.

| variable | says | default |
|---|---|---|
| `MANOR_DIR` | the state directory, as `--dir` | `/var/lib/manor` for root, else `~/.local/state/manor` |
| `MANOR_NODE` | the node's name | what `manor init` wrote |
| `MANOR_BUS` | the broker's end point | `ipc://$MANOR_DIR/run/bus.sock` |
| `MANOR_BUS_GROUP` | of the broker: the group that may reach its socket, too | nobody but its user |
| `MANOR_BUS_TCP` | of the broker: a further end point, `tcp://HOST:PORT` | none |
| `MANOR_KEYS` | the folder of keys | `$MANOR_DIR/keys` |
| `MANOR_PRINCIPAL` | who you are | `operator/admin` |
| `MANOR_KEY` | the file of your key | the principal's in `MANOR_KEYS` |
| `MANOR_HYPERVISOR` | what runs the guests, as `manor up --hypervisor` | `qemu` |
| `NO_COLOR` | no colours | |
"""


def page() -> str:
    """Return the whole page."""
    context = click.Context(manor, info_name="manor")
    chapters = [_INTRODUCTION, _exits(), "## Options of every command\n", *_options(manor, context)]
    for command, path in _commands(manor, context):
        chapters.append(_chapter(command, path))
    return "\n".join(chapters)


def _exits() -> str:
    """Return the table of exit codes."""
    rows = [f"| {code} | `{kind.value}` | {NEXT_STEP[kind]} |" for kind, code in EXIT_CODES.items()]
    rows.append(f"| {LOST_OUTPUT} | | the answer could not be written; it says whether the change was made |")
    rows.append(f"| {LOST_FOLDER} | | the working folder was deleted |")
    rows.append(
        f"| {FAULT_APART} | `internal` | with `--exit-code`, where 1 says that there is a difference |"
    )
    rows.append(f"| {INTERRUPTED} | | interrupted by Ctrl-C |")
    return "\n".join(["| exit code | kind | what to do |", "|---|---|---|", "| 0 | | |", *rows, ""])


def _commands(group: click.Group, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """Yield every command below a group with the context that knows its full name."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        inner = click.Context(command, info_name=name, parent=context)
        yield command, inner
        if isinstance(command, click.Group):
            yield from _commands(command, inner)


def _chapter(command: click.Command, context: click.Context) -> str:
    """Return one command: usage, help, example, options."""
    text, _, example = inspect.cleandoc(command.help or "").partition("\b\nExample:\n")
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    shown = ["```text", usage, "", *inspect.cleandoc(example).splitlines(), "```", ""]
    level = "##" if context.command_path.count(" ") == 1 else "###"
    return "\n".join(
        [f"{level} {context.command_path}", "", text.strip(), "", *shown, *_options(command, context)]
    )


def _options(command: click.Command, context: click.Context) -> list[str]:
    """Return the table of a command's options, if it has any."""
    found = [option.get_help_record(context) for option in command.params if isinstance(option, click.Option)]
    rows = [f"| `{names.replace('|', chr(92) + '|')}` | {text} |" for names, text in filter(None, found)]
    return ["| option | |", "|---|---|", *rows, ""] if rows else []
