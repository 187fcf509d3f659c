"""`manor credential`: who may attach to this node's bus. Works on the key folder, then tells the broker."""

from __future__ import annotations

import click

from manor_bus import keys
from manor_bus.wire.errors import ManorError
from manor_bus.wire.messages.bus import Reload, Reloaded
from manor_cli import views
from manor_cli.app import App
from manor_cli.output import output_option, show


@click.group()
def credential() -> None:
    """Give, replace and take back keys to the bus.

    \b
    Example:
      manor credential add observer/grafana
    """


@credential.command("list")
@output_option
@click.pass_obj
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


@credential.command()
@click.argument("principal")
@click.option("--public-key", default="", help="A public key made elsewhere; its secret never comes here.")
@click.pass_obj
def add(app: App, principal: str, public_key: str) -> None:
    """Let PRINCIPAL (operator/NAME, observer/NAME, service/NAME) attach.

    \b
    Example:
      manor credential add operator/alice
    """
    _told(app, principal, keys.add(app.settings.keys, principal, public_key))


@credential.command()
@click.argument("principal")
@click.option("--public-key", default="", help="A public key made elsewhere; its secret never comes here.")
@click.pass_obj
def rotate(app: App, principal: str, public_key: str) -> None:
    """Replace the key of PRINCIPAL; its sessions end at once and greet again with the new one.

    \b
    Example:
      manor credential rotate operator/alice
    """
    _told(app, principal, keys.rotate(app.settings.keys, principal, public_key))


@credential.command()
@click.argument("principal")
@click.pass_obj
def revoke(app: App, principal: str) -> None:
    """Take the key of PRINCIPAL back; its sessions end at once.

    \b
    Example:
      manor credential revoke operator/alice
    """
    keys.revoke(app.settings.keys, principal)
    app.out(f"{principal} may no longer attach")
    _reload(app)


def _told(app: App, principal: str, file: object) -> None:
    app.out(f"{principal} may attach" + (f" with {file}" if file else ""))
    if file:
        app.note(f"hint: give it that file; it says MANOR_KEY={file}")
    _reload(app)


def _reload(app: App) -> None:
    """Have the broker read the keys again."""
    try:
        done = app.call(Reload(), Reloaded)
    except ManorError as error:
        app.note(f"note: the broker was not told ({error.message}); it reads the keys at its next start")
    else:
        app.note(f"the broker knows {done.keys} keys now and ended {done.ended} sessions")
