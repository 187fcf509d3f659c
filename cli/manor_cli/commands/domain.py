"""The verbs of one domain: start, shutdown, … Each posts one message and follows its operation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from manor_bus.wire.messages import lifecycle
from manor_cli import follow
from manor_cli.app import App
from manor_cli.output import output_option
from manor_cli.render import clean

F = TypeVar("F", bound=Callable[..., Any])


def verb(function: F) -> F:
    """Give a command what all verbs take: the domain's name, --reason, --wait, -o."""
    wrapped: Any = click.pass_obj(function)
    wrapped = follow.wait_option(output_option(wrapped))
    wrapped = click.option("--reason", default="", help="Why; kept with the operation.")(wrapped)
    return click.command()(click.argument("name")(wrapped))  # type: ignore[return-value]


@verb
@click.option("--paused", is_flag=True, help="Leave the virtual CPUs stopped.")
@click.option("--dry-run", is_flag=True, help="Print the steps and do nothing.")
def start(app: App, name: str, reason: str, wait: bool, output: str, paused: bool, dry_run: bool) -> None:
    """Start a domain.

    \b
    Example:
      manor start web
      manor start web --dry-run
    """
    request = lifecycle.DomainStart(name=name, paused=paused, dry_run=dry_run, reason=reason)
    if not dry_run:
        follow.post(app, request, wait=wait, form=output)
        return
    operation = app.call(request, lifecycle.Operation, key=follow.new_id())
    if output == "table":
        for number, step in enumerate(operation.steps, 1):
            app.out(f"{number:3} {clean(step)}")
    else:
        follow.told(app, operation, output)


@verb
@click.option(
    "--deadline", type=click.FloatRange(min=0), help="Seconds the guest has (default: its document's)."
)
@click.option("--force", is_flag=True, help="Destroy it when the deadline has passed.")
def shutdown(
    app: App, name: str, reason: str, wait: bool, output: str, deadline: float | None, force: bool
) -> None:
    """Ask the guest to shut down. Without --force a guest that does not listen stays running.

    \b
    Example:
      manor shutdown web --deadline 30 --force
    """
    request = lifecycle.DomainShutdown(name=name, timeout_s=deadline, force_after=force, reason=reason)
    follow.post(app, request, wait=wait, form=output)


@verb
@click.option(
    "--deadline", type=click.FloatRange(min=0), help="Seconds the guest has (default: its document's)."
)
@click.option("--force", is_flag=True, help="Do it the hard way when the deadline has passed.")
def reboot(
    app: App, name: str, reason: str, wait: bool, output: str, deadline: float | None, force: bool
) -> None:
    """Ask the guest to shut down, then start it again.

    \b
    Example:
      manor reboot web
    """
    request = lifecycle.DomainReboot(name=name, timeout_s=deadline, force_after=force, reason=reason)
    follow.post(app, request, wait=wait, form=output)


@verb
def reset(app: App, name: str, reason: str, wait: bool, output: str) -> None:
    """Reset the machine as its reset button does.

    \b
    Example:
      manor reset web
    """
    follow.post(app, lifecycle.DomainReset(name=name, reason=reason), wait=wait, form=output)


@verb
def pause(app: App, name: str, reason: str, wait: bool, output: str) -> None:
    """Stop the virtual CPUs; memory and devices stay.

    \b
    Example:
      manor pause web
    """
    follow.post(app, lifecycle.DomainPause(name=name, reason=reason), wait=wait, form=output)


@verb
def resume(app: App, name: str, reason: str, wait: bool, output: str) -> None:
    """Let the virtual CPUs run again after a pause.

    \b
    Example:
      manor resume web
    """
    follow.post(app, lifecycle.DomainResume(name=name, reason=reason), wait=wait, form=output)


@verb
def destroy(app: App, name: str, reason: str, wait: bool, output: str) -> None:
    """End a domain at once, as if its power cord was pulled. The document stays.

    \b
    Example:
      manor destroy web
    """
    follow.post(app, lifecycle.DomainDestroy(name=name, reason=reason), wait=wait, form=output)


@verb
def save(app: App, name: str, reason: str, wait: bool, output: str) -> None:
    """Save memory and devices and end the run, to restore later.

    \b
    Example:
      manor save web && manor restore web
    """
    follow.post(app, lifecycle.DomainSave(name=name, reason=reason), wait=wait, form=output)


@verb
@click.option("--paused", is_flag=True, help="Leave the virtual CPUs stopped.")
def restore(app: App, name: str, reason: str, wait: bool, output: str, paused: bool) -> None:
    """Continue a saved domain where it was.

    \b
    Example:
      manor restore web
    """
    follow.post(app, lifecycle.DomainRestore(name=name, paused=paused, reason=reason), wait=wait, form=output)


@verb
def discard(app: App, name: str, reason: str, wait: bool, output: str) -> None:
    """Throw the saved state away: the next start is a fresh one.

    \b
    Example:
      manor discard web
    """
    follow.post(app, lifecycle.DomainDiscard(name=name, reason=reason), wait=wait, form=output)


@verb
@click.argument("new_name")
def rename(app: App, name: str, reason: str, wait: bool, output: str, new_name: str) -> None:
    """Give a domain another name; its uuid and its run stay.

    \b
    Example:
      manor rename web web-old
    """
    request = lifecycle.DomainRename(name=name, new_name=new_name, reason=reason)
    follow.post(app, request, wait=wait, form=output)


@verb
def clear(app: App, name: str, reason: str, wait: bool, output: str) -> None:
    """Clear FAILED after you have looked: it may be started again.

    \b
    Example:
      manor clear web
    """
    follow.post(app, lifecycle.DomainClear(name=name, reason=reason), wait=wait, form=output)


@click.command()
@click.argument("name")
@follow.wait_option
@output_option
@click.pass_obj
def nmi(app: App, name: str, wait: bool, output: str) -> None:
    """Send a non-maskable interrupt: many guests then dump core.

    \b
    Example:
      manor nmi web
    """
    follow.post(app, lifecycle.DomainNmi(name=name), wait=wait, form=output)


@click.command()
@click.argument("name")
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
