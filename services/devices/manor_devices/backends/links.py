"""Network interfaces through pyroute2 (rtnetlink). Importing this costs 25 MiB: done when first needed."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_interface
from socket import AF_UNSPEC
from typing import Any

from pyroute2 import AsyncIPRoute  # type: ignore[import-untyped]
from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]

from manor_bus.wire.errors import Kind, ManorError, bad_request


@dataclass(frozen=True, slots=True)
class Link:
    """One interface. `owner` is a tap's user, -1 for anything else."""

    index: int
    name: str
    alias: str
    kind: str
    bridge: int  # index of the bridge it is a port of, or 0
    owner: int
    queues: bool  # a tap with several queues
    carrier: bool  # somebody is at the other end: a tap is open


@asynccontextmanager
async def _route() -> AsyncIterator[Any]:
    try:
        async with AsyncIPRoute() as route:
            yield route
    except NetlinkError as error:
        if error.code in (errno.EPERM, errno.EACCES):
            raise ManorError(
                Kind.DENIED_STATE,
                "this service may not change network interfaces",
                hint="Run it as root or give it CAP_NET_ADMIN, or use a Network of type user.",
            ) from None
        raise ManorError(
            Kind.DENIED_STATE, f"the kernel refused a network interface: {error.args[1]}"
        ) from error
    except OSError as error:
        raise ManorError(Kind.DENIED_STATE, f"a tap device cannot be made: {error.strerror}") from error


async def links() -> dict[str, Link]:
    """Return all interfaces by name."""
    async with _route() as route:
        found = [_read(message) async for message in await route.get_links()]
    return {link.name: link for link in found}


async def add_bridge(name: str, alias: str, mtu: int, address: str) -> None:
    """Make a bridge, with an address if one is given, and take it up."""
    try:
        given = ip_interface(address) if address else None
    except ValueError as error:
        raise bad_request(f"spec.address: {error}") from None
    async with _route() as route:
        await route.link("add", ifname=name, kind="bridge")
        index = (await route.link_lookup(ifname=name))[0]
        await route.link("set", index=index, ifalias=alias, mtu=mtu, state="up")
        if given is not None:
            await route.addr("add", index=index, address=str(given.ip), prefixlen=given.network.prefixlen)


async def add_tap(name: str, alias: str, owner: int, *, queues: bool) -> None:
    """Make a persistent tap that a user may open."""
    async with _route() as route:
        flags = {"no_pi": 1, "one_queue": 0, "vnet_hdr": 1, "multi_queue": int(queues)}
        await route.link("add", ifname=name, kind="tuntap", mode="tap", uid=owner, ifr=flags)
        await route.link("set", index=(await route.link_lookup(ifname=name))[0], ifalias=alias)


async def plug(name: str, bridge: int, mtu: int, *, isolated: bool) -> None:
    """Make an interface a port of a bridge and take it up."""
    async with _route() as route:
        index = (await route.link_lookup(ifname=name))[0]
        await route.link("set", index=index, mtu=mtu, master=bridge, state="up")
        await route.brport("set", index=index, isolated=int(isolated))


async def remove(name: str) -> None:
    """Remove an interface; not there: nothing to do."""
    async with _route() as route:
        for index in await route.link_lookup(ifname=name):
            await route.link("del", index=index)


async def removals() -> AsyncIterator[str]:
    """Yield the name of every interface that goes away."""
    async with _route() as route:
        await route.bind()
        while True:
            async for message in route.get():
                if message["event"] == "RTM_DELLINK" and message["family"] == AF_UNSPEC:
                    yield str(message.get("ifname"))


def _read(message: Any) -> Link:
    about = message.get("linkinfo") or {}
    kind, detail = str(about.get("kind") or ""), about.get("data") or {}
    tap = kind == "tun"
    return Link(
        index=message["index"],
        name=str(message.get("ifname")),
        alias=str(message.get("ifalias") or ""),
        kind=kind,
        bridge=message.get("master") or 0,
        owner=detail.get("tun_owner", -1) if tap else -1,
        queues=bool(tap and detail.get("tun_multi_queue")),
        carrier=bool(message.get("carrier")),
    )
