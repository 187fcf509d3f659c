from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from manor_bus.peer.aio import Context, Peer
from manor_bus.wire.errors import Kind, ManorError, denied_state
from manor_bus.wire.messages import Done, Message, lifecycle, node
from manor_bus.wire.messages.lifecycle import DomainStart, Operation, OperationShow, OperationState
from tests.testkit.house import House
from tests.testkit.virtual import Network, run

Answer = Callable[[OperationShow, Context], Awaitable[Message] | Message]


def operation(name: str) -> Operation:
    return Operation(id=name, kind="start", target="web", uuid="u", state=OperationState.DONE)


def answered_by(answer: Answer, scenario: Callable[[House, Peer, Peer], Awaitable[None]]) -> None:
    async def main() -> None:
        house = House(Network(1))
        service = house.peer("service/lifecycle")
        await service.ready()
        service.serve({OperationShow: answer, DomainStart: answer})
        caller = house.peer()
        await caller.ready()
        await scenario(house, service, caller)
        await house.close()

    run(main())


def test_an_error_of_a_service_reaches_the_caller_whole() -> None:
    async def refuse(request: OperationShow, context: Context) -> Operation:
        raise denied_state("not now", hint="Wait.")

    async def scenario(house: House, service: Peer, caller: Peer) -> None:
        with pytest.raises(ManorError) as refused:
            await caller.call(OperationShow(id="a"), Operation, timeout=5)
        assert (refused.value.kind, refused.value.hint) == (Kind.DENIED_STATE, "Wait.")

    answered_by(refuse, scenario)


