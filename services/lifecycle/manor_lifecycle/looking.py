"""Asking the hypervisor what is there: after everything that did not plainly work, and when it says so."""

from __future__ import annotations

import asyncio
from typing import Final

from manor_bus.wire.errors import ErrorBody, Kind, ManorError
from manor_bus.wire.messages.lifecycle import State
from manor_lifecycle import machine, operations
from manor_lifecycle.hypervisors import GuestState, Seen
from manor_lifecycle.life import Life, learn
from manor_lifecycle.machine import Trigger
from manor_lifecycle.means import Means
from manor_lifecycle.plan import Arguments

LOOK_S: Final = 15.0


async def look(means: Means, life: Life) -> None:
    """Learn what is there. Whoever cannot be asked has said nothing: `life.unknown` tells why."""
    adapter = means.hypervisors.get(life.hypervisor)
    if adapter is None:
        life.look = False
        return
    try:
        async with asyncio.timeout(LOOK_S):
            found = await adapter.look(life.uuid)
    except (ManorError, TimeoutError) as error:
        life.unknown = str(error) or f"the hypervisor did not answer within {LOOK_S:g} s"
    else:
        learn(life, found.get(life.uuid, Seen(life.uuid)))


def seen(life: Life) -> Trigger:
    """Return what is there, as the machine calls it."""
    match life.guest:
        case GuestState.RUNNING:
            return Trigger.RUNS
        case GuestState.PAUSED:
            return Trigger.STANDS
        case _:
            return Trigger.SAVED if life.saved else Trigger.GONE


def settle(life: Life) -> None:
    """Let the machine go to what was seen while nothing was under way."""
    if life.works or life.unknown or life.ending is not None or life.guest is GuestState.ENDED:
        return
    trigger = seen(life)
    if machine.knows(life.state, trigger):
        life.state, _ = machine.step(life.state, trigger)


def contradicted(life: Life, kind: str, arguments: Arguments) -> ErrorBody | None:
    """Return what is wrong when an operation went well by all answers, and what is there says otherwise.

    A guest that ended by itself meanwhile contradicts nobody.
    """
    goal = operations.GOALS.get(kind)
    if goal is None or life.unknown or life.ending is not None:
        return None
    wanted = {State.RUNNING: Trigger.RUNS, State.PAUSED: Trigger.STANDS}.get(goal)
    there = seen(life) if life.guest is not GuestState.ENDED else None
    if wanted is Trigger.RUNS and arguments.paused:
        wanted = Trigger.STANDS
    if there is wanted or (wanted is None and life.guest is None) or there is None:
        return None
    message = f"the hypervisor said that {kind} is done, and then showed that it is not"
    return ErrorBody(kind=Kind.UNAVAILABLE, message=message, hint="Look at the domain, and ask again.")


async def at_saved(means: Means, life: Life, kind: str) -> ErrorBody | None:
    """Learn what a saved run is made of, before it is planned how it goes on."""
    life.image = None
    if kind != "restore" or not life.saved:
        return None
    try:
        async with asyncio.timeout(LOOK_S):
            life.image = await means.hypervisor(life).saved_image(means.saved_path(life.uuid))
    except (ManorError, TimeoutError) as error:
        message = f"the saved state cannot be read: {error}"
        hint = f"Try again, or throw it away and start anew: manor discard {life.name}"
        return ErrorBody(kind=Kind.DENIED_STATE, message=message, hint=hint)
    return None
