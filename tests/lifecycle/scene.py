"""A whole node on virtual time: config, discovery, a double of devices, and the lifecycle service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from manor_bus.peer.aio import Change, Peer
from manor_bus.settings import BusSettings
from manor_bus.wire.errors import ManorError
from manor_bus.wire.messages import Message
from manor_bus.wire.messages import config as c
from manor_bus.wire.messages import documents as d
from manor_bus.wire.messages import lifecycle as m
from manor_bus.wire.messages.discovery import Find, Found, FoundPart
from manor_bus.wire.messages.lifecycle import DomainStatus, Operation, State
from manor_config import service as config_service
from manor_config.settings import Settings as ConfigSettings
from manor_discovery import service as discovery_service
from manor_discovery.settings import Settings as DiscoverySettings
from manor_lifecycle import opening
from manor_lifecycle import service as lifecycle_service
from manor_lifecycle.hypervisors import fake
from manor_lifecycle.hypervisors.seen import SeenRun
from manor_lifecycle.opening import Opened
from manor_lifecycle.settings import Settings
from tests.lifecycle.doubles import Bare, Devices
from tests.testkit import virtual
from tests.testkit.house import House, house

PATIENCE_S = 600.0  # virtual seconds
BUS = BusSettings("n1", "", Path(), Path())


@dataclass
class Scene:
    """What a test of the service does and asks."""

    home: House
    folder: Path
    devices: Devices
    operator: Peer
    settings: Settings
    opened: list[Opened] = field(default_factory=list)

    # --- do

    async def apply(self, name: str = "web", **spec: Any) -> str:
        """Apply a Domain document and return its uuid."""
        document = {"kind": "Domain", "metadata": {"name": name}, "spec": spec}
        applied = await self.operator.call(c.Apply(documents=(document,)), c.Applied, timeout=10)
        await self.seen(name, applied.changes[0].revision)
        return applied.changes[0].uuid

    async def call(self, request: Message, key: str = "") -> Operation:
        """Post a verb and return its operation as it is then."""
        return await self.operator.call(request, Operation, timeout=20, key=key)

    async def do(self, request: Message, key: str = "") -> Operation:
        """Post a verb and return its operation when it has ended."""
        return await self.outcome((await self.call(request, key)).id)

    async def outcome(self, operation: str) -> Operation:
        """Return an operation when it has ended."""
        return await self.operator.call(m.OperationFollow(id=operation), Operation, timeout=3600)

    async def kill(self) -> None:
        """End the lifecycle service as kill -9 does."""
        await self.home.kill("lifecycle")

    async def restart(self) -> None:
        """Start the lifecycle service again."""
        await self.home.start("lifecycle", self.open_room, self.settings)

    # --- ask

    @property
    def fake(self) -> fake.FakeHypervisor:
        """The fake hypervisor of the present service."""
        adapter = self.opened[-1].site.hypervisors["fake"]
        assert isinstance(adapter, fake.FakeHypervisor)
        return adapter

    async def status(self, name: str = "web") -> DomainStatus:
        """Ask the service for one domain."""
        return await self.operator.call(m.DomainShow(name=name), DomainStatus, timeout=20)

    async def until(
        self, condition: State | Callable[[DomainStatus], bool], name: str = "web"
    ) -> DomainStatus:
        """Wait until a domain is as expected."""
        last: object = None
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    try:
                        last = status = await self.status(name)
                    except ManorError as error:
                        last = error
                    else:
                        if condition(status) if callable(condition) else status.state is condition:
                            return status
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(last) from None

    async def seen(self, name: str, revision: int) -> None:
        """Wait until the service knows this revision of a document."""
        await self.until(lambda status: status.revision >= revision, name)

    async def facts(self) -> dict[str, DomainStatus]:
        """Ask discovery for all domains."""
        found: dict[str, DomainStatus] = {}

        def part(message: Message) -> None:
            assert isinstance(message, FoundPart)
            for entry in message.entries:
                assert isinstance(entry.fact, DomainStatus)
                found[entry.fact.name] = entry.fact

        await self.operator.call(Find(kind="domain"), Found, timeout=10, on_part=part)
        return found

    async def runs(self) -> list[SeenRun]:
        """Return the runs that the hypervisor has."""
        return [seen.run for seen in (await self.fake.look()).values() if seen.run is not None]

    async def operations(self, target: str = "", *, active: bool = False) -> tuple[Operation, ...]:
        """List operations, newest first."""
        request = m.OperationList(target=target, active=active)
        return (await self.operator.call(request, m.OperationsListed, timeout=10)).operations

    async def watch(self, pattern: str, into: list[Any]) -> None:
        """Collect the values published under a pattern."""
        async for change in self.operator.watch(pattern):
            if isinstance(change, Change):
                into.append(change.value)

    async def open_room(self, peer: Peer, settings: Settings) -> Any:
        """As the service's own, keeping what is inside for the test."""
        made = await opening.open_all(peer, settings)
        self.opened.append(made)
        return lifecycle_service.room(made)


def on_stage(
    folder: Path, scenario: Callable[[Scene], Awaitable[None]], *, seed: int = 0, **settings: Any
) -> None:
    """Run a scenario on virtual time."""

    async def run() -> None:
        config = (config_service.open_room, ConfigSettings(BUS, folder / "config", "memory"))
        discovery = (discovery_service.open_room, DiscoverySettings(BUS, folder / "discovery"))
        devices = Devices()
        mine = Settings(BUS, folder / "lifecycle", hypervisors=("fake",), durable=False)
        async with house(seed=seed, config=config, discovery=discovery) as home:
            await home.start("devices", devices.open_room, Bare())
            scene = Scene(home, folder, devices, home.peer(), replace(mine, **settings))
            await scene.restart()
            await scenario(scene)

    virtual.run(run())


def disk(name: str = "root", **fields: Any) -> dict[str, Any]:
    """A disk of a document."""
    return {"id": name, "source": f"/images/{name}.raw", **fields}


def spec_of(**fields: Any) -> d.DomainSpec:
    """A domain spec as it comes out of a document."""
    import msgspec

    return msgspec.convert(fields, d.DomainSpec)


def silent(scene: Scene, uuid: str) -> None:
    """The device model of a run has not answered for 10 s."""
    scene.fake.change(uuid, silent_since=asyncio.get_running_loop().time() - 10)
