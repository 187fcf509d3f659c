"""Which instances of which services are attached to the bus, and whether they are ready."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from manor_bus import VERSION
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.bus import BusStats, BusStatsAnswer, Peers, PeersListed, PeerView
from manor_bus.wire.messages.node import Info, InfoAnswer
from manor_cli import views
from manor_cli.app import App
from manor_cli.runner import control, present, systemd

INFO_S: Final = 2.0
READY_S: Final = 30.0
POLL_S: Final = 0.05
Row = dict[str, Any]


def instances(app: App) -> list[Row]:
    """Return the broker and every attached service instance, with what each says of itself."""
    rows = [broker(app)]
    for peer in app.call(Peers(), PeersListed).peers:
        if peer.name.startswith("service/"):
            rows.append(_instance(app, peer))
    return rows


def broker(app: App) -> Row:
    """Return the broker; that it answers means that it is ready."""
    stats = app.call(BusStats(), BusStatsAnswer)
    running = present.services(app.settings.directory).get("bus", [])
    node = app.settings.bus.node
    return views.service_row(
        "bus", stats.epoch, node, pid=running[0].pid if running else 0, ready=True, version=VERSION,
        draining=False, uptime_s=stats.uptime_s, address=f"bus@{node}/{stats.epoch}",
    )  # fmt: skip


def _instance(app: App, peer: PeerView) -> Row:
    node = peer.address.partition("@")[2].partition("/")[0]
    ready, draining = False, peer.draining
    try:
        told = app.call(Info(), InfoAnswer, at=f"{node}/{peer.instance}", timeout=INFO_S)
        ready, draining = told.ready and bool(peer.serves), told.draining or draining
    except ManorError:
        ready = False  # it is attached and does not answer: that is what "not ready" says
    return views.service_row(
        peer.name.removeprefix("service/"), peer.instance, node, pid=peer.pid, ready=ready and not draining,
        version=peer.version, draining=draining, uptime_s=peer.connected_s, address=peer.address,
    )  # fmt: skip


def missing(rows: Sequence[Row], wanted: Sequence[str]) -> list[str]:
    """Return the wanted services of which no instance is ready."""
    ready = {row["name"] for row in rows if row["ready"]}
    return [name for name in wanted if name not in ready]


def wait(
    app: App, enough: Callable[[list[Row]], bool], timeout: float, *, alive: Callable[[], None]
) -> list[Row]:
    """Ask again until the rows are `enough` or the time is over; returns the last rows.

    `alive` is called between the questions and raises when there is nothing left to wait for.
    """
    deadline = time.monotonic() + timeout
    while True:
        alive()
        rows: list[Row] = []
        try:
            rows = instances(app)
        except ManorError:
            app.close()  # not there yet: connect anew, a greeting that failed is not repeated
        if enough(rows) or time.monotonic() > deadline:
            return rows
        time.sleep(POLL_S)


def until(app: App, name: str, wanted: Callable[[Row], bool]) -> Row:
    """Wait until an instance of a service is ready that is as wanted; `timeout` when none becomes so."""

    def found(rows: list[Row]) -> list[Row]:
        return [row for row in rows if row["name"] == name and row["ready"] and wanted(row)]

    rows = wait(app, lambda rows: bool(found(rows)), app.timeout or READY_S, alive=lambda: None)
    if not found(rows):
        raise ManorError(Kind.TIMEOUT, f"{name} is not ready again", hint=f"manor service logs {name}")
    return found(rows)[0]


def restart(app: App, name: str) -> Row:
    """Have a service restarted by whoever keeps it running; returns the instance that is ready then."""
    before = {row["instance"] for row in instances(app)}
    if unit := systemd.units(app.settings.directory).get(name):
        systemd.act("restart", unit.name)
    else:
        control.ask(app.settings.run, "restart", within=app.timeout or READY_S, service=name)
    return until(app, name, lambda one: one["instance"] not in before)
