"""`manor credential`: who may attach to this node's bus. Works on the key folder, then tells the broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from manor_bus import keys
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.bus import Reload, Reloaded
from manor_cli import views, ways_in
from manor_cli.app import App
from manor_cli.output import answering, show
from manor_cli.runner import systemd

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def credential() -> None:
    """Give, replace and take back keys to the bus.

    \b
    Example:
      manor credential add observer/grafana
    """


@credential.command("list")
@answering
def list_(app: App, output: str) -> None:
    """List who may attach, by public key.

    \b
    Example:
      manor credential list -o json
    """
    table = keys.authorised(app.settings.keys)
    rows = []
    for public, principal in sorted(table.items(), key=lambda entry: entry[1]):
        file = keys.key_file(app.settings.keys, principal)
        rows.append(
            {"principal": principal, "public_key": public, "file": str(file) if file.exists() else ""}
        )
    show(app, views.CREDENTIALS, rows, output)


def _principal(function: F) -> F:
    """Give a command the argument `principal` and the option `--public-key`."""
    option = click.option(
        "--public-key", default="", help="A public key made elsewhere; its secret never comes here."
    )
    return click.argument("principal")(option(function))


@credential.command()
@_principal
@click.pass_obj
def add(app: App, principal: str, public_key: str) -> None:
    """Let PRINCIPAL (operator/NAME, observer/NAME, service/NAME) attach, and say how that person gets in.

    \b
    Example:
      manor credential add operator/alice
    """
    with _known_to_broker(app):
        _told(app, principal, keys.add(app.settings.keys, principal, public_key))


@credential.command()
@_principal
@click.pass_obj
def rotate(app: App, principal: str, public_key: str) -> None:
    """Replace the key of PRINCIPAL; its sessions end at once and greet again with the new one.

    \b
    Example:
      manor credential rotate operator/alice
    """
    with _known_to_broker(app):
        _told(app, principal, keys.rotate(app.settings.keys, principal, public_key))
    if unit := systemd.units(app.settings.directory).get(principal.removeprefix("service/")):
        systemd.act("restart", unit.name)
        app.note(f"{unit.name} is restarted, for it was handed its key at its start")


@credential.command()
@click.argument("principal")
@click.option("--yes", is_flag=True, help="Do not ask, where nobody could attach any more.")
@click.pass_obj
def revoke(app: App, principal: str, yes: bool) -> None:
    """Take the key of PRINCIPAL back; its sessions end at once.

    \b
    Example:
      manor credential revoke operator/alice
    """
    operators = [one for one in keys.authorised(app.settings.keys).values() if one.startswith("operator/")]
    if operators == [principal] and not yes:
        app.confirmed(f"{principal} is the last operator; nobody could command this node. Go on?")
    with _known_to_broker(app):
        keys.revoke(app.settings.keys, principal)
        app.out(f"{principal} may no longer attach")


def _told(app: App, principal: str, file: Path | None) -> None:
    app.out(f"{principal} may attach" + (f" with {file}" if file else ""))
    for line in ways_in.told(app.settings, principal, file):
        app.out(line)


@contextmanager
def _known_to_broker(app: App) -> Iterator[None]:
    """Have the broker read the keys after a change; we attach before it, as our own key may be what goes."""
    try:
        app.call(Reload(), Reloaded)
    except ManorError as error:
        yield
        app.note(f"note: the broker was not told ({error.message}); it reads the keys at its next start")
    else:
        yield
        try:
            done = app.call(Reload(), Reloaded)
        except ManorError as error:
            if error.kind is not Kind.FORBIDDEN:
                raise
            app.note("the broker knows the keys now, and ended this session, whose key is not among them")
        else:
            app.note(f"the broker knows {done.keys} keys now and ended {done.ended} sessions")
