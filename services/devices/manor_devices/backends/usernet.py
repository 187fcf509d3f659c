"""Network cards with user-mode networking: served by the hypervisor's own process, without any privilege."""

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
    fields,
)


class UsernetBackend:
    """Says which addresses to use; there is nothing to make."""

    def describe(self) -> Description:
        """Say what it is."""
        return Description("usernet", VERSION, ("nic",))

    async def observe(self, known: Sequence[Order]) -> Observation:
        """It lives in the front end: always there."""
        return Observation(present=tuple(order.key for order in known))

    async def claim(self, order: Order) -> tuple[Claim, ...]:
        """Check that the card asks for nothing that only a bridge can do."""
        if order.request.nic is not None:
            fields.check("usernet", order.request.nic, order.target.network)
        return ()

    async def prepare(self, order: Order) -> Prepared:
        """Answer the network's addresses; empty: the hypervisor's own choice."""
        return Prepared("user", {"cidr": order.target.network.cidr if order.target.network else ""})

    async def release(self, order: Order) -> None:
        """There is nothing to take away."""

    async def discard(self, leftover: Leftover) -> None:
        """There is nothing left over."""

    async def close(self) -> None:
        """Nothing runs."""


def open_backend(settings: BackendSettings) -> UsernetBackend:
    """Open the back end."""
    return UsernetBackend()