def test_a_bug_is_answered_without_its_traceback_and_with_the_key_to_report(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(request: OperationShow, context: Context) -> Operation:
        raise ZeroDivisionError("secret detail")

    async def scenario(house: House, service: Peer, caller: Peer) -> None:
        with pytest.raises(ManorError) as refused:
            await caller.call(OperationShow(id="a"), Operation, timeout=5, key="k42")
        assert refused.value.kind is Kind.INTERNAL
        assert "k42" in refused.value.hint
        assert "secret" not in str(refused.value) + refused.value.hint

    answered_by(broken, scenario)
    assert "secret detail" in caplog.text


def test_what_is_not_served_is_refused_as_such() -> None:
    async def answer(request: OperationShow, context: Context) -> Operation:
        return operation(request.id)

    async def scenario(house: House, service: Peer, caller: Peer) -> None:
        with pytest.raises(ManorError) as refused:
            await caller.call(lifecycle.DomainPause(name="web"), Operation, timeout=5)
        assert refused.value.kind is Kind.BAD_REQUEST
        assert refused.value.delivered is False

    answered_by(answer, scenario)


def test_a_question_is_dropped_when_its_caller_gives_up() -> None:
    story: list[str] = []

    async def slow(request: OperationShow, context: Context) -> Operation:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            story.append("dropped")
            raise
        return operation(request.id)

    async def scenario(house: House, service: Peer, caller: Peer) -> None:
        call = asyncio.get_running_loop().create_task(
            caller.call(OperationShow(id="a"), Operation, timeout=50)
        )
        await asyncio.sleep(1)
        call.cancel()
        await asyncio.sleep(1)
        assert story == ["dropped"]

    answered_by(slow, scenario)


def test_a_change_is_made_to_its_end_though_its_caller_gave_up() -> None:
    story: list[str] = []

    async def slow(request: OperationShow, context: Context) -> Operation:
        await asyncio.sleep(3)
        story.append("finished")
        return operation("a")

    async def scenario(house: House, service: Peer, caller: Peer) -> None:
        call = asyncio.get_running_loop().create_task(
            caller.call(DomainStart(name="web"), Operation, timeout=50)
        )
        await asyncio.sleep(1)
        call.cancel()
        await asyncio.sleep(5)
        assert story == ["finished"]

    answered_by(slow, scenario)


def test_an_answer_that_is_a_plain_function_is_given_at_once_and_its_errors_travel_as_others_do() -> None:
    def plain(request: OperationShow, context: Context) -> Operation:
        if request.id == "bad":
            raise denied_state("not now")
        if request.id == "bug":
            raise ZeroDivisionError
        return operation(request.id)

    async def scenario(house: House, service: Peer, caller: Peer) -> None:
        assert (await caller.call(OperationShow(id="a"), Operation, timeout=5)).id == "a"
        for name, kind in (("bad", Kind.DENIED_STATE), ("bug", Kind.INTERNAL)):
            with pytest.raises(ManorError) as refused:
                await caller.call(OperationShow(id=name), Operation, timeout=5)
            assert (refused.value.kind, refused.value.delivered) == (kind, True)
        at = f"n1/{service.session.instance}"
        stats = await caller.call(node.Stats(), node.StatsAnswer, timeout=5, at=at)
        [count] = [one for one in stats.calls if one.type == "lifecycle.operation.show.v1"]
        assert (count.calls, count.errors, count.in_flight) == (3, 2, 0)

    answered_by(plain, scenario)


def test_calls_are_counted() -> None:
    async def answer(request: OperationShow, context: Context) -> Operation:
        if request.id == "bad":
            raise denied_state("no")
        return operation(request.id)

    async def scenario(house: House, service: Peer, caller: Peer) -> None:
        for name in ("a", "b", "bad"):
            await asyncio.gather(
                caller.call(OperationShow(id=name), Operation, timeout=5), return_exceptions=True
            )
        at = f"n1/{service.session.instance}"
        stats = await caller.call(node.Stats(), node.StatsAnswer, timeout=5, at=at)
        counted = {one.type: (one.calls, one.errors, one.in_flight) for one in stats.calls}
        assert counted["lifecycle.operation.show.v1"] == (3, 1, 0)

    answered_by(answer, scenario)


def test_a_service_tells_the_schema_of_what_it_serves_and_of_nothing_else() -> None:
    async def answer(request: OperationShow, context: Context) -> Operation:
        return operation(request.id)

    async def scenario(house: House, service: Peer, caller: Peer) -> None:
        at = f"n1/{service.session.instance}"
        told = await caller.call(node.Schema(), node.SchemaAnswer, timeout=5, at=at)
        assert set(told.schemas) == {"lifecycle.operation.show.v1", "lifecycle.domain.start.v1"}
        with pytest.raises(ManorError) as refused:
            await caller.call(node.Schema(type="config.get.v1"), node.SchemaAnswer, timeout=5, at=at)
        assert refused.value.kind is Kind.NOT_FOUND

    answered_by(answer, scenario)


def test_a_peer_that_is_no_service_cannot_be_drained() -> None:
    async def answer(request: OperationShow, context: Context) -> Operation:
        return operation(request.id)

    async def scenario(house: House, service: Peer, caller: Peer) -> None:
        with pytest.raises(ManorError) as refused:
            await service.call(node.Drain(), Done, timeout=5, at=f"n1/{caller.session.instance}")
        assert refused.value.kind is Kind.DENIED_STATE

    answered_by(answer, scenario)


def test_who_a_service_acts_for_is_known_to_whom_it_calls_and_passed_on() -> None:
    seen: list[tuple[str, str, str]] = []

    async def pass_on(request: DomainStart, context: Context) -> Operation:
        await service_of[0].call(OperationShow(id="a"), Operation, timeout=5, on_behalf_of=context)
        return operation("b")

    async def last(request: OperationShow, context: Context) -> Operation:
        seen.append((context.label, context.on_behalf_of, context.actor))
        return operation(request.id)

    service_of: list[Peer] = []

    async def main() -> None:
        house = House(Network(1))
        service = house.peer("service/lifecycle")
        await service.ready()
        service_of.append(service)
        service.serve({OperationShow: last, DomainStart: pass_on})
        caller = house.peer()
        await caller.ready()
        await caller.call(DomainStart(name="web"), Operation, timeout=5)
        await caller.call(OperationShow(id="a"), Operation, timeout=5)
        assert seen == [
            ("service/lifecycle", caller.address, caller.address),
            ("operator/admin", "", caller.address),
        ]
        await house.close()

    run(main())
