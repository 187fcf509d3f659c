"""`manor service`: the processes behind the bus."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import click

from manor_bus.wire.errors import bad_request, not_found
from manor_bus.wire.messages import Done
from manor_bus.wire.messages.node import Drain
from manor_cli import views
from manor_cli.app import App
from manor_cli.output import answering, show
from manor_cli.render import clean
from manor_cli.runner import control, instances, logs, present, systemd

REPLACED_S: Final = 60.0  # for the second instance to come up and the first to finish
name_argument = click.argument("name", type=click.Choice(list(present.PROGRAMS)))


@click.group()
def service() -> None:
    """List, restart, drain and replace the services of this machine.

    \b
    Example:
      manor service list
    """


@service.command("list")
@answering
def list_(app: App, output: str) -> None:
    """List the instances that are attached to the bus, and the broker.

    \b
    Example:
      manor service list -o json
    """
    show(app, views.SERVICES, instances.instances(app), output)


@service.command()
@name_argument
@click.pass_obj
def restart(app: App, name: str) -> None:
    """Restart a service: it finishes what it does, ends, and is started again. Guests do not notice.

    \b
    Example:
      manor service restart lifecycle
    """
    row = instances.restart(app, name)
    app.out(f"{name} is ready again as {row['instance']} (pid {row['pid']})")


@service.command()
@click.argument("name")
@click.option("--deadline", type=click.FloatRange(0, 600), default=10.0, show_default=True, help="Seconds.")
@click.pass_obj
def drain(app: App, name: str, deadline: float) -> None:
    """Let an instance (NAME, or NAME.INSTANCE) finish what it does, take nothing new, and end.

    Its supervisor then starts it again; `replace` does so without a gap.

    \b
    Example:
      manor service drain lifecycle
    """
    wanted, _, instance = name.partition(".")
    found = [
        row
        for row in instances.instances(app)
        if row["name"] == wanted and row["instance"].startswith(instance) and row["name"] != "bus"
    ]
    if len(found) != 1:
        known = ", ".join(f"{row['name']}.{row['instance']}" for row in found) or "none"
        raise not_found(f"{name} does not name one instance (found: {known})", hint="manor service list")
    one = found[0]
    request = Drain(deadline_ms=int(deadline * 1000))
    app.call(request, Done, at=f"{one['node']}/{one['instance']}")
    app.out(f"{wanted}.{one['instance']} drains")


@service.command()
@name_argument
@click.pass_obj
def replace(app: App, name: str) -> None:
    """Replace a service without a gap: start a second instance, then drain the first.

    \b
    Example:
      manor service replace lifecycle
    """
    if name == "bus":
        raise bad_request(
            "there is one broker on a node", hint="manor service restart bus: peers wait for it"
        )
    if unit := systemd.units(app.settings.directory).get(name):
        message = f"systemd keeps {unit.name} running, one instance at a time"
        raise bad_request(message, hint=f"manor service restart {name}: calls wait for it")
    told = control.ask(app.settings.run, "replace", within=app.timeout or REPLACED_S, service=name)
    row = instances.until(app, name, lambda one: one["pid"] == told["pid"])
    app.out(f"{name} is {row['instance']} now (pid {row['pid']})")


@service.command("logs")
@click.argument("name", type=click.Choice([*present.PROGRAMS, "supervisor"]))
@click.option("-f", "--follow", is_flag=True, help="Go on as it grows.")
@click.option(
    "-n", "--lines", default=50, show_default=True, type=click.IntRange(0, 100_000), help="At most."
)
@click.pass_obj
def logs_(app: App, name: str, follow: bool, lines: int) -> None:
    """Print the end of a service's log.

    \b
    Example:
      manor service logs lifecycle -f
    """
    if unit := systemd.units(app.settings.directory).get(name):
        os.execvp(
            "journalctl", ["journalctl", "-u", unit.name, "-n", str(lines), *(["-f"] if follow else [])]
        )
    path: Path = app.settings.log / f"{name}.log"
    for line in logs.tail(path, lines):
        app.out(clean(line))
    if follow:
        for line in logs.follow(path):
            app.out(clean(line))
