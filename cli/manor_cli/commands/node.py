"""`manor init`, `up`, `down`, `status`, `node`: this machine's services and guests."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import click

from manor_bus.wire.errors import Kind, ManorError, Problem, bad_request, unavailable
from manor_cli.app import App
from manor_cli.commands import naming
from manor_cli.output import answering, show
from manor_cli.render import View, as_json, as_yaml, clean, moment
from manor_cli.runner import control, guests, instances, present, starting, stopping, supervise, systemd

_LOCAL = View.of("name! phase pid since restarts last_end~ log+", empty="no services run", since=moment)

adopt_option = click.option(
    "--adopt-copy", is_flag=True, help="This directory is a copy: make it a node of its own, without runs."
)


@click.command()
@click.option("--node", default="", help="Name of this node (default: node1).")
@adopt_option
@click.pass_obj
def init(app: App, node: str, adopt_copy: bool) -> None:
    """Create the state directory, the node's name, and its keys.

    Repeating it is harmless.

    \b
    Example:
      manor --dir ./state init --node n1
    """
    made = starting.initialise(app.settings, node, adopt=adopt_copy)
    for line in made:
        app.out(line)
    if not made:
        app.out(f"{app.settings.directory} is complete already")
    app.note("next: manor up --detach")


@click.command()
@click.option("--detach", is_flag=True, help="Return when everything is ready; services go on.")
@click.option("--hypervisor", type=click.Choice(["fake", "qemu"]), help="What runs the guests.")
@adopt_option
@click.option("--nodes", type=int, default=1, show_default=True, help="How many nodes on this machine.")
@click.pass_obj
def up(app: App, detach: bool, hypervisor: str | None, nodes: int, adopt_copy: bool) -> None:
    """Start all services of this machine and keep them running.

    In the foreground Ctrl-C stops the services; guests go on and are found again by the next `manor up`.

    \b
    Example:
      manor up --detach
      manor up --hypervisor fake
    """
    if nodes != 1:
        wrong = Problem(path="--nodes", value=str(nodes), reason="one node on one machine", allowed="1")
        raise bad_request("several nodes on one machine are not possible", wrong, hint="manor up --nodes 1")
    starting.refuse_a_second(app.settings)
    for line in starting.initialise(app.settings, "", adopt=adopt_copy):
        app.note(line)
    app.read_again()
    settings = starting.chosen(app.settings, hypervisor or "")
    if not detach:
        asyncio.run(_foreground(app, settings))
        return
    rows = starting.until_ready(app, starting.detach(settings))
    starting.settle(app)
    for line in starting.summary(settings, rows):
        app.out(line)


async def _foreground(app: App, settings: Any) -> None:
    """Supervise here, and say when everything is ready."""

    def report(line: str) -> None:
        app.out(f"{time.strftime('%H:%M:%S')} {line}")

    def ready() -> None:
        try:
            rows = starting.until_ready(app, None)
            starting.settle(app)
            for line in starting.summary(settings, rows):
                app.out(line)
        except ManorError as error:
            app.note(f"error: {error}")
        finally:
            app.close()

    async with asyncio.TaskGroup() as group:
        watcher = group.create_task(asyncio.to_thread(ready))
        await supervise.supervise(settings, report)
        watcher.cancel()


_deadline = click.option(
    "--deadline",
    type=click.FloatRange(0, 86_400),
    help="Seconds each guest has at most (default: its own shutdown_timeout_s).",
)


@click.command()
@click.option("--keep-domains", is_flag=True, help="Guests go on; the next `manor up` finds them again.")
@_deadline
@click.pass_obj
def down(app: App, keep_domains: bool, deadline: float | None) -> None:
    """Shut the guests down, then stop all services.

    Leaves nothing running, but guests that nobody could ask. With `--deadline 0` all guests are cut off.

    Guests that others depend on end after them; who did not end in time is destroyed and named. Works also
    when the supervisor or the bus is dead, and needs no keys.

    \b
    Example:
      manor down
      manor down --keep-domains
    """
    ended = guests.Ended() if keep_domains else guests.shut_down(app, deadline, "manor down")
    app.close()
    cut = not keep_domains and (not ended.unasked or deadline == 0)
    survivors = stopping.stop_everything(app, guests=cut)
    if survivors:
        raise ManorError(
            Kind.INTERNAL,
            f"processes {[one.pid for one in survivors]} did not end, not even when killed",
            hint="see them: ps -fp PID",
        )
    left = len(present.guests(app.settings.directory))
    if left and ended.unasked:
        message = f"{left} guest processes could not be asked to shut down and go on ({ended.unasked})"
        hint = "`manor up --detach` finds them again; `manor down --deadline 0` cuts them off"
        raise unavailable(f"the services are stopped; {message}", delivered=False, hint=hint)
    app.out("everything is stopped" + (f"; {left} guest processes go on" if left else ""))
    _tell(app, ended)


def _tell(app: App, ended: guests.Ended) -> None:
    if ended.cut_off:
        app.out(f"cut off, for they did not shut down in time: {', '.join(map(clean, ended.cut_off))}")


@click.group()
def node() -> None:
    """End and start the guests of this node together; rename it; take over what a lost node had.

    \b
    Example:
      manor node shutdown-guests
    """


@node.command("shutdown-guests")
@_deadline
@click.pass_obj
def shutdown_guests(app: App, deadline: float | None) -> None:
    """Shut all guests of this node down; services go on.

    In the order of starting, backwards: those first that no other depends on. Each has its own
    shutdown_timeout_s; who does not end in it is destroyed and named. The unit manor-guests does this when
    the host goes down.

    \b
    Example:
      manor node shutdown-guests
      manor node shutdown-guests --deadline 90
    """
    ended = guests.shut_down(app, deadline, "manor node shutdown-guests")
    left = len(present.guests(app.settings.directory))
    if left and ended.unasked:
        message = f"{left} guest processes could not be asked to shut down ({ended.unasked})"
        raise unavailable(message, delivered=False, hint="see what runs: manor status")
    _tell(app, ended)


node.add_command(naming.rename)
node.add_command(naming.take)


@node.command("start-guests")
@click.pass_obj
def start_guests(app: App) -> None:
    """Start again what shutdown-guests ended and what shall always run, once the services are ready.

    \b
    Example:
      manor node start-guests
    """
    starting.until_ready(app, None)
    guests.start(app, "manor node start-guests")


@click.command()
@answering
def status(app: App, output: str) -> None:
    """Show what runs on this machine, also without a bus.

    Exit code 8 when not everything is ready.

    \b
    Example:
      manor status
      manor status -o json
    """
    found = _status(app)
    if output in ("json", "yaml"):
        app.out(as_json(found) if output == "json" else as_yaml(found).rstrip())
    else:
        supervisor = found["supervisor"] or "not running"
        app.out(f"state directory  {found['directory']}")
        app.out(f"supervisor       {f'pid {supervisor}' if isinstance(supervisor, int) else supervisor}")
        app.out(f"bus              {found['bus']}: {clean(found['bus_state'])}")
        show(app, _LOCAL, found["services"], output)
    if not found["ready"]:
        message = "not all services are ready: " + ", ".join(found["missing"])
        raise unavailable(message, delivered=False, hint="manor up --detach; manor service logs NAME")


def _status(app: App) -> dict[str, Any]:
    """Collect what the supervisor, the kernel and the bus say."""
    told = _kept(app)
    rows: list[instances.Row] = []
    try:
        if any(service["name"] == "bus" and service["pid"] for service in told["services"]):
            rows = instances.instances(app)
        state = "answers" if rows else "not running"
    except ManorError as error:
        state = error.message
    absent = instances.missing(rows, tuple(present.PROGRAMS))
    return {
        "directory": str(app.settings.directory),
        "node": app.settings.bus.node,
        "supervisor": told["pid"],
        "bus": app.settings.bus.endpoint,
        "bus_state": state,
        "ready": not absent,
        "missing": absent,
        "services": told["services"],
        "instances": rows,
        "time": time.time(),
    }


def _kept(app: App) -> dict[str, Any]:
    """Return who keeps the services running, as a pid or by name, and what they do."""
    directory = app.settings.directory
    try:
        return control.ask(app.settings.run, "status")
    except ManorError:
        units = systemd.units(directory)
    supervisor = present.supervisor(directory)
    phase = "supervised" if supervisor else "unsupervised"
    return {
        "pid": "systemd" if units else supervisor.pid if supervisor else 0,
        "services": [
            {"name": name, "phase": unit.state, "pid": unit.pid, "restarts": unit.restarts, "unit": unit.name}
            for name, unit in units.items()
        ]
        or [
            {"name": name, "phase": phase, "pid": one.pid}
            for name, found in present.services(directory).items()
            for one in found
        ],
    }
