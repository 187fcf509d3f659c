"""Which consoles are read: those of the first runs from their start, others from the first attach on.

Reading a console costs two tasks and up to 256 KiB, so a node with thousands of domains does not read them
all; what a guest printed before is in the hypervisor's log and comes with the first attach.
"""

from __future__ import annotations

from typing import Final

from manor_bus.peer.aio import Context
from manor_bus.wire.messages import Done
from manor_bus.wire.messages.consoles import ConsoleAttach, ConsoleAttached, ConsoleDetach, ConsoleWrite
from manor_lifecycle.console import Consoles
from manor_lifecycle.domains import Domains
from manor_lifecycle.hypervisors import ConsoleStream, Feature, GuestState
from manor_lifecycle.life import Life
from manor_lifecycle.means import Means

READ_FROM_START_MAX: Final = 256
ALIVE: Final = (GuestState.RUNNING, GuestState.PAUSED)


class Listening:
    """Follows the runs of all domains, and answers the console's messages."""

    def __init__(self, means: Means, domains: Domains, consoles: Consoles) -> None:
        self._means, self._domains, self._consoles = means, domains, consoles
        self._read: set[str] = set()

    def look(self, life: Life) -> None:
        """A domain may have begun or ended a run, or have another name."""
        alive = life.guest in ALIVE and self._has_console(life)
        if alive and (life.uuid in self._read or len(self._read) < READ_FROM_START_MAX):
            self._begin(life)
        elif not alive and life.uuid in self._read:
            self._read.discard(life.uuid)
            self._consoles.ended(life.uuid)

    def forget(self, life: Life) -> None:
        """A domain is no more."""
        self._read.discard(life.uuid)
        self._consoles.forget(life.uuid)

    def _has_console(self, life: Life) -> bool:
        return Feature.CONSOLE in life.features and life.spec.console.type != "none"

    def _begin(self, life: Life) -> None:
        run, adapter = life.run, self._means.hypervisors[life.hypervisor]

        async def opened() -> ConsoleStream:
            return await adapter.console(run)

        self._read.add(life.uuid)
        self._consoles.started(life.uuid, life.name, life.incarnation, opened)

    async def attach(self, request: ConsoleAttach, context: Context) -> ConsoleAttached:
        """Return what was printed, and the right to type if asked for."""
        life = self._domains.find(request.name)
        if life.guest in ALIVE and self._has_console(life):
            self._begin(life)
        return await self._consoles.attach(life.uuid, request, context.label, context.key)

    async def write(self, request: ConsoleWrite, context: Context) -> Done:
        """Type."""
        await self._consoles.write(self._domains.find(request.name).uuid, request)
        return Done()

    async def detach(self, request: ConsoleDetach, context: Context) -> Done:
        """Give the console back."""
        await self._consoles.detach(self._domains.find(request.name).uuid, request.token)
        return Done()
