"""The node's guests are shut down, all of them: each after those that depend on it, each in its own time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import groupby
from typing import Final

import msgspec

from manor_bus.peer.aio import Context
from manor_bus.wire.errors import ManorError
from manor_bus.wire.messages.guests import GuestEnded, GuestsEnded, GuestsShutDown
from manor_bus.wire.messages.lifecycle import Operation, OperationState
from manor_lifecycle.domain.taking import MAKES_RUNS
from manor_lifecycle.domain.values import Arguments, Core
from manor_lifecycle.domain.verbs import under_way
from manor_lifecycle.domains import Domains
from manor_lifecycle.owner import Owner
from manor_lifecycle.site import Site

Begin = Callable[[Owner, Arguments], Awaitable[Operation]]
Outcome = Callable[[Operation], Awaitable[Operation]]
REASON: Final = "all guests of the node are shut down"


async def shut_down_guests(
    site: Site, domains: Domains, request: GuestsShutDown, context: Context, begin: Begin, outcome: Outcome
) -> GuestsEnded:
    """Shut down every guest, those that start last first. Nothing starts meanwhile, nor by itself afterwards.

    `begin` admits one shutdown, `outcome` waits for its end.
    """
    ended: list[GuestEnded] = []
    domains.place(replace(site.place, phase="closing"))
    try:
        living = sorted((one for one in domains.listed() if _lives(one.core)), key=_order, reverse=True)
        for _, wave in groupby(living, key=_order):
            begun = [await _begun(owner, request, begin) for owner in wave]
            for one in asyncio.as_completed([_ended(guest, outcome) for guest in begun]):
                ended.append(await one)
                await context.part(ended[-1])
    finally:
        domains.place(replace(site.place, phase="closed"))
        # whatever starts us next starts the node
        site.operations.note(msgspec.structs.replace(site.operations.booted, boot_id=""))
    return GuestsEnded(guests=tuple(ended))


def _lives(core: Core) -> bool:
    return core.living is not None or any(doing.kind in MAKES_RUNS for doing in under_way(core))


def _order(owner: Owner) -> int:
    return owner.core.spec.start_order


async def _begun(owner: Owner, request: GuestsShutDown, begin: Begin) -> Operation | GuestEnded:
    patience = owner.core.spec.shutdown_timeout_s
    if request.timeout_s is not None:
        patience = min(patience, request.timeout_s)
    try:
        return await begin(owner, Arguments(timeout_s=patience, force_after=True, with_users=True))
    except ManorError as refusal:
        return GuestEnded(name=owner.core.name, how="left", why=refusal.message)


async def _ended(begun: Operation | GuestEnded, outcome: Outcome) -> GuestEnded:
    return begun if isinstance(begun, GuestEnded) else _how(await outcome(begun))


def _how(operation: Operation) -> GuestEnded:
    if operation.state is OperationState.DONE:
        cut_off = operation.result.get("cut off", "")
        return GuestEnded(name=operation.target, how="cut off" if cut_off else "shut down", why=cut_off)
    why = operation.error.message if operation.error is not None else operation.state.value
    return GuestEnded(name=operation.target, how="left", why=why)
