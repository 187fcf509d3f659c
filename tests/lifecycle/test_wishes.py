"""A wish stays a wish: what a guest did not do or hear is asked again, and what keeps one waits alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from manor_bus.wire.errors import Kind, ManorError, bad_request, unavailable
from manor_bus.wire.messages import lifecycle as m
from manor_bus.wire.messages.lifecycle import OperationState, State
from manor_lifecycle.hypervisors.seen import EndReason
from tests.lifecycle.doubles import Bare
from tests.lifecycle.scene import Scene, disk, on_stage, silent

OTHER = "11111111-2222-3333-4444-555555555555"


async def started(scene: Scene, **spec: Any) -> str:
    uuid = await scene.apply("web", **spec)
    assert (await scene.do(m.DomainStart(name="web"))).state is OperationState.DONE
    return uuid


def raising(error: Exception) -> Any:
    async def call(*_: Any, **__: Any) -> None:
        raise error

    return call


def full_disk(scene: Scene) -> Any:
    async def commit() -> None:
        raise OSError(28, "No space left on device")

    patch = pytest.MonkeyPatch()
    patch.setattr(scene.opened[-1].site.operations._log, "commit", commit)
    return patch


@pytest.mark.parametrize("action", ["restart", "destroy"])
def test_only_what_somebody_wrote_ends_a_silent_guest_and_after_its_time(tmp_path: Path, action: str) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await started(scene, on_silence={"after_s": 60, "action": action})
        silent(scene, uuid)
        await asyncio.sleep(45)
        status = await scene.status()
        assert (status.state, status.incarnation) == (State.RUNNING, 1)
        if action == "restart":
            await scene.until(lambda s: s.incarnation == 2 and s.state is State.RUNNING)
        else:
            await scene.until(State.DEFINED)

    on_stage(tmp_path, scenario)


def test_a_guest_that_answers_in_time_is_left_alone(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await started(scene, on_silence={"after_s": 60, "action": "destroy"})
        silent(scene, uuid)
        await asyncio.sleep(45)
        scene.fake.change(uuid, silent_since=0.0)
        await asyncio.sleep(1)
        silent(scene, uuid)
        await asyncio.sleep(30)
        scene.fake.change(uuid, silent_since=0.0)
        await asyncio.sleep(600)
        assert (await scene.status()).state is State.RUNNING

    on_stage(tmp_path, scenario)


def test_what_a_guest_refused_is_asked_again_until_it_lets_go(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        faults = {"fake": {"unplug": {"do": "refuse", "times": 3}}}
        await started(scene, disks=[disk(), disk("more")], extra=faults)
        began = asyncio.get_running_loop().time()
        await scene.apply("web", disks=[disk()], extra=faults)
        status = await scene.until(
            lambda s: any(p.applies == "asked" and "refused" in p.reason for p in s.pending)
        )
        assert {d.id: d.state for d in status.devices} == {"root": "CONNECTED", "more": "DETACH_PENDING"}
        await scene.until(lambda s: len(s.devices) == 1 and not s.pending)
        assert {name for _, name in scene.devices.open} == {"root"}
        asked = [o for o in await scene.operations("web") if o.kind in ("plug", "unplug")]
        assert len(asked) == 4
        assert asyncio.get_running_loop().time() - began > 1 + 2 + 5

    on_stage(tmp_path, scenario)


def test_a_guest_that_could_not_hear_is_asked_at_once_when_it_can(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        faults = {"fake": {"unplug": {"do": "refuse", "times": 7}}}
        uuid = await started(scene, disks=[disk(), disk("more")], extra=faults)
        await scene.apply("web", disks=[disk()], extra=faults)
        await asyncio.sleep(1 + 2 + 5 + 10 + 30 + 5)  # the next pause is a minute
        await scene.do(m.DomainPause(name="web"))
        await scene.do(m.DomainResume(name="web"))
        await asyncio.sleep(5)
        asked = [o for o in await scene.operations("web") if o.kind in ("plug", "unplug")]
        assert len(asked) == 7
        scene.fake.let_go(uuid, "more")
        await scene.until(lambda s: len(s.devices) == 1 and not s.pending)

    on_stage(tmp_path, scenario)


def test_what_can_never_be_done_in_this_run_is_tried_once_and_shown_refused(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await started(scene, disks=[disk()])
        never = bad_request("this machine cannot take a disk while it runs", hint="Restart it.")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scene.fake, "plug", raising(never))
            await scene.apply("web", disks=[disk(), disk("more")])
            await asyncio.sleep(3_600)
            assert len([o for o in await scene.operations("web") if o.kind in ("plug", "unplug")]) == 1
            [change] = (await scene.status()).pending
            assert (change.applies, change.reason) == ("refused", never.message)
        await scene.do(m.DomainReset(name="web"))
        await scene.until(lambda s: not s.pending)

    on_stage(tmp_path, scenario)


def test_where_a_second_press_means_no_it_is_asked_once(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await started(scene, shutdown_repeat_s=0)
        scene.fake.faults.next("shutdown", "lie")
        assert (await scene.do(m.DomainShutdown(name="web"))).state is OperationState.FAILED
        assert (await scene.status()).state is State.RUNNING

    on_stage(tmp_path, scenario)


def test_on_a_full_disk_a_guest_can_still_be_ended_and_resumed(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await started(scene)
        await scene.do(m.DomainPause(name="web"))
        patch = full_disk(scene)
        assert (await scene.do(m.DomainResume(name="web"))).state is OperationState.DONE
        assert (await scene.do(m.DomainDestroy(name="web"))).state is OperationState.DONE
        patch.undo()
        assert (await scene.status()).state is State.DEFINED

    on_stage(tmp_path, scenario)


def test_what_was_refused_because_it_could_not_be_noted_is_not_begun_later(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("web")
        patch = full_disk(scene)
        with pytest.raises(ManorError) as refused:
            await scene.call(m.DomainStart(name="web"))
        assert refused.value.kind is Kind.NO_CAPACITY
        patch.undo()
        await asyncio.sleep(60)
        assert (await scene.status()).state is State.DEFINED
        await scene.kill()
        await scene.restart()
        await asyncio.sleep(60)
        assert (await scene.status()).state is State.DEFINED

    on_stage(tmp_path, scenario)


def test_who_waits_for_a_provider_keeps_nobody_from_starting(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        connect, there = scene.devices.connect, asyncio.Event()

        async def waiting(request: Any, context: Any) -> Any:
            if request.domain.startswith("waits"):
                await there.wait()
            return await connect(request, context)

        scene.devices.connect = waiting  # type: ignore[method-assign]
        await scene.home.kill("devices")
        await scene.home.start("devices", scene.devices.open_room, Bare())
        names = [f"waits{number}" for number in range(20)]
        for name in names:
            await scene.apply(name, disks=[disk()])
            await scene.call(m.DomainStart(name=name))
        await scene.apply("web", disks=[disk()])
        began = asyncio.get_running_loop().time()
        assert (await scene.do(m.DomainStart(name="web"))).state is OperationState.DONE
        assert asyncio.get_running_loop().time() - began < 5
        there.set()

    on_stage(tmp_path, scenario)


def test_a_device_whose_provider_is_away_holds_no_later_one_back_and_comes_with_it(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await started(scene)
        connect, away = scene.devices.connect, [True]

        async def answer(request: Any, context: Any) -> Any:
            if away and request.key.id == "late":
                raise unavailable("web/late is WAITING for provider nbd", delivered=True)
            return await connect(request, context)

        scene.devices.connect = answer  # type: ignore[method-assign]
        await scene.home.kill("devices")
        await scene.home.start("devices", scene.devices.open_room, Bare())
        began = asyncio.get_running_loop().time()
        await scene.apply("web", disks=[disk("late"), disk("more")])
        await scene.until(lambda s: [d.id for d in s.devices if d.state == "CONNECTED"] == ["more"])
        assert asyncio.get_running_loop().time() - began < 5
        away.clear()
        await scene.until(lambda s: not s.pending)

    on_stage(tmp_path, scenario)


def test_on_boot_starts_with_the_node_and_after_a_crash_and_not_after_a_power_off(
    tmp_path: Path,
) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await scene.apply("web", run="on-boot")
        await asyncio.sleep(10)
        assert (await scene.status()).state is State.DEFINED  # the node did not start just now
        await scene.do(m.DomainStart(name="web"))
        scene.fake.end(uuid, EndReason.CRASH)
        await scene.until(lambda s: s.state is State.RUNNING and s.incarnation == 2)
        scene.fake.end(uuid, EndReason.POWEROFF)
        await scene.until(State.DEFINED)
        await scene.kill()
        await scene.restart()
        await asyncio.sleep(10)
        assert (await scene.status()).state is State.DEFINED  # that was no start of the node
        await scene.kill()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("manor_host.clock.boot_id", lambda: "another boot")
            await scene.restart()
            await scene.until(lambda s: s.state is State.RUNNING and s.incarnation == 3)

    on_stage(tmp_path, scenario)


def test_a_restored_store_gives_a_name_to_another_uuid_and_no_run_is_hidden(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await started(scene)
        wish = scene.opened[-1].domains.by_uuid[uuid].core.wish
        other = msgspec.structs.replace(wish, metadata=msgspec.structs.replace(wish.metadata, uuid=OTHER))
        scene.opened[-1].domains.document("web", other)
        old = await scene.status(uuid)
        assert (old.state, old.conditions) == (State.RUNNING, ("NO DOCUMENT",))
        with pytest.raises(ManorError, match=uuid) as refused:
            await scene.call(m.DomainStart(name="web"))
        assert refused.value.kind is Kind.DENIED_STATE
        assert (await scene.do(m.DomainShutdown(name=uuid))).state is OperationState.DONE
        assert (await scene.do(m.DomainStart(name="web"))).uuid == OTHER
        assert (await scene.status("web")).uuid == OTHER

    on_stage(tmp_path, scenario)


def test_a_domain_that_is_about_to_be_started_is_never_shown_at_rest(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        shown: list[m.DomainStatus] = []
        watching = asyncio.create_task(scene.watch("domain.*", shown))
        await asyncio.sleep(1)
        for number in range(300):  # more than are worked on at once
            await scene.apply(f"web{number}", run="always")
        await scene.until(State.RUNNING, "web299")
        await asyncio.sleep(10)
        watching.cancel()
        assert len({status.name for status in shown if status.state is State.STARTING}) == 300
        defined = [status for status in shown if status.state is State.DEFINED]
        assert [s for s in defined if not s.operation and "DUE" not in s.conditions] == []
        assert "DUE" not in shown[-1].conditions

    on_stage(tmp_path, scenario)
