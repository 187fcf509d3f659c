"""The verbs of domains: start, shutdown, … Each posts one message for each name and follows its operation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from manor_bus.wire.messages import lifecycle
from manor_cli import follow, names
from manor_cli.app import App
from manor_cli.output import answering
from manor_cli.render import clean

PAUSED: Final = click.Option(["--paused"], is_flag=True, help="Leave the virtual CPUs stopped.")
DEADLINE: Final = click.Option(
    ["--deadline", "timeout_s"], type=click.FloatRange(min=0), metavar="SECONDS",
    help="Seconds the guest has (default: its document's).",
)  # fmt: skip
FORCE: Final = click.Option(
    ["--force", "force_after"], is_flag=True, help="Do it the hard way when the deadline has passed."
)
WITH_USERS: Final = click.Option(
    ["--with-users"], is_flag=True, help="Those that depend on it first; it is refused while they run."
)


def verb(function: Callable[..., Any], text: str, *examples: str, many: bool = True) -> click.Command:
    """Return a command of a function with what all verbs take: names, --reason, --wait, -o."""
    wrapped: Any = follow.wait_option(answering(function))
    wrapped = click.option("--reason", default="", help="Why; kept with the operation.")(wrapped)
    wrapped = names.argument("domain", "names" if many else "name", many=many)(wrapped)
    lines = "".join(f"\n      manor {example}" for example in examples)
    name = examples[0].split()[0]
    return click.command(name, help=f"{text}\n\n    \b\n    Example:{lines}")(wrapped)


def posting(request: type[Any], text: str, *examples: str, options: tuple[click.Option, ...] = ()) -> Any:
    """Return the command that posts `request` for each name; its options are fields of the request."""

    def run(app: App, names: tuple[str, ...], reason: str, wait: bool, output: str, **fields: Any) -> int:
        return follow.each(
            app, names, lambda name: request(name=name, reason=reason, **fields), wait=wait, form=output
        )

    command = verb(run, text, *examples)
    command.params += options
    return command


shutdown = posting(
    lifecycle.DomainShutdown,
    "Ask the guest to shut down. Without --force a guest that does not listen stays running.",
    "shutdown web --deadline 30 --force",
    options=(DEADLINE, FORCE, WITH_USERS),
)
reboot = posting(
    lifecycle.DomainReboot,
    "Ask the guest to shut down, then start it again.",
    "reboot web",
    options=(DEADLINE, FORCE),
)
reset = posting(lifecycle.DomainReset, "Reset the machine as its reset button does.", "reset web")
pause = posting(lifecycle.DomainPause, "Stop the virtual CPUs; memory and devices stay.", "pause web")
resume = posting(
    lifecycle.DomainResume, "Let the virtual CPUs run again after a pause.", "resume web", "resume web db"
)
destroy = posting(
    lifecycle.DomainDestroy,
    "End a domain at once, as if its power cord was pulled. The document stays.",
    "destroy web",
)
save = posting(
    lifecycle.DomainSave,
    "Save memory and devices and end the run, to restore later.",
    "save web && manor restore web",
)
restore = posting(
    lifecycle.DomainRestore, "Continue a saved domain where it was.", "restore web", options=(PAUSED,)
)
discard = posting(
    lifecycle.DomainDiscard, "Throw the saved state away: the next start is a fresh one.", "discard web"
)
nmi = posting(lifecycle.DomainNmi, "Send a non-maskable interrupt: many guests then dump core.", "nmi web")
clear = posting(
    lifecycle.DomainClear, "Clear FAILED after you have looked: it may be started again.", "clear web"
)


def _start(
    app: App, names: tuple[str, ...], reason: str, wait: bool, output: str, paused: bool, dry_run: bool
) -> int:
    def make(name: str) -> lifecycle.DomainStart:
        return lifecycle.DomainStart(name=name, paused=paused, dry_run=dry_run, reason=reason)

    if not dry_run:
        return follow.each(app, names, make, wait=wait, form=output)
    for name in names:
        operation = app.call(make(name), lifecycle.Operation, key=follow.new_id())
        if output == "table":
            for number, step in enumerate(operation.steps, 1):
                app.out(f"{number:3} {clean(step)}")
        else:
            follow.told(app, operation, output)
    return 0


start = verb(_start, "Start a domain.", "start web", "start web db --dry-run")
start.params += [PAUSED, click.Option(["--dry-run"], is_flag=True, help="Print the steps and do nothing.")]


def _rename(app: App, name: str, reason: str, wait: bool, output: str, new_name: str) -> int:
    request = lifecycle.DomainRename(name=name, new_name=new_name, reason=reason)
    return follow.each(app, [name], lambda _: request, wait=wait, form=output)


rename = verb(
    _rename, "Give a domain another name; its uuid and its run stay.", "rename web web-old", many=False
)
rename.params.insert(1, click.Argument(["new_name"]))


@click.command()
@names.argument("domain")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.pass_obj
def screenshot(app: App, name: str, file: Path) -> None:
    """Write a picture of the graphical console to FILE, as PNG.

    \b
    Example:
      manor screenshot web web.png
    """
    picture = app.call(lifecycle.DomainScreenshot(name=name), lifecycle.Screenshot)
    file.write_bytes(picture.content)
    app.out(f"{file}: {len(picture.content)} bytes")
