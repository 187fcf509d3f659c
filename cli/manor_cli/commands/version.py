"""`manor version`."""

from __future__ import annotations

import click


@click.command()
def version() -> None:
    """Say which version this is, and of which bus protocol.

    \b
    Example:
      manor version
    """
    from manor_bus import PROTOCOL, VERSION

    click.echo(f"manor {VERSION} (bus protocol {PROTOCOL})")
