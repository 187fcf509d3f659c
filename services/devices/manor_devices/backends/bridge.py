"""Network cards on a bridge of this node: one persistent tap each, owned by the domain's user.

Interfaces we make carry an alias `manor:<mark>:…`; nothing without it is ever changed or removed. A bridge
that a Network asks to create is removed when its last port goes.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import socket
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Final

from manor_bus.wire.errors import Kind, ManorError, Problem, bad_request, denied_state
from manor_bus.wire.messages.documents import NetworkSpec, Nic
from manor_devices.backends import (
    BackendSettings,
    Claim,
    Leftover,
    Notice,
    Observation,
    Order,
    Prepared,
    fields,
)
from manor_host import privileges

if TYPE_CHECKING:
    from manor_devices.backends.links import Link

PREFIX: Final = "mn"
NAME_MAX: Final = 15  # IFNAMSIZ - 1, include/uapi/linux/if.h
WATCH_AGAIN_S: Final = 1.0
log = logging.getLogger(__name__)


def _links() -> ModuleType:
    """Import pyroute2 only on a node that has bridges to serve: it is larger than this whole service."""
    from manor_devices.backends import links

    return links


class BridgeBackend:
    """Makes, finds and removes taps and bridges."""

    classes: Final = ("nic",)

    def __init__(self, settings: BackendSettings) -> None:
        self._mark = f"manor:{settings.mark}:"
        self._notify = settings.notify
        self._lock = asyncio.Lock()  # over bridges: made with their first port, removed with their last
        self._served: dict[str, Order] = {}  # by interface
        self._watch: asyncio.Task[None] | None = None

    async def observe(self, known: Sequence[Order]) -> Observation:
        """Find our taps by name and alias."""
        ours = [name for _, name in socket.if_nameindex() if name.startswith(PREFIX)]
        if not known and not ours:
            return Observation()
        there = await _links().links()
        expected = {interface(order): order for order in known}
        present = []
        for name, order in expected.items():
            bridge = there.get(_network(order).bridge)
            tap = there.get(name)
            if tap and bridge and tap.alias == self._alias(order) and tap.bridge == bridge.index:
                self._serve(name, order)
                present.append(order.key)
        unknown = [there[name] for name in ours if name not in expected and name in there]
        left = [
            Leftover(link.name, link.alias, ours=link.alias.startswith(self._mark), used=link.carrier)
            for link in unknown
        ]
        return Observation(tuple(present), tuple(left))

    async def claim(self, order: Order) -> tuple[Claim, ...]:
        """Check what is asked for; taps are nobody else's."""
        nic, network = _nic(order), _network(order)
        fields.check("bridge", nic, network)
        if not _fits(network.bridge):
            raise bad_request(
                f"network {nic.network}: {network.bridge!r} cannot be the name of a bridge",
                Problem(
                    path="spec.bridge", reason=f"must be 1 to {NAME_MAX} characters", value=network.bridge
                ),
            )
        return ()

    async def prepare(self, order: Order) -> Prepared:
        """Make the tap a port of the bridge. What is right is left alone: the guest may be using it."""
        nic, network, name = _nic(order), _network(order), interface(order)
        links = _links()
        owner = order.request.uid or os.geteuid()
        async with self._lock:
            there = await links.links()
            bridge = await self._bridge(nic, network, there)
            tap = there.get(name)
            if tap is not None and not tap.alias.startswith(self._mark) and tap.alias:
                raise denied_state(f"there is an interface {name} that is not ours ({tap.alias})")
            if tap is not None and (tap.alias, tap.owner, tap.queues) != (
                self._alias(order),
                owner,
                nic.queues > 1,
            ):
                await links.remove(name)
                tap = None
            if tap is None:
                await links.add_tap(name, self._alias(order), owner, queues=nic.queues > 1)
            await links.plug(name, bridge, nic.mtu or network.mtu, isolated=network.isolated)
        self._serve(name, order)
        return Prepared("tap", {"ifname": name, "vhost": os.access("/dev/vhost-net", os.R_OK | os.W_OK)})

    async def release(self, order: Order) -> None:
        """Remove the tap, and the bridge if it was ours and this was its last port."""
        name = interface(order)
        self._served.pop(name, None)
        async with self._lock:
            await self._remove(name, _network(order).bridge)

    async def discard(self, leftover: Leftover) -> None:
        """Remove a tap of ours that no card explains, and its bridge likewise."""
        async with self._lock:
            there = await _links().links()
            tap = there.get(leftover.name)
            bridge = next((b.name for b in there.values() if tap and b.index == tap.bridge), "")
            await self._remove(leftover.name, bridge)

    async def close(self) -> None:
        """Stop watching; interfaces stay."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)

    # --- interfaces -----------------------------------------------------------------------------------

    async def _bridge(self, nic: Nic, network: NetworkSpec, there: dict[str, Link]) -> int:
        """Return the index of the network's bridge; make it if it shall be made."""
        found = there.get(network.bridge)
        if found is not None and found.kind != "bridge":
            raise denied_state(f"network {nic.network}: interface {network.bridge} is not a bridge")
        if found is None and not network.create:
            raise denied_state(
                f"network {nic.network}: there is no bridge {network.bridge}",
                hint=f"Say create: true in the Network, or: ip link add {network.bridge} type bridge",
            )
        if found is None:
            await _links().add_bridge(network.bridge, self._mark, network.mtu, network.address)
            found = (await _links().links())[network.bridge]
        return found.index

    async def _remove(self, tap_name: str, bridge_name: str) -> None:
        there: dict[str, Link] = await _links().links()
        tap, bridge = there.get(tap_name), there.get(bridge_name)
        if tap is not None and tap.alias.startswith(self._mark):
            await _links().remove(tap_name)
        ports = [link for link in there.values() if bridge and link.bridge == bridge.index and link != tap]
        if bridge is not None and bridge.alias.startswith(self._mark) and not ports:
            await _links().remove(bridge_name)

    def _alias(self, order: Order) -> str:
        key = order.key
        return f"{self._mark}{key.uuid}:{key.incarnation}:{key.id}"

    def _serve(self, name: str, order: Order) -> None:
        self._served[name] = order
        if self._watch is None:
            self._watch = asyncio.get_running_loop().create_task(self._notice_removals())

    async def _notice_removals(self) -> None:
        """A tap that somebody removes is a resource gone: the guest's card is dead."""
        while True:
            try:
                async for name in _links().removals():
                    await self._gone(name)
            except ManorError as error:
                log.warning("interfaces cannot be watched now: %s", error)
                await asyncio.sleep(WATCH_AGAIN_S)

    async def _gone(self, name: str) -> None:
        order = self._served.get(name)
        if order is None or name in await _links().links():  # ours to remove, or made anew since
            return
        del self._served[name]
        reason = f"interface {name} was removed"
        self._notify(Notice("gone", reason, order.key, order.generation, order.epoch))


def _fits(name: str) -> bool:
    return 0 < len(name) <= NAME_MAX and "/" not in name and name.split() == [name]


def interface(order: Order) -> str:
    """Return the name of a card's tap: the same for every generation."""
    key = order.key
    digest = hashlib.sha256(f"{key.uuid}/{key.incarnation}/{key.id}".encode()).hexdigest()
    return PREFIX + digest[: NAME_MAX - len(PREFIX)]


def _nic(order: Order) -> Nic:
    nic = order.request.nic
    if nic is None:
        raise bad_request(f"{order.key.id} is not a network card", Problem(path="type", reason="must be nic"))
    return nic


def _network(order: Order) -> NetworkSpec:
    return order.target.network or NetworkSpec()


def open_backend(settings: BackendSettings) -> BridgeBackend:
    """Open the back end, if this process may change network interfaces."""
    if not privileges.may(privileges.NET_ADMIN) or not os.path.exists("/dev/net/tun"):
        raise ManorError(
            Kind.DENIED_STATE,
            "bridges need CAP_NET_ADMIN and /dev/net/tun",
            hint="Run the devices service as root, or use Networks of type user.",
        )
    return BridgeBackend(settings)
