from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from manor_bus.peer.aio import Change, Peer, Synced
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.lifecycle import Operation, OperationState
from tests.testkit.house import House
from tests.testkit.virtual import Network, run

COUNT = 3_000


def operation(name: str, step: str = "") -> Operation:
    return Operation(id=name, kind="start", target="web", uuid="u", state=OperationState.RUNNING, step=step)


def with_owner(scenario: Callable[[House, Peer], Awaitable[None]]) -> None:
    async def main() -> None:
        house = House(Network(5))
        owner = house.peer("service/lifecycle")
        await owner.ready()
        owner.serve({}, owns=("operation.*",))
        await asyncio.sleep(0.1)
        await scenario(house, owner)
        await house.close()

    run(main())


async def collect(peer: Peer, seen: dict[str, str], *, pause_s: float = 0.0, window: int = 1_024) -> None:
    async for change in peer.watch("operation.*", window=window):
        if isinstance(change, Change):
            seen[change.subject] = change.value.step
            await asyncio.sleep(pause_s)


@pytest.mark.parametrize(("pause_s", "window"), [(0.0, 1_024), (0.01, 16)])
def test_after_quiet_even_a_slow_reader_has_the_owners_state(pause_s: float, window: int) -> None:
    async def scenario(house: House, owner: Peer) -> None:
        seen: dict[str, str] = {}
        task = asyncio.get_running_loop().create_task(
            collect(house.peer(), seen, pause_s=pause_s, window=window)
        )
        await asyncio.sleep(1)
        for n in range(COUNT):
            owner.state.put(f"operation.o{n % 50}", operation(f"o{n % 50}", step=str(n)))
            if n % 100 == 0:
                await asyncio.sleep(0.001)
        await asyncio.sleep(120)
        assert seen == {f"operation.o{n % 50}": str(n) for n in range(COUNT - 50, COUNT)}
        task.cancel()

    with_owner(scenario)


def test_a_view_is_whole_again_after_the_broker_died() -> None:
    async def scenario(house: House, owner: Peer) -> None:
        seen: dict[str, str] = {}
        task = asyncio.get_running_loop().create_task(collect(house.peer(), seen))
        owner.state.put("operation.a", operation("a", "1"))
        await asyncio.sleep(1)
        house.network.kill_broker()
        owner.state.put("operation.a", operation("a", "2"))
        owner.state.put("operation.b", operation("b", "1"))
        await asyncio.sleep(1)
        house.network.start_broker()
        await asyncio.sleep(5)
        assert seen == {"operation.a": "2", "operation.b": "1"}
        task.cancel()

    with_owner(scenario)


def test_a_watch_that_is_not_allowed_is_refused() -> None:
    async def scenario(house: House, owner: Peer) -> None:
        stranger = house.peer("guest/eve")
        with pytest.raises(ManorError) as refused:
            async for _ in stranger.watch("operation.*"):
                pass
        assert refused.value.kind is Kind.FORBIDDEN

    with_owner(scenario)


def test_a_watch_without_snapshot_sees_only_what_comes() -> None:
    async def scenario(house: House, owner: Peer) -> None:
        owner.state.put("operation.old", operation("old"))
        seen: list[str] = []

        async def follow() -> None:
            async for change in house.peer().watch("operation.*", snapshot=False):
                if isinstance(change, Synced):
                    owner.state.put("operation.new", operation("new"))
                else:
                    seen.append(change.subject)

        task = asyncio.get_running_loop().create_task(follow())
        await asyncio.sleep(5)
        assert seen == ["operation.new"]
        task.cancel()

    with_owner(scenario)
