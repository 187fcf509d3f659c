"""The whole house in one loop: the broker's core and the rooms' real `open_room`, over a virtual network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from manor_bus.peer.aio import Peer
from manor_bus.peer.serving import Room, serve_until
from tests.testkit.virtual import Network

Open = Callable[[Peer, Any], Awaitable[Room]]


@dataclass
class Running:
    """One service instance in the loop."""

    name: str
    peer: Peer
    task: asyncio.Task[None]
    stop: asyncio.Event


@dataclass
class House:
    """A broker, and services that can be started, killed and stopped."""

    network: Network
    peers: list[Peer] = field(default_factory=list)
    running: dict[str, Running] = field(default_factory=dict)

    def peer(self, label: str = "operator/admin") -> Peer:
        """Attach a peer."""
        made = Peer(
            self.network.link(label), version="test", pid=1, boot_id="virtual", token=self.network.token
        )
        self.peers.append(made)
        return made

    async def start(self, name: str, open_room: Open, settings: Any) -> Running:
        """Start a service and wait until it serves."""
        peer, stop = self.peer(f"service/{name}"), asyncio.Event()
        await peer.ready()
        task = asyncio.get_running_loop().create_task(serve_until(name, open_room, settings, peer, stop))
        self.running[name] = made = Running(name, peer, task, stop)
        while not peer.dispatcher.served:
            if task.done():
                task.result()
            await asyncio.sleep(0.01)
        return made

    async def kill(self, name: str) -> None:
        """End a service as kill -9 does: no clean-up of its own, its connection just ends."""
        dead = self.running.pop(name)
        dead.peer._closed = True
        dead.peer._link.close()
        dead.task.cancel()
        await asyncio.gather(dead.task, return_exceptions=True)
        self.peers.remove(dead.peer)

    async def stop(self, name: str) -> None:
        """Drain a service and let it leave in order."""
        leaving = self.running.pop(name)
        leaving.stop.set()
        await leaving.task
        await leaving.peer.close()
        self.peers.remove(leaving.peer)

    async def close(self) -> None:
        """End everything."""
        for name in list(self.running):
            await self.stop(name)
        for peer in list(self.peers):
            await peer.close()


@asynccontextmanager
async def house(seed: int = 0, **rooms: tuple[Open, Any]) -> AsyncIterator[House]:
    """Open a house with `name=(open_room, settings)` services, started in the given order."""
    made = House(Network(seed))
    try:
        for name, (open_room, settings) in rooms.items():
            await made.start(name, open_room, settings)
        yield made
    finally:
        await made.close()
