"""The life of one loadable back end on this node: available, loading, loaded, unloading, failed. Pure.

`epoch` grows every time a back end begins to serve anew, never when the service merely finds it again after
its own restart. `wanted` survives a restart. A back end that cannot be asked after such a restart is not
proven dead (rule D8): until it was seen once, what it serves is taken to be as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Literal

from manor_devices.connection import BACKOFF_MAX_S

State = Literal["available", "loading", "loaded", "unloading", "failed"]


class Trigger(StrEnum):
    """What can happen to a back end."""

    LOAD = "load"
    OPENED = "opened"
    FOUND = "found"  # opened after a restart of the service: what it served goes on
    OPEN_FAILED = "open-failed"
    NOT_SEEN = "not-seen"  # after a restart of the service: it could not be asked what it serves
    UNLOAD = "unload"
    UNLOAD_FORCE = "unload-force"
    CLOSED = "closed"
    DIED = "died"
    STEADY = "steady"  # it has lived for a while: earlier deaths are forgotten


class Effect(StrEnum):
    """What the shell does when a state is entered."""

    OPEN = "open"  # opened, found or open-failed
    CLOSE = "close"  # closed


T = Trigger

TABLE: Final[Mapping[tuple[State, Trigger], State]] = MappingProxyType(
    {
        ("available", T.LOAD): "loading",
        ("available", T.UNLOAD): "available",
        ("available", T.UNLOAD_FORCE): "available",
        ("loading", T.LOAD): "loading",
        ("loading", T.OPENED): "loaded",
        ("loading", T.FOUND): "loaded",
        ("loading", T.OPEN_FAILED): "failed",
        ("loading", T.NOT_SEEN): "failed",
        ("loaded", T.LOAD): "loaded",
        ("loaded", T.UNLOAD): "unloading",
        ("loaded", T.UNLOAD_FORCE): "unloading",
        ("loaded", T.DIED): "failed",
        ("loaded", T.STEADY): "loaded",
        ("unloading", T.UNLOAD): "unloading",
        ("unloading", T.UNLOAD_FORCE): "unloading",
        ("unloading", T.CLOSED): "available",
        ("failed", T.LOAD): "loading",
        ("failed", T.UNLOAD): "available",
        ("failed", T.UNLOAD_FORCE): "available",
    }
)
ENTRY: Final[Mapping[State, Effect]] = MappingProxyType({"loading": Effect.OPEN, "unloading": Effect.CLOSE})


@dataclass(frozen=True, slots=True)
class Module:
    """One back end under one name: an entry point with settings."""

    name: str
    backend: str  # the entry point
    values: Mapping[str, str]
    state: State = "available"
    wanted: bool = True
    epoch: int = 0
    deaths: int = 0  # since it was asked for
    seen: bool = False  # since this service began it was opened, or given up on purpose
    version: str = ""
    classes: tuple[str, ...] = ()
    reason: str = ""


def step(module: Module, trigger: Trigger, reason: str = "") -> tuple[Module, Effect | None] | None:
    """Return what the trigger makes of the back end, and what to do; None: not in this state."""
    target = TABLE.get((module.state, trigger))
    if target is None:
        return None
    wish = {T.LOAD: True, T.UNLOAD: False, T.UNLOAD_FORCE: False}
    wanted = wish.get(trigger, module.wanted)
    seen = module.seen or trigger in (T.OPENED, T.FOUND, T.UNLOAD, T.UNLOAD_FORCE)
    deaths = 0 if trigger is T.STEADY else module.deaths + _died(module, trigger)
    if target == module.state:
        return replace(module, wanted=wanted, deaths=deaths, seen=seen), None
    epoch = module.epoch + (trigger is T.OPENED or (trigger is T.FOUND and not module.epoch))
    entered = replace(module, state=target, wanted=wanted, epoch=epoch, deaths=deaths, reason=reason)
    return replace(entered, seen=seen), ENTRY.get(target)


def _died(module: Module, trigger: Trigger) -> bool:
    return trigger in (T.DIED, T.NOT_SEEN) or (trigger is T.OPEN_FAILED and module.deaths > 0)


def retry_s(module: Module) -> float | None:
    """Return after how many seconds a back end that died is opened again; None: not by itself."""
    if module.state != "failed" or not module.wanted or not module.deaths:
        return None
    return min(BACKOFF_MAX_S, float(2 ** min(module.deaths - 1, 10)))
