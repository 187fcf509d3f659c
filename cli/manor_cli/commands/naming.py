"""`manor node rename` and `take`: the name of this node, and what belongs to nodes that are not here."""

from __future__ import annotations

import click

from manor_bus.wire.errors import denied_state, not_found
from manor_cli import facts, owners
from manor_cli.app import App
from manor_cli.runner import instances, starting


@click.command()
@click.argument("name")
@click.pass_obj
def rename(app: App, name: str) -> None:
    """Give this node another NAME, while it and its guests are down. Its domains stay its own.

    \b
    Example:
      manor down && manor node rename n2 && manor up --detach
    """
    starting.refuse_a_second(app.settings)
    before = starting.rename(app.settings, name)
    app.out(f"node {before} is {name} from its next `manor up` on")


@click.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask whether that node is gone for good.")
@click.pass_obj
def take(app: App, name: str, yes: bool) -> None:
    """Take over the domains of the node NAME, which is not here and will not come back with them.

    `manor list nodes` shows such nodes.

    \b
    Example:
      manor node take n1
    """
    if name in {entry.fact.name for entry in facts.find(app, "node") if not entry.stale}:
        raise denied_state(f"node {name} is here", hint="shut its domains down there; see `manor list nodes`")
    count = owners.elsewhere(app, {app.settings.bus.node})[name]
    if not count:
        raise not_found(f"nothing belongs to a node {name}", hint="see the names: manor list nodes")
    if not yes:
        app.confirmed(f"{owners.domains(count)}: is it certain that none runs on {name} any more?")
    owners.take(app, {name})
    instances.restart(app, "lifecycle")
    app.out(f"{owners.domains(count)} of {name} belong to {app.settings.bus.node} now")
