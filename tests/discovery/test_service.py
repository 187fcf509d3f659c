"""Discovery in the house: whatever happens to owners, it says what is there or whose word is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from manor_bus.peer.aio import Context, Peer
from manor_bus.peer.serving import Room
from manor_bus.settings import BusSettings
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import Done, Message
from manor_bus.wire.messages.bus import ServiceStatus
from manor_bus.wire.messages.discovery import Entry, Find, Found, FoundPart
from manor_bus.wire.messages.lifecycle import DomainsList, DomainStatus, State
from manor_bus.wire.messages.providers import ProviderStatus
from manor_discovery.service import PATIENCE_S, open_room
from manor_discovery.settings import Settings
from tests.testkit import virtual
from tests.testkit.house import House, house

SETTINGS = Settings(bus=BusSettings("n1", "", Path(), Path()), directory=Path())
DISCOVERY = (open_room, SETTINGS)


def at_home(scenario: Callable[[House], Awaitable[None]]) -> None:
    async def run() -> None:
        async with house(discovery=DISCOVERY) as home:
            await scenario(home)

    virtual.run(run())


def domain(number: int, generation: int = 1) -> DomainStatus:
    return DomainStatus(
        name=f"d{number:05}", uuid=f"u{number}", state=State.RUNNING, generation=generation,
        node="n1", hypervisor="fake", labels={"tier": "front"},
    )  # fmt: skip


def owner(count: int, opens_s: float = 0.0) -> Callable[[Peer, None], Awaitable[Room]]:
    """Return a lifecycle with so many domains, which takes some time to know them."""

    async def open_it(peer: Peer, _: None) -> Room:
        peer.state.hold()
        for number in range(count):
            peer.state.put(f"domain.u{number}", domain(number))
            if opens_s:
                await asyncio.sleep(opens_s / count)
        peer.state.release()

        async def close() -> None: ...

        async def listed(request: DomainsList, context: Context) -> Done:
            return Done()

        return Room(answers={DomainsList: listed}, owns=("domain.*", "node.*"), close=close)

    return open_it


def begin(home: House, count: int, opens_s: float = 0.0) -> asyncio.Task[object]:
    """Start lifecycle without waiting until it serves."""
    return asyncio.create_task(home.start("lifecycle", owner(count, opens_s), None))


async def find(peer: Peer, request: Find, timeout: float = 10) -> tuple[Found, list[Entry]]:
    entries: list[Entry] = []

    def part(message: Message) -> None:
        assert isinstance(message, FoundPart)
        assert len(message.entries) <= 500
        entries.extend(message.entries)

    return await peer.call(request, Found, timeout=timeout, on_part=part), entries


def test_facts_are_found_by_kind_name_and_selector() -> None:
    async def scenario(home: House) -> None:
        begin(home, 3)
        found, entries = await find(home.peer(), Find(kind="domain", selector="tier=front,name=d00001"))
        assert (found.count, found.complete, entries[0].fact) == (1, True, domain(1))
        assert entries[0].owner == home.running["lifecycle"].peer.address
        assert (await find(home.peer(), Find(kind="domain", name="u2")))[1][0].fact == domain(2)
        with pytest.raises(ManorError) as refused:
            await find(home.peer(), Find(kind="domain", selector="=="))
        assert refused.value.kind is Kind.BAD_REQUEST

    at_home(scenario)


def test_all_of_many_come_at_once_right_after_a_restart_of_discovery() -> None:
    async def scenario(home: House) -> None:
        begin(home, 300)
        operator = home.peer()
        assert (await find(operator, Find(kind="domain")))[0].count == 300
        for _ in range(5):
            await home.kill("discovery")
            await home.start("discovery", *DISCOVERY)
            found, entries = await find(operator, Find(kind="domain"))
            assert (found.count, found.complete, len(entries)) == (300, True, 300)

    at_home(scenario)


def test_no_answer_is_called_complete_while_lifecycle_is_still_learning_what_there_is() -> None:
    async def scenario(home: House) -> None:
        begin(home, 2_000, opens_s=PATIENCE_S * 2)
        operator, counts = home.peer(), []
        while not counts or counts[-1] < 2_000:
            found, _ = await find(operator, Find(kind="domain"))
            counts.append(found.count)
            assert found.complete == (found.count == 2_000), found
            assert found.complete or "service/lifecycle@n1" in found.missing[0]
        assert len(counts) > 1

    at_home(scenario)


def test_a_killed_owner_is_named_and_what_it_said_is_stale_until_its_successor_speaks() -> None:
    async def scenario(home: House) -> None:
        begin(home, 3)
        operator = home.peer()
        await find(operator, Find(kind="domain"))
        await home.kill("lifecycle")
        found, entries = await find(operator, Find(kind="domain"))
        assert (found.count, found.complete, {entry.stale for entry in entries}) == (3, False, {True})
        assert found.missing[0].startswith("service/lifecycle@n1 is gone since 5 s")
        before = asyncio.get_running_loop().time()
        await find(operator, Find(kind="domain"))
        assert asyncio.get_running_loop().time() - before < 1.0  # who is away for long is not waited for
        await begin(home, 2)
        found, entries = await find(operator, Find(kind="domain"))
        assert (found.count, found.complete, {entry.stale for entry in entries}) == (2, True, {False})

    at_home(scenario)


def test_a_restart_of_the_owner_is_waited_for_within_the_budget() -> None:
    async def scenario(home: House) -> None:
        begin(home, 3)
        operator = home.peer()
        await find(operator, Find(kind="domain"))
        await home.kill("lifecycle")
        asking = asyncio.create_task(find(operator, Find(kind="domain")))
        await asyncio.sleep(1.0)
        begin(home, 3)
        assert (await asking)[0] == Found(count=3)
        await home.kill("lifecycle")
        found, _ = await find(operator, Find(kind="domain"), timeout=2)
        assert (found.count, found.complete) == (3, False)

    at_home(scenario)


def test_a_restart_of_the_broker_makes_nothing_disappear() -> None:
    async def scenario(home: House) -> None:
        begin(home, 20)
        operator = home.peer()
        await find(operator, Find(kind="domain"))
        home.network.kill_broker()
        home.network.start_broker()
        found, _ = await find(operator, Find(kind="domain"))
        assert (found.count, found.complete) == (20, True)

    at_home(scenario)


def test_a_third_party_publishes_its_providers_under_its_own_name() -> None:
    async def scenario(home: House) -> None:
        async def open_devices(peer: Peer, _: None) -> Room:
            async def close() -> None: ...

            return Room(answers={}, owns=("provider.*", "resource.*"), close=close)

        asyncio.create_task(home.start("devices", open_devices, None))  # noqa: RUF006
        stranger = home.peer("service/nbd")
        await stranger.ready()
        stranger.serve({}, ("provider.nbd", "provider.n1-file"))
        for name in ("nbd", "n1-file"):
            backend = ProviderStatus(name=name, backend="nbd", node="n1", epoch=1)
            stranger.state.put(f"provider.{name}", backend)
        await asyncio.sleep(0.1)
        found, entries = await find(home.peer(), Find(kind="provider"))
        assert [entry.fact.name for entry in entries if entry.owner.startswith("service/nbd@")] == ["nbd"]
        assert found.complete

    at_home(scenario)


def test_services_are_known_from_the_broker_while_they_are_attached() -> None:
    async def scenario(home: House) -> None:
        operator = home.peer()

        async def services() -> dict[str, bool]:
            found, entries = await find(operator, Find(kind="service"))
            assert found.complete
            facts = [entry.fact for entry in entries]
            return {fact.service: fact.ready for fact in facts if isinstance(fact, ServiceStatus)}

        assert await services() == {"discovery": True}
        begin(home, 1, opens_s=2.0)
        await asyncio.sleep(0.1)  # until it has greeted
        assert await services() == {"discovery": True, "lifecycle": False}
        await asyncio.sleep(3.0)
        assert await services() == {"discovery": True, "lifecycle": True}
        await home.kill("lifecycle")
        await asyncio.sleep(0.1)
        assert await services() == {"discovery": True}

    at_home(scenario)


def test_who_may_only_watch_may_ask_what_is_there() -> None:
    async def scenario(home: House) -> None:
        begin(home, 1)
        assert (await find(home.peer("observer/grafana"), Find(kind="domain")))[0].count == 1

    at_home(scenario)
