"""Stop what runs on this machine: guests first, each asked before it is ended, then the services."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable
from typing import Final

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.documents import RunPolicy
from manor_bus.wire.messages.lifecycle import (
    DomainDestroy,
    DomainShutdown,
    DomainStart,
    DomainStatus,
    Operation,
)
from manor_cli import facts, follow, processes, views
from manor_cli.app import App
from manor_cli.render import clean
from manor_cli.settings import Settings

POLL_S: Final = 0.2
RESUME: Final = "resume"  # names of domains that shall always run, for the next `manor up`
DESTROY_S: Final = 15.0
GRACE_S: Final = 12.0  # a little more than the supervisor gives its children
REASON: Final = "manor down"


def halt_guests(app: App, deadline: float) -> None:
    """Shut all guests of this node down; destroy those that have not ended at the deadline."""
    try:
        live = _live(app)
    except ManorError as error:
        app.note(f"guests cannot be asked to shut down ({error.message})")
        return
    if not live:
        return
    app.note(f"shutting down {_names(live)} (at most {deadline:g} s)")
    always = [status.name for status in live if status.run == RunPolicy.ALWAYS]
    (app.settings.directory / RESUME).write_text("".join(f"{name}\n" for name in always))
    for status in live:
        _post(app, DomainShutdown(name=status.name, timeout_s=deadline, force_after=True, reason=REASON))
    left = _until_none(app, deadline + 2.0)
    if left:
        app.note(f"destroying {_names(left)}")
        for status in left:
            _post(app, DomainDestroy(name=status.name, reason=REASON))
        _until_none(app, DESTROY_S)


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


def stop_services(app: App) -> list[int]:
    """End the supervisor, which ends its services; then whatever is left of them. Returns what survived."""
    settings = app.settings
    supervisor = processes.supervisor(settings.run)
    if supervisor:
        processes.tell(supervisor, signal.SIGTERM)
        processes.gone([supervisor], 2 * GRACE_S)
    survivors: list[int] = []
    while running := processes.services(settings.directory):  # again: one may have been about to appear
        broker = [one.pid for one in running.pop("bus", [])]
        others = [one.pid for found in running.values() for one in found]
        survivors = [*processes.end(others, GRACE_S), *processes.end(broker, GRACE_S)]
        if survivors:
            break
    _tidy(settings)
    return survivors


def _tidy(settings: Settings) -> None:
    """Remove the traces of processes that are gone."""
    for name in (*processes.PROGRAMS, "supervisor"):
        (settings.run / f"{name}.pid").unlink(missing_ok=True)
    for name in ("supervisor.json", "supervisor.sock"):
        (settings.run / name).unlink(missing_ok=True)


def end_guests(app: App) -> list[int]:
    """End guests and their helpers that nobody answers for any more. Returns what survived."""
    left = processes.guests(app.settings.directory)
    if left:
        app.note(f"ending {len(left)} QEMU processes that were left")
    return processes.end(left, GRACE_S)
