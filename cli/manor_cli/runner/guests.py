"""End the guests of this node in order, before what they stand on ends, and start them again afterwards."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from manor_bus import keys
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.documents import DomainSpec, RunPolicy
from manor_bus.wire.messages.lifecycle import (
    DomainDestroy,
    DomainShutdown,
    DomainStart,
    DomainStatus,
    Operation,
    State,
)
from manor_cli import facts, follow, views
from manor_cli.app import App
from manor_cli.render import clean
from manor_cli.runner import present
from manor_host import durable

POLL_S: Final = 0.2
RESUME: Final = "resume"  # domains that shall always run, for the next start of the node: a line a turn
START_S: Final = 60.0
DESTROY_S: Final = 15.0
MORE_S: Final = 2.0  # what a shutdown may take beyond the guest's own time


@dataclass(frozen=True)
class Ended:
    """How the guests of a node ended: who was `cut_off`, and why nobody could be asked, if so."""

    cut_off: tuple[str, ...] = ()
    unasked: str = ""


def shut_down(app: App, limit: float, reason: str) -> Ended:
    """Shut all guests of this node down, those first that others do not need.

    Each has the time of its document, `limit` seconds at most, and is destroyed when that is over. Without
    config they end in no order; when a guest refuses, that is told and the rest goes on.
    """
    absent = {"bus", "lifecycle"} - present.services(app.settings.directory).keys()
    if absent:
        return Ended(unasked=f"{' and '.join(sorted(absent))} not running")
    with suppress(ManorError, OSError):
        keys.create(app.settings.keys)  # what follows from the keys may have been lost
    try:
        live = _live(app)
    except ManorError as error:
        return Ended(unasked=error.message)
    specs = _specs(app, live)
    turns = in_turns(specs)
    always = {status.name for status in live if status.run == RunPolicy.ALWAYS}
    _remember(app, [[name for name in turn if name in always] for turn in reversed(turns)])
    cut_off: list[str] = []
    for turn in turns:
        cut_off += _end(app, {name: min(specs[name].shutdown_timeout_s, limit) for name in turn}, reason)
    return Ended(tuple(cut_off))


def in_turns(specs: Mapping[str, DomainSpec]) -> list[list[str]]:
    """Return who ends together, turn by turn: the order of starting, backwards.

    Each turn has those whom none of the others needs, and of these the last to start. A circle of needs
    ends as one.
    """
    turns: list[list[str]] = []
    left = dict(specs)
    while left:
        needed = {other for name, spec in left.items() for other in spec.depends_on if other != name}
        free = [name for name in left if name not in needed] or list(left)
        last = max(left[name].start_order for name in free)
        turns.append(sorted(name for name in free if left[name].start_order == last))
        for name in turns[-1]:
            del left[name]
    return turns


def resume(app: App, reason: str) -> None:
    """Start the domains again that shall always run and that `shut_down` ended; told, never fatal.

    A domain is started when what it may need runs, or has had its time to.
    """
    path = app.settings.directory / RESUME
    turns = [line.split() for line in (durable.read(path) or b"").decode().splitlines()]
    for number, turn in enumerate(turns, start=1):
        app.note(f"starting {_some(turn)}, which shall always run")
        for name in turn:
            _post(app, DomainStart(name=name, reason=reason))
        if number < len(turns):
            _until_running(app, set(turn))
    path.unlink(missing_ok=True)


def _until_running(app: App, names: set[str]) -> None:
    end = time.monotonic() + START_S
    with suppress(ManorError):
        while time.monotonic() < end:
            if names <= {one.name for one in facts.domains(app) if one.state == State.RUNNING}:
                return
            time.sleep(POLL_S)


def _end(app: App, patience: Mapping[str, float], reason: str) -> list[str]:
    """End guests that may end together, each in its own seconds; returns those that had to be destroyed."""
    app.note(f"shutting down {_some(patience)} (at most {max(patience.values()):g} s)")
    began = time.monotonic()
    for name, seconds in patience.items():
        _post(app, DomainShutdown(name=name, timeout_s=seconds, reason=reason))
    over = {name: began + seconds + MORE_S for name, seconds in patience.items()}
    cut_off: list[str] = []
    try:
        while left := {status.name for status in _live(app)} & patience.keys():
            now = time.monotonic()
            late = sorted(name for name in left if over[name] <= now)
            if set(cut_off) >= left == set(late):
                break  # not even that ended them
            for name in set(late).difference(cut_off):
                app.note(f"destroying {clean(name)}, which had {patience[name]:g} s")
                _post(app, DomainDestroy(name=name, reason=reason))
                cut_off.append(name)
                over[name] = now + DESTROY_S
            time.sleep(POLL_S)
    except ManorError as error:
        app.note(f"lost sight of the guests ({clean(error.message)})")
    return cut_off


def _live(app: App) -> list[DomainStatus]:
    node = app.settings.bus.node
    return [one for one in facts.domains(app) if one.state in views.LIVE and one.node in ("", node)]


def _specs(app: App, live: Collection[DomainStatus]) -> dict[str, DomainSpec]:
    """Return what the documents say of guests; of those without one, what a document says by itself."""
    known: dict[str, DomainSpec] = {}
    try:
        known = {one.metadata.uuid: one.spec for one in facts.documents(app, "Domain")} if live else {}
    except ManorError as error:
        app.note(f"in no order, for the documents cannot be read ({clean(error.message)})")
    return {status.name: known.get(status.uuid, DomainSpec()) for status in live}


def _remember(app: App, turns: Sequence[Sequence[str]]) -> None:
    """Write down what is started again with the node; a disk that takes nothing keeps nobody running."""
    lines = [" ".join(turn) for turn in turns if turn]
    if not lines:
        return
    try:
        durable.replace(app.settings.directory / RESUME, "".join(f"{line}\n" for line in lines).encode())
    except OSError as error:
        app.note(f"they are not started again with the node ({error.strerror})")


def _some(names: Collection[str]) -> str:
    shown = sorted(map(clean, names))
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")


def _post(app: App, request: DomainShutdown | DomainDestroy | DomainStart) -> None:
    """Post a verb and let it run; a refusal is told and not fatal."""
    try:
        app.call(request, Operation, key=follow.new_id())
    except ManorError as error:
        if error.kind is not Kind.DENIED_STATE:
            app.note(f"{clean(request.name)}: {clean(error.message)}")
