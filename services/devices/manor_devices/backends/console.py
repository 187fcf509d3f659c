"""Serial consoles: the hypervisor adapter serves them; here they are only seen like all other devices."""

from __future__ import annotations

from collections.abc import Sequence

from manor_bus import VERSION
from manor_devices.backends import (
    BackendSettings,
    Claim,
    Description,
    Leftover,
    Observation,
    Order,
    Prepared,
)


class ConsoleBackend:
    """Has nothing to make."""

    def describe(self) -> Description:
        """Say what it is."""
        return Description("console", VERSION, ("console",))

    async def observe(self, known: Sequence[Order]) -> Observation:
        """It lives in the front end: always there."""
        return Observation(present=tuple(order.key for order in known))

    async def claim(self, order: Order) -> tuple[Claim, ...]:
        """A console uses nothing of others."""
        return ()

    async def prepare(self, order: Order) -> Prepared:
        """Answer that there is nothing to know."""
        return Prepared("console", {})

    async def release(self, order: Order) -> None:
        """There is nothing to take away."""

    async def discard(self, leftover: Leftover) -> None:
        """There is nothing left over."""

    async def close(self) -> None:
        """Nothing runs."""


def open_backend(settings: BackendSettings) -> ConsoleBackend:
    """Open the back end."""
    return ConsoleBackend()
