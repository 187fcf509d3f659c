"""What any discovery must do, seen from the bus alone. Ours and a foreign one are held to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from manor_bus.peer.aio import Context, Peer
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import Done, Message, node
from manor_bus.wire.messages.bus import ServiceStatus
from manor_bus.wire.messages.devices import DeviceList, DevicesListed
from manor_bus.wire.messages.discovery import Entry, Find, Found, FoundPart
from manor_bus.wire.messages.lifecycle import DomainsList, DomainStatus, State
from manor_bus.wire.messages.providers import ProviderStatus
from tests.contract.place import FOREIGN_DISCOVERY, OURS, Place, end, place, serving

pytestmark = pytest.mark.system

IMPLEMENTATIONS: dict[str, Sequence[str | Path]] = {
    "ours": OURS["discovery"],
    "foreign": (FOREIGN_DISCOVERY, "."),
}


@pytest.fixture(params=IMPLEMENTATIONS)
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """A bus with the discovery under test."""
    async with place() as made:
        await made.serve("discovery", IMPLEMENTATIONS[request.param])
        yield made


def domain(number: int, *, name: str = "", generation: int = 1, owner: str = "n1") -> DomainStatus:
    return DomainStatus(
        name=name or f"d{number:04}", uuid=f"u{number}", state=State.RUNNING, generation=generation,
        node=owner, hypervisor="fake", labels={"tier": "front" if number % 2 else "back"},
    )  # fmt: skip


async def lifecycle(bus: Place, *domains: DomainStatus) -> Peer:
    """Be lifecycle, with these domains."""
    peer = await bus.peer("service/lifecycle")

    async def listed(request: DomainsList, context: Context) -> Done:
        return Done()

    for status in domains:
        peer.state.put(f"domain.{status.uuid}", status)
    peer.serve({DomainsList: listed}, ("domain.*", "node.*"))
    return peer


async def find(peer: Peer, kind: str, timeout: float = 10.0, **more: str) -> tuple[Found, list[Entry]]:
    entries: list[Entry] = []

    def part(message: Message) -> None:
        assert isinstance(message, FoundPart)
        assert 0 < len(message.entries) <= 500
        entries.extend(message.entries)

    request = Find(kind=kind, **more)  # type: ignore[arg-type]
    found = await peer.call(request, Found, timeout=timeout, on_part=part, on_restart=entries.clear)
    assert found.count == len(entries)
    assert found.complete == (not found.missing)
    return found, entries


async def until(peer: Peer, kind: str, wanted: list[str], **more: str) -> list[Entry]:
    """Ask until these names are found; the state stream brings them soon, not at once."""
    async with asyncio.timeout(20):
        while True:
            _, entries = await find(peer, kind, **more)
            if sorted(entry.fact.name for entry in entries) == wanted:
                return entries


async def test_it_answers_what_every_service_answers(bus: Place) -> None:
    operator = await bus.peer()
    (mine,) = await serving(operator, "discovery")
    at = mine.address.partition("@")[2]
    await operator.call(node.Ping(), Done, timeout=5, at=at)
    info = await operator.call(node.Info(), node.InfoAnswer, timeout=5, at=at)
    assert (info.instance, info.ready) == (mine.instance, True)


async def test_an_owner_that_was_never_heard_is_named(bus: Place) -> None:
    found, _ = await find(await bus.peer(), "domain", timeout=1.5)
    assert not found.complete
    assert "service/lifecycle@n1" in found.missing[0]


async def test_what_owners_say_is_found_by_name_uuid_and_selector(bus: Place) -> None:
    operator, owner = await bus.peer(), await lifecycle(bus, *(domain(n) for n in range(4)))
    found, entries = await find(operator, "domain")
    assert found == Found(count=4)
    assert {entry.owner for entry in entries} == {owner.address}
    assert not any(entry.stale or entry.heard for entry in entries)
    assert [e.fact for e in (await find(operator, "domain", name="d0002"))[1]] == [domain(2)]
    assert [e.fact for e in (await find(operator, "domain", name="u3"))[1]] == [domain(3)]
    for selector, count in (
        ("tier=front", 2),
        ("tier!=front,name=d0000", 1),
        ("!tier", 0),
        ("state=RUNNING,tier", 4),
    ):
        assert (await find(operator, "domain", selector=selector))[0].count == count


async def test_a_selector_that_cannot_be_read_is_a_bad_request(bus: Place) -> None:
    await lifecycle(bus)
    with pytest.raises(ManorError) as refused:
        await find(await bus.peer(), "domain", selector="==")
    assert refused.value.kind is Kind.BAD_REQUEST


async def test_thousands_come_complete_and_in_parts(bus: Place) -> None:
    await lifecycle(bus, *(domain(n) for n in range(3_000)))
    found, entries = await find(await bus.peer(), "domain", timeout=30)
    assert found == Found(count=3_000)
    assert len({entry.fact.name for entry in entries}) == 3_000


async def test_changes_renames_and_ends_are_followed(bus: Place) -> None:
    operator, owner = await bus.peer(), await lifecycle(bus, domain(1), domain(2))
    await find(operator, "domain")
    owner.state.put("domain.u1", domain(1, name="renamed", generation=2))
    owner.state.drop("domain.u2")
    owner.state.put("domain.u3", domain(3))
    await until(operator, "domain", ["d0003", "renamed"])


async def test_two_domains_of_one_name_are_two(bus: Place) -> None:
    await lifecycle(bus, domain(1, name="web"), domain(2, name="web"))
    found, entries = await find(await bus.peer(), "domain", name="web")
    assert found.count == 2
    assert {entry.fact.uuid for entry in entries if isinstance(entry.fact, DomainStatus)} == {"u1", "u2"}


async def test_a_vanished_owner_is_named_and_its_word_is_stale_until_its_successor_speaks(bus: Place) -> None:
    operator, owner = await bus.peer(), await lifecycle(bus, domain(1), domain(2))
    await find(operator, "domain")
    await owner.close()
    async with asyncio.timeout(20):
        while (answer := await find(operator, "domain", timeout=2.0))[0].complete:
            pass  # the news of its end is on its way
    found, entries = answer
    assert "service/lifecycle@n1" in found.missing[0]
    assert [entry.stale and entry.heard > 0 for entry in entries] == [True, True]
    await lifecycle(bus, domain(2, generation=2))
    async with asyncio.timeout(20):
        while (answer := await find(operator, "domain"))[0] != Found(count=1):
            assert not answer[0].complete, "the word of the vanished owner was told as the present one"
    assert answer[1][0].fact == domain(2, generation=2)


async def test_what_is_not_an_owners_to_say_is_not_believed(bus: Place) -> None:
    operator, owner = await bus.peer(), await lifecycle(bus, domain(1))
    owner.state.put("domain.u2", domain(3))
    owner.state.put("domain.u4", domain(4, owner="n2"))
    owner.state.put("provider.file", ProviderStatus(name="file", backend="file", node="n1", epoch=1))
    owner.state.put("domain.u5", domain(5))
    assert len(await until(operator, "domain", ["d0001", "d0005"])) == 2
    found, _ = await find(operator, "provider", timeout=1.5)
    assert found.count == 0


async def test_providers_are_found_by_their_back_end(bus: Place) -> None:
    devices = await bus.peer("service/devices")

    async def listed(request: DeviceList, context: Context) -> DevicesListed:
        return DevicesListed(devices=())

    devices.state.put("provider.n1-file", ProviderStatus(name="n1-file", backend="file", node="n1", epoch=3))
    devices.serve({DeviceList: listed}, ("provider.*", "resource.*"))
    found, entries = await find(await bus.peer(), "provider", selector="backend=file")
    assert (found, entries[0].fact.name) == (Found(count=1), "n1-file")
    assert (await find(await bus.peer(), "resource"))[0] == Found(count=0)


async def test_services_are_those_that_the_broker_names(bus: Place) -> None:
    operator, owner = await bus.peer(), await lifecycle(bus)
    entries = await until(operator, "service", sorted(await names(operator)))
    ready = {e.fact.service: e.fact.ready for e in entries if isinstance(e.fact, ServiceStatus)}
    assert ready == {"discovery": True, "lifecycle": True}
    await owner.close()
    assert len(await until(operator, "service", sorted(await names(operator)))) == 1


async def names(operator: Peer) -> list[str]:
    """`<service>.<instance>` of everything that serves."""
    found = [one for name in ("discovery", "lifecycle") for one in await serving(operator, name)]
    return [f"{one.name.partition('/')[2]}.{one.instance}" for one in found]


async def test_a_restart_of_the_broker_makes_nothing_disappear(bus: Place) -> None:
    operator, _ = await bus.peer(), await lifecycle(bus, *(domain(n) for n in range(50)))
    await find(operator, "domain")
    broker = bus.begun[0]
    await end(broker, kill=True)
    bus.begun[0] = await bus.run("-m", "manor_bus")
    found, _ = await find(operator, "domain", timeout=20)
    assert found == Found(count=50)


@pytest.mark.parametrize(("first", "second"), [("ours", "foreign"), ("foreign", "ours")])
async def test_one_implementation_takes_the_place_of_the_other_under_load_and_no_call_fails(
    first: str, second: str
) -> None:
    async with place() as bus:
        old = await bus.serve("discovery", IMPLEMENTATIONS[first])
        await lifecycle(bus, *(domain(n) for n in range(200)))
        callers = [await bus.peer() for _ in range(4)]
        stop, done = asyncio.Event(), [0]

        async def load(peer: Peer) -> None:
            while not stop.is_set():
                assert (await find(peer, "domain"))[0] == Found(count=200)
                done[0] += 1

        async def more(calls: int) -> None:
            wanted = done[0] + calls
            while done[0] < wanted and not any(task.done() for task in loads):
                await asyncio.wait(loads, timeout=0.01)

        loads = [asyncio.create_task(load(peer)) for peer in callers]
        await more(50)
        leaving = (await serving(callers[0], "discovery"))[0]
        await bus.serve("discovery", IMPLEMENTATIONS[second])
        await more(50)
        await callers[0].call(node.Drain(), Done, timeout=5, at=leaving.address.partition("@")[2])
        assert await asyncio.wait_for(old.wait(), 20) == 0
        await more(50)
        stop.set()
        await asyncio.gather(*loads)
