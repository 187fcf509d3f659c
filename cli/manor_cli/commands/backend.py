"""`manor backend`: the loadable modules that serve devices."""

from __future__ import annotations

import click

from manor_bus.wire.messages.devices import BackendLoad, BackendStatus, BackendUnload
from manor_cli import names, views
from manor_cli.app import App
from manor_cli.listing import listed
from manor_cli.output import answering, show
from manor_cli.render import whole


@click.group()
def backend() -> None:
    """Load and unload the modules that serve devices.

    \b
    Example:
      manor backend list
    """


@backend.command("list")
@answering
def list_(app: App, output: str) -> None:
    """List the back ends that are installed, with their state and use.

    \b
    Example:
      manor backend list -o wide
    """
    listed(app, "backend", output)


@backend.command()
@names.argument("backend")
@answering
def load(app: App, name: str, output: str) -> None:
    """Load a back end; its waiting devices connect by themselves.

    \b
    Example:
      manor backend load nbd
    """
    status = app.call(BackendLoad(name=name), BackendStatus, timeout=app.timeout or 60.0)
    show(app, views.BACKENDS, whole(status), output)


@backend.command()
@names.argument("backend")
@click.option("--force", is_flag=True, help="Even while in use: its devices are orphaned until it is back.")
@answering
def unload(app: App, name: str, force: bool, output: str) -> None:
    """Unload a back end; refused while devices use it, naming them.

    \b
    Example:
      manor backend unload nbd
    """
    request = BackendUnload(name=name, force=force)
    status = app.call(request, BackendStatus, timeout=app.timeout or 60.0)
    show(app, views.BACKENDS, whole(status), output)
