"""Devices that the front end makes by itself, without any privilege: cards with user-mode networking, serial
consoles. Here they are only seen like all other devices.
"""

from __future__ import annotations

from collections.abc import Sequence

from manor_devices.backends import BackendSettings, Claim, Leftover, Observation, Order, Prepared, fields


class FrontBackend:
    """Has nothing to make and nothing to take away. `classes` is one of `nic` and `console`."""

    def __init__(self, *classes: str) -> None:
        self.classes = classes

    async def observe(self, known: Sequence[Order]) -> Observation:
        """It lives in the front end: always there."""
        return Observation(present=tuple(order.key for order in known))

    async def claim(self, order: Order) -> tuple[Claim, ...]:
        """Check that a card asks for nothing that only a bridge can do."""
        if order.request.nic is not None:
            fields.check("usernet", order.request.nic, order.target.network)
        return ()

    async def prepare(self, order: Order) -> Prepared:
        """Answer the addresses of a card's network; empty: the hypervisor's own choice."""
        if self.classes == ("console",):
            return Prepared("console", {})
        return Prepared("user", {"cidr": order.target.network.cidr if order.target.network else ""})

    async def release(self, order: Order) -> None:
        """There is nothing to take away."""

    async def discard(self, leftover: Leftover) -> None:
        """There is nothing left over."""

    async def close(self) -> None:
        """Nothing runs."""


def open_usernet(settings: BackendSettings) -> FrontBackend:
    """Open the back end of cards."""
    return FrontBackend("nic")


def open_console(settings: BackendSettings) -> FrontBackend:
    """Open the back end of consoles."""
    return FrontBackend("console")
