import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from manor_bus.peer.aio import Change, Peer, Synced
from manor_bus.peer.registrar import Registrar
from manor_bus.settings import BusSettings
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import Message
from manor_bus.wire.messages.discovery import (
    DomainFact,
    Entry,
    FactChanged,
    Find,
    Found,
    FoundPart,
    NodeStatus,
    ProviderStatus,
    Register,
    Registered,
    Registration,
)
from manor_bus.wire.messages.lifecycle import DomainStatus, State
from manor_discovery.service import open_room
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


def domain(name: str, generation: int = 1) -> DomainFact:
    status = DomainStatus(
        name=name, uuid=name, state=State.RUNNING, generation=generation, node="n1", hypervisor="fake"
    )
    return DomainFact(name=name, status=status, labels={"tier": "front"})


async def find(peer: Peer, request: Find) -> tuple[Found, list[Entry]]:
    entries: list[Entry] = []

    def part(message: object) -> None:
        assert isinstance(message, FoundPart)
        entries.extend(message.entries)

    return await peer.call(request, Found, timeout=5, on_part=part), entries


async def settled(peer: Peer) -> None:
    while (await peer.call(Find(kind="node"), Found, timeout=5)).settling:  # noqa: ASYNC110
        await asyncio.sleep(0.1)


async def until_gone(peer: Peer, subject: str, seen: list[FactChanged] | None = None) -> Change:
    """Wait for the end of an object; keep what was said of it before."""
    async for change in peer.watch(subject, policy="gap"):
        if isinstance(change, Change) and change.value is None:
            return change
        if isinstance(change, Change) and seen is not None:
            seen.append(change.value)
    raise AssertionError


def test_what_is_registered_is_found_by_selector() -> None:
    async def scenario(home: House) -> None:
        lifecycle, operator = home.peer("service/lifecycle"), home.peer()
        request = Register(
            registrations=(
                Registration(fact=domain("web")),
                Registration(fact=domain("db")),
                Registration(fact=NodeStatus(name="n1", cpus=2)),
            )
        )
        await lifecycle.call(request, Registered, timeout=5)
        found, entries = await find(operator, Find(kind="domain", selector="tier=front,name=web"))
        assert found.count == 1
        assert [entry.fact.name for entry in entries] == ["web"]
        assert entries[0].by == lifecycle.address

    at_home(scenario)


def test_a_bad_selector_is_refused_over_the_bus() -> None:
    async def scenario(home: House) -> None:
        with pytest.raises(ManorError) as refusal:
            await find(home.peer(), Find(kind="domain", selector="=="))
        assert refusal.value.kind is Kind.BAD_REQUEST

    at_home(scenario)


def test_many_facts_come_in_parts() -> None:
    async def scenario(home: House) -> None:
        lifecycle = home.peer("service/lifecycle")
        registrar = Registrar(lifecycle)
        for number in range(1200):
            registrar.put(domain(f"d{number:04}"))
        while (await find(lifecycle, Find(kind="domain")))[0].count < 1200:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        parts: list[Message] = []
        await lifecycle.call(Find(kind="domain"), Found, timeout=5, on_part=parts.append)
        sizes = [len(part.entries) for part in parts if isinstance(part, FoundPart)]
        assert sum(sizes) == 1200
        assert len(sizes) >= 3
        await registrar.close()

    at_home(scenario)


def test_the_end_of_a_session_ends_its_bound_facts_for_all_watchers() -> None:
    async def scenario(home: House) -> None:
        devices, operator = home.peer("service/devices"), home.peer()
        provider = ProviderStatus(name="file", backend="file", node="n1", epoch=1)
        request = Register(registrations=(Registration(fact=provider, ttl_ms=60_000),))
        await devices.call(request, Registered, timeout=5)
        await settled(operator)
        seen: list[FactChanged] = []
        watcher = asyncio.create_task(until_gone(operator, "provider.file", seen))
        await asyncio.sleep(0.5)
        before = asyncio.get_running_loop().time()
        await devices.close()
        await watcher
        assert asyncio.get_running_loop().time() - before < 1.0
        assert seen[-1].entry.stale
        assert f"the session of {devices.address} ended" in seen[-1].reason

    at_home(scenario)


def test_a_fact_that_nobody_renews_ends_with_its_limit() -> None:
    async def scenario(home: House) -> None:
        lifecycle, operator = home.peer("service/lifecycle"), home.peer()
        request = Register(registrations=(Registration(fact=domain("web"), ttl_ms=3000),))
        await lifecycle.call(request, Registered, timeout=5)
        await settled(operator)
        assert (await until_gone(operator, "domain.web")).subject == "domain.web"
        assert (await find(operator, Find(kind="domain")))[0].count == 0

    at_home(scenario)


def test_a_restart_of_discovery_shows_watchers_no_false_disappearance() -> None:
    async def scenario(home: House) -> None:
        lifecycle, operator = home.peer("service/lifecycle"), home.peer()
        registrar = Registrar(lifecycle)
        for name in ("a", "b", "c"):
            registrar.put(domain(name))
        await settled(operator)
        seen: list[Change | Synced] = []

        async def watch() -> None:
            async for change in operator.watch("domain.*"):
                seen.append(change)

        watcher = asyncio.create_task(watch())
        await asyncio.sleep(1)
        await home.kill("discovery")
        await asyncio.sleep(1)
        await home.start("discovery", *DISCOVERY)
        await settled(operator)
        await asyncio.sleep(3)
        assert {c.subject for c in seen if isinstance(c, Change)} == {"domain.a", "domain.b", "domain.c"}
        assert not [c for c in seen if isinstance(c, Change) and c.value is None]
        registrar.drop("domain", "a")
        await asyncio.sleep(1)
        last = seen[-1]
        assert isinstance(last, Change)
        assert (last.subject, last.value) == ("domain.a", None)
        watcher.cancel()
        await registrar.close()

    at_home(scenario)


def test_a_fact_that_ended_while_discovery_was_away_disappears_after_settling() -> None:
    async def scenario(home: House) -> None:
        lifecycle, operator = home.peer("service/lifecycle"), home.peer()
        registrar = Registrar(lifecycle)
        registrar.put(domain("a"))
        registrar.put(domain("b"))
        await settled(operator)
        watcher = asyncio.create_task(until_gone(operator, "domain.b"))
        await asyncio.sleep(1)
        await home.kill("discovery")
        registrar.drop("domain", "b")
        await home.start("discovery", *DISCOVERY)
        assert (await watcher).subject == "domain.b"
        assert [e.fact.name for e in (await find(operator, Find(kind="domain")))[1]] == ["a"]
        await registrar.close()

    at_home(scenario)


def test_a_watcher_gets_the_whole_entry() -> None:
    async def scenario(home: House) -> None:
        lifecycle, operator = home.peer("service/lifecycle"), home.peer()
        registrar = Registrar(lifecycle)
        registrar.put(domain("web"))
        async for change in operator.watch("domain.web"):
            if isinstance(change, Change):
                assert isinstance(change.value, FactChanged)
                assert change.value.entry.fact == domain("web")
                break
        await registrar.close()

    at_home(scenario)
