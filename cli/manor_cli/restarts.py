"""When a supervised process is started, ended and started again. Pure: `step(child, event, now)`.

A child that ends without having been told to is started again: at once the first time, then after a delay
that doubles up to `DELAY_MAX_S`; a run of `HEALTHY_S` makes it start from the beginning. Being told to stop
means TERM, and KILL when the grace has passed. Every (phase, event) pair is in `step`; what is not a row
changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

DELAY_FIRST_S: Final = 0.1
DELAY_MAX_S: Final = 10.0
HEALTHY_S: Final = 20.0


class Phase(StrEnum):
    """Where a child stands."""

    WAITING = "waiting"  # for `due`, then it is started
    RUNNING = "running"
    STOPPING = "stopping"  # was sent TERM; KILL when `due`
    ENDED = "ended"  # and not wanted any more


@dataclass(frozen=True)
class Child:
    """One supervised process. `pid` is 0 when it has none; `failures` in a row decide the delay."""

    name: str
    phase: Phase = Phase.WAITING
    pid: int = 0
    started: float = 0.0
    due: float = 0.0
    failures: int = 0
    restarts: int = 0
    wanted: bool = True
    last_end: str = ""


@dataclass(frozen=True)
class Spawned:
    """The process was started (or, after a restart of the supervisor, found again)."""

    pid: int


@dataclass(frozen=True)
class Ended:
    """The process is gone. `how` is its exit code or signal in words; `clean` when it exited with 0."""

    how: str
    clean: bool = False


@dataclass(frozen=True)
class Stop:
    """End it: politely, by force after `grace_s`; `again`: start it anew afterwards."""

    grace_s: float
    again: bool = False


@dataclass(frozen=True)
class Release:
    """It may run to its end but is not started again."""


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


Event = Spawned | Ended | Stop | Release | Tick


class Action(StrEnum):
    """What the shell shall do."""

    SPAWN = "spawn"
    TERMINATE = "terminate"
    KILL = "kill"


def delay(failures: int) -> float:
    """Return how long to wait before the next start, in seconds."""
    return 0.0 if failures <= 1 else float(min(DELAY_MAX_S, DELAY_FIRST_S * 2.0 ** min(failures - 2, 16)))


def step(child: Child, event: Event, now: float) -> tuple[Child, tuple[Action, ...]]:
    """Return the child after the event, and what to do."""
    match child.phase, event:
        case Phase.WAITING, Tick() if now >= child.due:
            return child, (Action.SPAWN,)
        case Phase.WAITING, Spawned(pid):
            return replace(child, phase=Phase.RUNNING, pid=pid, started=now), ()
        case Phase.WAITING, Ended(how):  # it could not even be started
            return _again(child, how, now, clean=False), ()
        case Phase.WAITING, Stop(again=False) | Release():
            return replace(child, phase=Phase.ENDED, wanted=False), ()
        case Phase.STOPPING, _:
            return _stopping(child, event, now)
        case Phase.RUNNING, Ended(how, clean):
            return _again(child, how, now, clean=clean), ()
        case Phase.RUNNING, Stop(grace_s, again):
            told = replace(child, phase=Phase.STOPPING, due=now + grace_s, wanted=again)
            return told, (Action.TERMINATE,)
        case Phase.RUNNING, Release():
            return replace(child, wanted=False), ()
        case _:
            return child, ()


def _stopping(child: Child, event: Event, now: float) -> tuple[Child, tuple[Action, ...]]:
    """The rows of a child that was told to stop."""
    match event:
        case Tick() if now >= child.due:
            return replace(child, due=now + 1.0), (Action.KILL,)
        case Ended(how):
            return _again(child, how, now, clean=True), ()
        case Stop(again=False) | Release():
            return replace(child, wanted=False), ()
        case _:
            return child, ()


def _again(child: Child, how: str, now: float, *, clean: bool) -> Child:
    """Return the child after its process ended."""
    ended = replace(child, pid=0, last_end=how)
    if not child.wanted:
        return replace(ended, phase=Phase.ENDED)
    healthy = child.pid != 0 and now - child.started >= HEALTHY_S
    failures = 0 if clean else 1 if healthy else child.failures + 1
    return replace(
        ended, phase=Phase.WAITING, failures=failures, restarts=child.restarts + 1, due=now + delay(failures)
    )


def next_due(children: tuple[Child, ...]) -> float | None:
    """Return when the next Tick matters, or None."""
    times = [child.due for child in children if child.phase in (Phase.WAITING, Phase.STOPPING)]
    return min(times, default=None)
