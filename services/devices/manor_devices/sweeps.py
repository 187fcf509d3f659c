"""Connections whose run is gone, though nobody told: lifecycle is asked now and then, and says it twice.

What lifecycle remembers of a run may be lost (a restart, an end that could not be told); what a run left here
is released all the same. A lifecycle that does not answer proves nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from manor_bus.wire.errors import ManorError
from manor_bus.wire.messages.devices import DeviceStatus
from manor_bus.wire.messages.lifecycle import DomainStatus, State
from manor_devices.connections import Connections

EVERY_S: Final = 300.0
AGAIN_S: Final = 30.0  # between the two looks that agree
CLOSE_S: Final = 20.0
WITHOUT_RUN: Final = frozenset({State.DEFINED, State.SUSPENDED, State.DELETED})
log = logging.getLogger(__name__)

Run = tuple[str, int]  # uuid and incarnation


def gone(devices: list[DeviceStatus], domains: Mapping[str, DomainStatus]) -> dict[Run, int]:
    """Return the runs that lifecycle knows to be over, with the sum of their connections' generations.

    The number of a run is allotted before its first device is connected, so a domain that rests under a
    number has ended the runs up to it; a reset keeps the number its devices were connected under.
    """
    runs: dict[Run, int] = {}
    for device in devices:
        uuid, incarnation = device.key.uuid, device.key.incarnation
        domain = domains.get(uuid)
        rests = domain is not None and domain.state in WITHOUT_RUN and not domain.operation
        if domain is None or (rests and domain.incarnation >= incarnation):
            runs[uuid, incarnation] = runs.get((uuid, incarnation), 0) + device.generation
    return runs


class Sweeps:
    """Closes by force what runs left that are over."""

    def __init__(
        self, connections: Connections, ask: Callable[[], Awaitable[Mapping[str, DomainStatus]]]
    ) -> None:
        self._connections = connections
        self._ask = ask
        self._suspects: dict[Run, int] = {}

    async def keep(self) -> None:
        """Look now and then, for ever."""
        while True:
            await asyncio.sleep(AGAIN_S if self._suspects else EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Ask once; close what was gone at the look before, too, and was not touched since."""
        if not (devices := self._connections.runs()):
            self._suspects = {}
            return
        try:
            now = gone(devices, await self._ask())
        except ManorError as error:
            log.info("lifecycle cannot be asked which runs are over: %s", error)
            self._suspects = {}
            return
        before, self._suspects = self._suspects, now
        for (uuid, incarnation), touched in now.items():
            if before.get((uuid, incarnation)) == touched:
                log.warning("run %d of %s is over: what it left connected is released", incarnation, uuid)
                deadline = asyncio.get_running_loop().time() + CLOSE_S
                await self._connections.domain_gone(uuid, incarnation, deadline)
