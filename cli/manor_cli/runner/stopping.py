"""Stop what runs on this machine: guests first, each asked before it is ended, then the services."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from manor_bus import keys
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.documents import RunPolicy
from manor_bus.wire.messages.lifecycle import (
    DomainDestroy,
    DomainShutdown,
    DomainStart,
    DomainStatus,
    Operation,
)
from manor_cli import facts, follow, views
from manor_cli.app import App
from manor_cli.render import clean
from manor_cli.runner import present, systemd
from manor_host import durable, processes
from manor_host.processes import Identity

POLL_S: Final = 0.2
RESUME: Final = "resume"  # names of domains that shall always run, for the next `manor up`
DESTROY_S: Final = 15.0
GRACE_S: Final = 12.0  # a little more than the supervisor gives its children
REASON: Final = "manor down"


def halt_guests(app: App, deadline: float) -> str:
    """Shut all guests of this node down; destroy those that have not ended at the deadline.

    Returns why they could not be asked; empty when they could.
    """
    absent = {"bus", "lifecycle"} - present.services(app.settings.directory).keys()
    if absent:
        return f"{' and '.join(sorted(absent))} not running"
    with suppress(ManorError, OSError):
        keys.create(app.settings.keys)  # what follows from the keys may have been lost
    try:
        live = _live(app)
    except ManorError as error:
        return error.message
    if not live:
        return ""
    app.note(f"shutting down {_names(live)} (at most {deadline:g} s)")
    _remember(app, [status.name for status in live if status.run == RunPolicy.ALWAYS])
    for status in live:
        _post(app, DomainShutdown(name=status.name, timeout_s=deadline, force_after=True, reason=REASON))
    left = _until_none(app, deadline + 2.0)
    if left:
        app.note(f"destroying {_names(left)}")
        for status in left:
            _post(app, DomainDestroy(name=status.name, reason=REASON))
        _until_none(app, DESTROY_S)
    return ""


def _remember(app: App, names: Sequence[str]) -> None:
    """Write down what the next `manor up` starts again; a disk that takes nothing keeps nobody running."""
    try:
        durable.replace(app.settings.directory / RESUME, "".join(f"{name}\n" for name in names).encode())
    except OSError as error:
        app.note(f"the next `manor up` does not start them again ({error.strerror})")


def resume(app: App) -> None:
    """Start the domains again that shall always run and that `manor down` shut down; told, never fatal."""
    path = app.settings.directory / RESUME
    names = path.read_text().split() if path.exists() else []
    for name in names:
        app.note(f"starting {clean(name)}, which shall always run")
        _post(app, DomainStart(name=name, reason="manor up"))
    path.unlink(missing_ok=True)


def _live(app: App) -> list[DomainStatus]:
    node = app.settings.bus.node
    return [one for one in facts.domains(app) if one.state in views.LIVE and one.node in ("", node)]


def _names(statuses: Iterable[DomainStatus]) -> str:
    names = sorted(clean(status.name) for status in statuses)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _post(app: App, request: DomainShutdown | DomainDestroy | DomainStart) -> None:
    """Post a verb and let it run; a refusal is told and not fatal."""
    try:
        app.call(request, Operation, key=follow.new_id())
    except ManorError as error:
        if error.kind is not Kind.DENIED_STATE:
            app.note(f"{clean(request.name)}: {clean(error.message)}")


def _until_none(app: App, timeout: float) -> list[DomainStatus]:
    """Wait until no guest lives; returns those that still do."""
    end = time.monotonic() + timeout
    try:
        while (left := _live(app)) and time.monotonic() < end:
            time.sleep(POLL_S)
    except ManorError as error:
        app.note(f"lost sight of the guests ({clean(error.message)})")
        return []
    return left


def stop_everything(app: App, *, guests: bool) -> list[Identity]:
    """End who keeps the services, the services, the broker, and with `guests` what guests are left.

    It looks again until nothing is there: one may have been about to appear. Returns what survived.
    """
    directory = app.settings.directory
    if units := systemd.units(directory):
        systemd.act("stop", *(unit.name for unit in units.values()))
    while True:
        supervisor = present.supervisor(directory)
        survivors = processes.end([supervisor] if supervisor else [], 2 * GRACE_S)
        running = present.services(directory)
        broker = running.pop("bus", [])
        survivors += processes.end([one for found in running.values() for one in found], GRACE_S)
        survivors += processes.end(broker, GRACE_S)
        left = present.guests(directory) if guests else []
        if left:
            app.note(f"ending {len(left)} QEMU processes that were left")
        survivors += processes.end(left, GRACE_S)
        if survivors or not (supervisor or running or broker or left):
            return survivors
