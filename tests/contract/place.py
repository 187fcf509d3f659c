"""A broker process and the services under test, which are known by nothing but what they say on the bus."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from manor_bus import keys
from manor_bus.peer.aio import Peer
from manor_bus.peer.serving import connect
from manor_bus.settings import BusSettings
from manor_bus.wire.messages import Message
from manor_bus.wire.messages.bus import Peers, PeersListed, PeerView

PATIENCE_S: Final = 30.0
AGAIN_S: Final = 0.02
FOREIGN_DISCOVERY: Final = Path(__file__).with_name("foreign_discovery.py")
OURS: Final[Mapping[str, tuple[str, ...]]] = {
    "config": ("-m", "manor_config"),
    "devices": ("-m", "manor_devices"),
    "discovery": ("-m", "manor_discovery"),
    "lifecycle": ("-m", "manor_lifecycle"),
}


@dataclass
class Place:
    """One bus; `begun` are the processes that were started, newest last."""

    directory: Path
    told: dict[str, str] = field(default_factory=dict)  # further variables for the processes
    begun: list[asyncio.subprocess.Process] = field(default_factory=list)
    peers: list[Peer] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What every process gets."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MANOR_")}
        own = {"MANOR_DIR": str(self.directory), "MANOR_NODE": "n1", "MANOR_HYPERVISOR": "fake"}
        return {**kept, **own, **self.told}

    async def run(
        self, *arguments: str | Path, told: Mapping[str, str] | None = None
    ) -> asyncio.subprocess.Process:
        """Start a Python program, told these variables; a failure shows what it said."""
        with (self.directory / "log").open("ab") as log:
            made = await asyncio.create_subprocess_exec(
                sys.executable, *map(str, arguments), stdout=log, stderr=log,
                env={**self.environment, **(told or {})},
                cwd=self.directory,
            )  # fmt: skip
        self.begun.append(made)
        return made

    async def peer(self, principal: str = "operator/admin") -> Peer:
        """Attach to the bus."""
        made = connect(BusSettings.from_environment(principal, self.environment))
        self.peers.append(made)
        await made.ready(PATIENCE_S)
        return made

    async def serve(
        self, name: str, command: Sequence[str | Path] = (), told: Mapping[str, str] | None = None
    ) -> asyncio.subprocess.Process:
        """Start a service (ours, if no other program is named) and wait until it serves."""
        asking = await self.peer()
        before = {peer.address for peer in await serving(asking, name)}
        process = await self.run(*(command or OURS[name]), told=told)
        async with asyncio.timeout(PATIENCE_S):
            while not {peer.address for peer in await serving(asking, name)} - before:
                assert process.returncode is None, self.log()
                await asyncio.sleep(AGAIN_S)
        return process

    def log(self) -> str:
        """What the processes said."""
        return (self.directory / "log").read_text(errors="replace")[-4_000:]


async def serving(asking: Peer, name: str) -> list[PeerView]:
    """Return the attached instances of a service that serve."""
    listed = await asking.call(Peers(), PeersListed, timeout=10)
    return [peer for peer in listed.peers if peer.name == f"service/{name}" and peer.serves]


async def end(process: asyncio.subprocess.Process, *, kill: bool = False) -> int:
    """End a process that a test started; returns its exit code."""
    if process.returncode is None:
        (process.kill if kill else process.terminate)()
    return await asyncio.wait_for(process.wait(), PATIENCE_S)


@asynccontextmanager
async def place(broker: Mapping[str, str] | None = None, **told: str) -> AsyncIterator[Place]:
    """Open a bus with fresh keys, and these variables for its processes.

    The folder is short because the path of a socket may have 107 bytes.
    """
    with tempfile.TemporaryDirectory(prefix="manor") as name:
        keys.create(Path(name) / "keys")
        made = Place(Path(name), told)
        try:
            await made.run("-m", "manor_bus", told=broker)
            yield made
        finally:
            for peer in made.peers:
                await peer.close()
            for process in reversed(made.begun):
                await end(process)


async def collect(peer: Peer, request: Message, reply: type[Message], part: str) -> list[object]:
    """Call, and return what its parts carried in the field `part`."""
    found: list[object] = []
    await peer.call(request, reply, timeout=10, on_part=lambda piece: found.extend(getattr(piece, part)))
    return found
