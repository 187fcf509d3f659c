"""`serve_until` on virtual time, and the lock on the door with real files."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from manor_bus.peer import serving as service
from manor_bus.peer.aio import Context, Peer
from manor_bus.peer.serving import Room
from manor_bus.settings import BusSettings
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import Done, node
from manor_bus.wire.messages.lifecycle import Operation, OperationShow, OperationState
from tests.testkit.house import House
from tests.testkit.virtual import Network, run

BUS = BusSettings("n1", "", Path(), Path())


@dataclass(frozen=True)
class Settings:
    bus: BusSettings = BUS
    directory: Path = Path()


class Stage:
    """A room that answers slowly and tells what happened to it."""

    def __init__(self, takes_s: float = 0.0) -> None:
        self.story: list[str] = []
        self._takes_s = takes_s

    async def open_room(self, peer: Peer, settings: Settings) -> Room:
        async def show(request: OperationShow, context: Context) -> Operation:
            await asyncio.sleep(self._takes_s)
            self.story.append(f"answered {request.id}")
            return Operation(id=request.id, kind="start", target="web", uuid="u", state=OperationState.DONE)

        async def close() -> None:
            self.story.append("closed")

        return Room({OperationShow: show}, (), close)


async def ask(peer: Peer, name: str) -> Operation:
    return await peer.call(OperationShow(id=name), Operation, timeout=10)


def test_a_service_serves_until_it_is_told_to_stop_and_closes_its_room() -> None:
    async def main() -> None:
        house, stage = House(Network(1)), Stage()
        await house.start("lifecycle", stage.open_room, Settings())
        assert (await ask(house.peer(), "a")).id == "a"
        await house.stop("lifecycle")
        assert stage.story == ["answered a", "closed"]
        await house.close()

    run(main())


def test_a_drained_service_finishes_what_it_began_before_it_leaves() -> None:
    async def main() -> None:
        house, stage = House(Network(2)), Stage(takes_s=2.0)
        running = await house.start("lifecycle", stage.open_room, Settings())
        caller = house.peer()
        call = asyncio.get_running_loop().create_task(ask(caller, "a"))
        await asyncio.sleep(0.5)
        at = f"n1/{running.peer.session.instance}"
        await caller.call(node.Drain(), Done, timeout=5, at=at)
        assert (await call).id == "a"
        await running.task
        assert stage.story == ["answered a", "closed"]
        house.running.pop("lifecycle")
        await house.close()

    run(main())


def test_a_call_after_the_drain_goes_to_the_successor() -> None:
    async def main() -> None:
        house, first, second = House(Network(3)), Stage(), Stage()
        running = await house.start("lifecycle", first.open_room, Settings())
        caller = house.peer()
        running.stop.set()
        call = asyncio.get_running_loop().create_task(ask(caller, "b"))
        await running.task
        house.running.pop("lifecycle")
        await running.peer.close()
        house.peers.remove(running.peer)
        await house.start("lifecycle", second.open_room, Settings())
        assert (await call).id == "b"
        assert "answered b" in first.story + second.story
        await house.close()

    run(main())


def test_a_room_that_cannot_be_opened_ends_the_service_with_its_error() -> None:
    async def broken(peer: Peer, settings: Settings) -> Room:
        raise ManorError(Kind.UNAVAILABLE, "no database")

    async def main() -> None:
        house = House(Network(4))
        with pytest.raises(ManorError, match="no database"):
            await house.start("config", broken, Settings())
        house.running.clear()
        await house.close()

    run(main())


async def test_a_second_instance_waits_at_the_door_until_the_first_has_left(tmp_path: Path) -> None:
    stop = asyncio.Event()
    first = await service._lock(tmp_path / "room", stop)
    assert first is not None
    waiting = asyncio.get_running_loop().create_task(service._lock(tmp_path / "room", stop))
    done, _ = await asyncio.wait((waiting,), timeout=3 * service.LOCK_POLL_S)
    assert not done
    os.close(first)
    second = await asyncio.wait_for(waiting, 5)
    assert second is not None
    os.close(second)


async def test_who_waits_at_the_door_can_be_sent_away(tmp_path: Path) -> None:
    stop = asyncio.Event()
    first = await service._lock(tmp_path / "room", stop)
    assert first is not None
    waiting = asyncio.get_running_loop().create_task(service._lock(tmp_path / "room", stop))
    stop.set()
    assert await asyncio.wait_for(waiting, 5) is None
    os.close(first)
