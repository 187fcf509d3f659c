from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from manor_bus.peer.aio import Change
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import Done, consoles
from manor_bus.wire.messages import lifecycle as m
from manor_bus.wire.messages.lifecycle import State
from manor_lifecycle import listening
from tests.lifecycle.scene import Scene, on_stage


async def attach(
    scene: Scene, name: str = "web", *, write: bool = True, steal: bool = False
) -> consoles.ConsoleAttached:
    request = consoles.ConsoleAttach(name=name, write=write, steal=steal)
    return await scene.operator.call(request, consoles.ConsoleAttached, timeout=10)


async def running(scene: Scene, name: str = "web") -> None:
    await scene.apply(name, run="always")
    await scene.until(State.RUNNING, name)


def test_what_is_typed_is_answered_by_the_guest_and_seen_by_watchers(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await running(scene)
        seen = bytearray()

        async def follow() -> None:
            async for change in scene.operator.watch("console.web", policy="gap"):
                if isinstance(change, Change):
                    seen.extend(change.value.content)

        watching = asyncio.get_running_loop().create_task(follow())
        attached = await attach(scene)
        assert b"run 1" in attached.scrollback
        typed = consoles.ConsoleWrite(name="web", token=attached.token, content=b"hello")
        await scene.operator.call(typed, Done, timeout=5)
        await asyncio.sleep(1)
        assert b"hello" in bytes(seen)
        watching.cancel()

    on_stage(tmp_path, scenario)


def test_there_is_one_writer_and_whoever_takes_its_place_says_so(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await running(scene)
        first = await attach(scene)
        with pytest.raises(ManorError) as second:
            await attach(scene)
        assert second.value.kind is Kind.CONFLICT
        assert (await attach(scene, write=False)).token == ""
        await attach(scene, steal=True)
        typed = consoles.ConsoleWrite(name="web", token=first.token, content=b"x")
        with pytest.raises(ManorError):
            await scene.operator.call(typed, Done, timeout=5)

    on_stage(tmp_path, scenario)


def test_a_domain_beyond_the_first_ones_is_read_when_somebody_attaches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "READ_FROM_START_MAX", 1)

    async def scenario(scene: Scene) -> None:
        await running(scene, "web")
        await running(scene, "db")
        assert b"run 1" in (await attach(scene, "db")).scrollback

    on_stage(tmp_path, scenario)


def test_a_stopped_domain_has_no_console_to_type_at(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("web")
        with pytest.raises(ManorError) as refused:
            await attach(scene)
        assert refused.value.kind is Kind.DENIED_STATE

    on_stage(tmp_path, scenario)


def test_a_console_is_given_back(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await running(scene)
        attached = await attach(scene)
        await scene.operator.call(consoles.ConsoleDetach(name="web", token=attached.token), Done, timeout=5)
        assert (await attach(scene)).token

    on_stage(tmp_path, scenario)


def test_what_the_last_run_left_is_told_and_who_has_none_is_told_so(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async def recall(name: str) -> consoles.LastRun:
            return await scene.operator.call(consoles.ConsoleRecall(name=name), consoles.LastRun, timeout=5)

        await scene.apply("db")
        await running(scene)
        for name, said in (("db", "on this node"), ("web", "before the present one")):
            with pytest.raises(ManorError, match=said) as refused:
                await recall(name)
            assert refused.value.kind is Kind.NOT_FOUND
            assert refused.value.hint
        await scene.do(m.DomainDestroy(name="web"))
        assert b"web, run 1" in (await recall("web")).console
        assert b"web, run 1" in (await recall("web")).log

    on_stage(tmp_path, scenario)
