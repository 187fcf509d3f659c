"""Which consoles are read: those of the first runs from their start, others from the first attach on.

Reading a console costs two tasks and up to 256 KiB, so a node with thousands of domains does not read them
all; what a guest printed before is in the hypervisor's log and comes with the first attach.
"""

from __future__ import annotations

import asyncio
from typing import Final

from manor_bus.peer.aio import Context
from manor_bus.wire.errors import not_found
from manor_bus.wire.messages import Done
from manor_bus.wire.messages.consoles import (
    ConsoleAttach,
    ConsoleAttached,
    ConsoleDetach,
    ConsoleRecall,
    ConsoleWrite,
    LastRun,
)
from manor_lifecycle.console import Consoles
from manor_lifecycle.domain.values import Core
from manor_lifecycle.domains import Domains
from manor_lifecycle.hypervisors import ConsoleStream
from manor_lifecycle.hypervisors.seen import Feature
from manor_lifecycle.owner import Owner
from manor_lifecycle.site import Site

READ_FROM_START_MAX: Final = 256


class Listening:
    """Follows the runs of all domains, and answers the console's messages."""

    def __init__(self, site: Site, domains: Domains, consoles: Consoles) -> None:
        self._site, self._domains, self._consoles = site, domains, consoles
        self._read: set[str] = set()

    def look(self, owner: Owner) -> None:
        """A domain may have begun or ended a run, or have another name."""
        alive = self._has_console(owner.core)
        if alive and (owner.uuid in self._read or len(self._read) < READ_FROM_START_MAX):
            self._begin(owner)
        elif not alive and owner.uuid in self._read:
            self._read.discard(owner.uuid)
            self._consoles.ended(owner.uuid)

    def forget(self, owner: Owner) -> None:
        """A domain is no more."""
        self._read.discard(owner.uuid)
        self._consoles.forget(owner.uuid)

    def _has_console(self, core: Core) -> bool:
        run = core.living
        if run is None or run.run.incarnation == 0:
            return False
        spec = run.spec or core.spec
        return Feature.CONSOLE in run.features and spec.console.type != "none"

    def _begin(self, owner: Owner) -> None:
        core = owner.core
        run, adapter = core.key, self._site.hypervisors[core.hypervisor]

        async def opened() -> ConsoleStream:
            return await adapter.console(run)

        self._read.add(owner.uuid)
        self._consoles.started(owner.uuid, core.name, run.incarnation, opened)

    async def attach(self, request: ConsoleAttach, context: Context) -> ConsoleAttached:
        """Return what was printed, and the right to type if asked for."""
        owner = self._domains.find(request.name)
        if self._has_console(owner.core):
            self._begin(owner)
        return await self._consoles.attach(owner.uuid, request, context.label, context.key)

    async def recall(self, request: ConsoleRecall, context: Context) -> LastRun:
        """Return what the last run that is over left."""
        core = self._domains.find(request.name).core
        async with asyncio.timeout_at(context.deadline):
            found = await self._site.hypervisor(core).last_run(core.uuid)
        if found is not None:
            return found
        if core.run is not None:
            hint = f"See what its present run prints: manor console {core.name}"
            raise not_found(f"no run of {core.name} before the present one is kept", hint=hint)
        raise not_found(
            f"no run of {core.name} is kept on this node", hint=f"Start it: manor start {core.name}"
        )

    async def write(self, request: ConsoleWrite, context: Context) -> Done:
        """Type."""
        await self._consoles.write(self._domains.find(request.name).uuid, request)
        return Done()

    async def detach(self, request: ConsoleDetach, context: Context) -> Done:
        """Give the console back."""
        await self._consoles.detach(self._domains.find(request.name).uuid, request.token)
        return Done()
