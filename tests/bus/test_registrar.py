from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from manor_bus.peer.aio import Peer
from manor_bus.peer.registrar import BATCH_MAX, Registrar, kind_of
from manor_bus.settings import BusSettings
from manor_bus.wire.messages.discovery import Entry, Find, Found, FoundPart, ResourceStatus
from manor_discovery.service import open_room
from manor_discovery.settings import Settings
from tests.testkit.house import House
from tests.testkit.virtual import Network, run

BUS = BusSettings("n1", "", Path(), Path())


def resource(name: str, state: str = "ready") -> ResourceStatus:
    return ResourceStatus(name=name, node="n1", state=state)


async def found(peer: Peer) -> dict[str, str]:
    entries: list[Entry] = []

    def part(message: object) -> None:
        assert isinstance(message, FoundPart)
        entries.extend(message.entries)

    await peer.call(Find(kind="resource"), Found, timeout=10, on_part=part)
    return {entry.fact.name: entry.fact.state for entry in entries if isinstance(entry.fact, ResourceStatus)}


def with_discovery(scenario: Callable[[House, Registrar, Peer], Awaitable[None]]) -> None:
    async def main() -> None:
        house = House(Network(1))
        await house.start("discovery", open_room, Settings(BUS, Path()))
        service = house.peer("service/devices")
        await service.ready()
        registrar = Registrar(service)
        await scenario(house, registrar, house.peer())
        await registrar.close()
        await house.close()

    run(main())


def test_a_fact_says_its_kind() -> None:
    assert kind_of(resource("x")) == "resource"


def test_facts_are_registered_changed_and_ended() -> None:
    async def scenario(house: House, registrar: Registrar, asker: Peer) -> None:
        registrar.put(resource("a"))
        registrar.put(resource("b"))
        await asyncio.sleep(1)
        registrar.put(resource("a", "gone bad"))
        registrar.drop("resource", "b")
        await asyncio.sleep(1)
        assert await found(asker) == {"a": "gone bad"}

    with_discovery(scenario)


def test_facts_live_as_long_as_they_are_renewed() -> None:
    async def scenario(house: House, registrar: Registrar, asker: Peer) -> None:
        registrar.put(resource("a"), ttl_ms=2_000)
        await asyncio.sleep(60)
        assert await found(asker) == {"a": "ready"}

    with_discovery(scenario)


def test_all_facts_are_told_again_to_a_discovery_that_restarted() -> None:
    async def scenario(house: House, registrar: Registrar, asker: Peer) -> None:
        for n in range(BATCH_MAX + 5):
            registrar.put(resource(f"r{n}"))
        await asyncio.sleep(3)
        await house.kill("discovery")
        await asyncio.sleep(1)
        await house.start("discovery", open_room, Settings(BUS, Path()))
        await asyncio.sleep(10)
        assert len(await found(asker)) == BATCH_MAX + 5

    with_discovery(scenario)


def test_what_changed_while_discovery_was_away_is_told_later() -> None:
    async def scenario(house: House, registrar: Registrar, asker: Peer) -> None:
        registrar.put(resource("a"))
        await asyncio.sleep(1)
        await house.kill("discovery")
        registrar.put(resource("a", "changed"))
        registrar.put(resource("b"))
        await asyncio.sleep(20)
        await house.start("discovery", open_room, Settings(BUS, Path()))
        await asyncio.sleep(10)
        assert await found(asker) == {"a": "changed", "b": "ready"}

    with_discovery(scenario)
