"""Peers over the real broker core, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from manor_bus.peer.aio import Change, Context, Peer, Synced
from manor_bus.wire import codec
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import Done, Message, lifecycle, node
from manor_bus.wire.messages.lifecycle import Operation, OperationShow, OperationState
from tests.testkit.house import House
from tests.testkit.virtual import Network, run


def operation(name: str, state: OperationState = OperationState.RUNNING) -> Operation:
    return Operation(id=name, kind="start", target="web", uuid="u", state=state)


FIELDS = {"id": "a", "kind": "start", "target": "web", "uuid": "u", "state": "running"}
DOUBLED = b"\x86" + codec.encode(FIELDS)[1:] + codec.encode("id") + codec.encode("b")  # `id` stands twice


async def serving(house: House, answer: Callable[[OperationShow, Context], Awaitable[Message]]) -> Peer:
    service = house.peer("service/lifecycle")
    await service.ready()
    service.serve({OperationShow: answer}, owns=("operation.*",))
    return service


def test_a_call_reaches_the_service_and_its_reply_the_caller() -> None:
    async def main() -> None:
        house = House(Network(1))
        seen: list[Context] = []

        async def show(request: OperationShow, context: Context) -> Operation:
            seen.append(context)
            return operation(request.id)

        await serving(house, show)
        caller = house.peer()
        await caller.ready()
        answer = await caller.call(OperationShow(id="op1"), Operation, timeout=2)
        assert answer.id == "op1"
        assert seen[0].caller == caller.address
        assert seen[0].label == "operator/admin"
        await house.close()

    run(main())


def test_a_call_to_an_absent_service_waits_for_it_within_the_budget() -> None:
    async def main() -> None:
        house = House(Network(2))
        caller = house.peer()
        pending = asyncio.get_running_loop().create_task(
            caller.call(OperationShow(id="op1"), Operation, timeout=10)
        )
        await asyncio.sleep(1)

        async def show(request: OperationShow, context: Context) -> Operation:
            return operation(request.id)

        await serving(house, show)
        assert (await pending).id == "op1"
        await house.close()

    run(main())


def test_a_call_nobody_answers_ends_at_its_budget_and_says_that_nothing_was_done() -> None:
    async def main() -> None:
        house = House(Network(3))
        caller = house.peer()
        began = asyncio.get_running_loop().time()
        with pytest.raises(ManorError) as caught:
            await caller.call(OperationShow(id="op1"), Operation, timeout=3)
        assert caught.value.kind is Kind.UNAVAILABLE
        assert caught.value.delivered is False
        assert asyncio.get_running_loop().time() - began <= 3.05
        await house.close()

    run(main())


def test_a_watcher_sees_present_objects_then_changes_then_their_end() -> None:
    async def main() -> None:
        house = House(Network(4))

        async def show(request: OperationShow, context: Context) -> Operation:
            return operation(request.id)

        service = await serving(house, show)
        service.state.put("operation.a", operation("a"))
        watcher = house.peer()
        seen: list[tuple[str, str | None] | str] = []
        stream = watcher.watch("operation.*")
        async for change in stream:
            if isinstance(change, Synced):
                seen.append("synced")
                service.state.put("operation.a", operation("a", OperationState.DONE))
                service.state.drop("operation.a")
                continue
            seen.append((change.subject, change.value and change.value.state))
            if change.value is None:
                break
        await stream.aclose()  # type: ignore[attr-defined]
        assert seen[:2] == [("operation.a", "running"), "synced"]
        assert seen[-1] == ("operation.a", None)
        await house.close()

    run(main())


def test_a_restarted_owner_removes_only_what_is_really_gone() -> None:
    async def main() -> None:
        house = House(Network(5))

        async def show(request: OperationShow, context: Context) -> Operation:
            return operation(request.id)

        first = await serving(house, show)
        for name in "ab":
            first.state.put(f"operation.{name}", operation(name))
        seen: list[Change | Synced] = []
        watcher = house.peer()

        async def follow() -> None:
            async for change in watcher.watch("operation.*"):
                seen.append(change)

        task = asyncio.get_running_loop().create_task(follow())
        await asyncio.sleep(1)
        await first.close()
        house.peers.remove(first)
        await asyncio.sleep(1)
        before = len(seen)
        second = house.peer("service/lifecycle")
        await second.ready()
        second.state.put("operation.b", operation("b"))
        second.serve({OperationShow: show}, owns=("operation.*",))
        await asyncio.sleep(1)
        gone = [c.subject for c in seen[before:] if isinstance(c, Change) and c.value is None]
        assert gone == ["operation.a"]
        assert not [c for c in seen[:before] if isinstance(c, Change) and c.value is None]
        task.cancel()
        await house.close()

    run(main())


def test_a_broker_restart_is_healed_within_a_second_without_the_application() -> None:
    async def main() -> None:
        house = House(Network(6))
        count = 0

        async def show(request: OperationShow, context: Context) -> Operation:
            nonlocal count
            count += 1
            await asyncio.sleep(0.2)
            return operation(request.id)

        service = await serving(house, show)
        caller = house.peer()
        pending = asyncio.get_running_loop().create_task(
            caller.call(OperationShow(id="op1"), Operation, timeout=10)
        )
        await asyncio.sleep(0.1)
        house.network.kill_broker()
        await asyncio.sleep(0.5)
        house.network.start_broker()
        assert (await pending).id == "op1"
        stream = caller.watch("operation.*")
        service.state.put("operation.z", operation("z"))
        async for change in stream:
            if isinstance(change, Change):
                assert change.subject == "operation.z"
                break
        await stream.aclose()  # type: ignore[attr-defined]
        await house.close()

    run(main())


def test_a_retry_with_the_same_key_runs_once_and_gets_the_same_reply() -> None:
    async def main() -> None:
        house = House(Network(7))
        runs = 0

        async def start(request: lifecycle.DomainStart, context: Context) -> Operation:
            nonlocal runs
            runs += 1
            return operation(f"{context.key}-{runs}")

        service = house.peer("service/lifecycle")
        await service.ready()
        service.serve({lifecycle.DomainStart: start})
        caller = house.peer()
        replies = {
            (await caller.call(lifecycle.DomainStart(name="web"), Operation, timeout=5, key="k1")).id
            for _ in range(3)
        }
        assert replies == {"k1-1"}
        await house.close()

    run(main())


def test_every_service_answers_questions_about_itself() -> None:
    async def main() -> None:
        house = House(Network(8))

        async def show(request: OperationShow, context: Context) -> Operation:
            return operation(request.id)

        service = await serving(house, show)
        caller = house.peer()
        await caller.ready()
        at = f"n1/{service.session.instance}"
        assert await caller.call(node.Ping(), Done, timeout=1, at=at) == Done()
        told = await caller.call(node.Info(), node.InfoAnswer, timeout=1, at=at)
        assert told.name == "lifecycle"
        assert "lifecycle.operation.show.v1" in told.types
        await house.close()

    run(main())


def test_what_a_service_says_twice_is_read_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply and an event are held to the same rules as a request."""

    async def main() -> None:
        house = House(Network(7))

        async def show(request: OperationShow, context: Context) -> Operation:
            return operation(request.id)

        service = await serving(house, show)
        caller = house.peer()
        await caller.ready()
        reply = service.session.reply
        doubled = msgspec.Raw(DOUBLED)
        monkeypatch.setattr(
            service.session,
            "reply",
            lambda *to, data, err, last: reply(*to, data=doubled, err=err, last=last),
        )
        with pytest.raises(ManorError, match="twice"):
            await caller.call(OperationShow(id="op1"), Operation, timeout=2)
        seen: list[object] = []

        async def watch() -> None:
            async for change in caller.watch("operation.*", snapshot=False):
                seen.append(change)

        watching = asyncio.get_running_loop().create_task(watch())
        await asyncio.sleep(0.1)
        service._publish_raw("operation.a", "lifecycle.operation.v1", doubled, "", 0)
        await service.publish("operation.b", operation("b"))
        await asyncio.sleep(0.1)
        assert [change.subject for change in seen if isinstance(change, Change)] == ["operation.b"]
        watching.cancel()
        await house.close()

    run(main())
