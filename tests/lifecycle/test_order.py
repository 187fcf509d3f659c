"""Who is started before whom, who is ended before whom, and how the node goes down and comes back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import Done
from manor_bus.wire.messages import lifecycle as m
from manor_bus.wire.messages.guests import GuestEnded, GuestsEnded, GuestsShutDown, GuestsStart
from manor_bus.wire.messages.lifecycle import OperationState, State
from manor_lifecycle.hypervisors.seen import Activity, CauseWord, EndReason
from manor_lifecycle.operations import Booted
from tests.lifecycle.scene import Scene, on_stage


async def shut_down_guests(scene: Scene, **fields: Any) -> list[GuestEnded]:
    parts: list[Any] = []
    request = GuestsShutDown(**fields)
    ended = await scene.operator.call(request, GuestsEnded, timeout=3600, on_part=parts.append)
    assert tuple(parts) == ended.guests
    return parts


async def site_of_three(scene: Scene) -> None:
    """shop needs web, web needs db; all run."""
    await scene.apply("db", run="always")
    await scene.apply("web", run="always", depends_on=["db"])
    await scene.apply("shop", depends_on=["web"])
    await scene.until(State.RUNNING, "web")
    assert (await scene.do(m.DomainStart(name="shop"))).state is OperationState.DONE


def test_a_start_says_what_it_needs_that_does_not_run(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("db")
        await scene.apply("web", depends_on=["db"])
        with pytest.raises(ManorError, match="web needs what does not run: db") as refused:
            await scene.call(m.DomainStart(name="web"))
        assert (refused.value.kind, refused.value.hint) == (Kind.DENIED_STATE, "Start db first.")
        await scene.do(m.DomainStart(name="db"))
        assert (await scene.do(m.DomainStart(name="web"))).state is OperationState.DONE

    on_stage(tmp_path, scenario)


@pytest.mark.parametrize("verb", [m.DomainShutdown, m.DomainSave])
def test_what_others_need_is_not_ended_in_passing(tmp_path: Path, verb: Any) -> None:
    async def scenario(scene: Scene) -> None:
        await site_of_three(scene)
        with pytest.raises(ManorError, match="what needs db runs: web") as refused:
            await scene.call(verb(name="db"))
        assert "--with-users" in refused.value.hint
        assert (await scene.status("db")).state is State.RUNNING
        assert (await scene.do(m.DomainDestroy(name="db"))).state is OperationState.DONE  # never refused

    on_stage(tmp_path, scenario)


def test_with_its_users_they_go_first(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await site_of_three(scene)
        ended = await scene.do(m.DomainShutdown(name="db", with_users=True))
        assert ended.state is OperationState.DONE, ended
        order = [one.target for one in reversed(await scene.operations()) if one.kind == "shutdown"]
        at = {one.target: one.ended for one in await scene.operations() if one.kind == "shutdown"}
        assert set(order) == {"db", "web", "shop"}
        assert at["shop"] <= at["web"] <= at["db"]
        await asyncio.sleep(60)
        assert {(await scene.status(name)).state for name in order} == {State.DEFINED}

    on_stage(tmp_path, scenario)


def test_all_guests_of_a_node_end_in_order_each_in_its_own_time(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await site_of_three(scene)
        await scene.apply("deaf", extra={"fake": {"shutdown": "ignore"}}, shutdown_timeout_s=7)
        await scene.apply("slow", start_order=-5)
        for name in ("deaf", "slow"):
            await scene.do(m.DomainStart(name=name))
        began = asyncio.get_running_loop().time()
        ended = await shut_down_guests(scene)
        assert 7 <= asyncio.get_running_loop().time() - began < 12
        names = [one.name for one in ended]
        assert names.index("shop") < names.index("web") < names.index("db")
        assert names[-1] == "slow"  # what is started first is ended last
        how = {one.name: one.how for one in ended}
        assert how == dict.fromkeys(("shop", "web", "db", "slow"), "shut down") | {"deaf": "cut off"}
        assert {one.why for one in ended if one.how == "cut off"} == {
            "the guest did not shut down within 7 s"
        }

    on_stage(tmp_path, scenario)


def test_who_has_no_time_is_said_to_be_cut_off(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("web")
        await scene.do(m.DomainStart(name="web"))
        ended = await shut_down_guests(scene, timeout_s=0)
        assert [(one.how, one.why) for one in ended] == [("cut off", "its time of 0 s was over")]

    on_stage(tmp_path, scenario)


def test_what_the_node_ended_comes_back_with_the_node_and_not_before(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("db", run="always")
        await scene.apply("web", run="on-boot")
        await scene.apply("job")
        await scene.until(State.RUNNING, "db")
        for name in ("web", "job"):
            await scene.do(m.DomainStart(name=name))
        assert {one.how for one in await shut_down_guests(scene, timeout_s=30)} == {"shut down"}
        await asyncio.sleep(600)
        assert {(await scene.status(name)).state for name in ("db", "web", "job")} == {State.DEFINED}
        await scene.kill()
        await scene.restart()
        await scene.until(State.RUNNING, "db")
        await scene.until(State.RUNNING, "web")
        await asyncio.sleep(60)
        assert (await scene.status("job")).state is State.DEFINED
        await scene.do(m.DomainShutdown(name="web"))
        await scene.kill()
        await scene.restart()  # of the service alone
        await asyncio.sleep(60)
        assert (await scene.status("web")).state is State.DEFINED

    on_stage(tmp_path, scenario)


def test_what_the_node_ended_is_started_again_by_a_word(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        for name, run in (("db", "always"), ("web", "on-boot")):
            await scene.apply(name, run=run)
        await scene.until(State.RUNNING, "db")
        await shut_down_guests(scene)
        await scene.operator.call(GuestsStart(), Done, timeout=5)
        for name in ("db", "web"):
            await scene.until(State.RUNNING, name)

    on_stage(tmp_path, scenario)


def test_nothing_starts_while_all_are_shut_down(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        deaf = {"fake": {"shutdown": "ignore"}}
        await scene.apply("deaf", extra=deaf, shutdown_timeout_s=20)
        await scene.do(m.DomainStart(name="deaf"))
        await scene.apply("web")
        closing = asyncio.create_task(shut_down_guests(scene))
        await asyncio.sleep(5)
        with pytest.raises(ManorError, match="are being shut down"):
            await scene.call(m.DomainStart(name="web"))
        await closing
        assert (await scene.do(m.DomainStart(name="web"))).state is OperationState.DONE

    on_stage(tmp_path, scenario)


def test_domains_start_with_the_node_in_their_order_with_their_delays(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        for name, order, delay in (("c", 3, 20.0), ("a", 1, 0.0), ("b", 2, 10.0)):
            await scene.apply(name, run="on-boot", start_order=order, start_delay_s=delay)
        scene.opened[-1].site.operations.note(Booted(boot_id=""))
        await scene.kill()
        seen: list[m.DomainStatus] = []
        watching = asyncio.create_task(scene.watch("domain.*", seen))
        began = asyncio.get_running_loop().time()
        times: dict[str, float] = {}
        await scene.restart()
        for name in ("a", "b", "c"):
            await scene.until(State.RUNNING, name)
            times[name] = asyncio.get_running_loop().time() - began
        watching.cancel()
        assert times["a"] < 5 < 10 <= times["b"] < 15 < 30 <= times["c"] < 35

    on_stage(tmp_path, scenario)


def test_the_story_of_a_domain_is_told(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await scene.apply("web", on_crash="preserve")
        await scene.do(m.DomainStart(name="web"))
        await scene.do(m.DomainPause(name="web"))
        story = await scene.operator.call(m.DomainStory(name="web"), m.Story, timeout=5)
        told = [(entry.event, entry.state) for entry in story.entries]
        assert ("start was asked for by operator/admin", "STARTING") in told
        assert ("create the guest: done", "STARTING") in told
        assert told[-1][1] == "PAUSED"
        assert len(story.entries) <= 50
        scene.fake.end(uuid, EndReason.CRASH, "panic", kept=True)
        await scene.until(State.CRASHED)
        story = await scene.operator.call(m.DomainStory(name="web"), m.Story, timeout=5)
        assert (story.entries[-1].event, story.entries[-1].state) == (
            "its run ended: crash: panic",
            "CRASHED",
        )

    on_stage(tmp_path, scenario)


def test_a_guest_that_sleeps_is_shown_and_woken(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await scene.apply("web")
        await scene.do(m.DomainStart(name="web"))
        for verb in (m.DomainResume, m.DomainShutdown):
            scene.fake.change(uuid, activity=Activity.SLEEPS)
            await scene.until(lambda s: "ASLEEP" in s.conditions)
            assert (await scene.do(verb(name="web"))).state is OperationState.DONE
            if verb is m.DomainResume:
                assert (await scene.status()).conditions == ()
        assert (await scene.status()).state is State.DEFINED

    on_stage(tmp_path, scenario)


def test_resume_after_a_full_disk_waits_to_see_that_it_holds(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await scene.apply("web", disks=[{"id": "root", "source": "/images/root.raw"}])
        await scene.do(m.DomainStart(name="web"))
        full = {"activity": Activity.STANDS, "cause": CauseWord.NO_SPACE, "io": {"root": "nospace"}}
        scene.fake.change(uuid, **full)
        await scene.until(State.PAUSED)
        resuming = await scene.call(m.DomainResume(name="web"))
        await asyncio.sleep(0.5)
        scene.fake.change(uuid, **full)  # and it stops again
        outcome = await scene.outcome(resuming.id)
        assert outcome.state is OperationState.FAILED
        assert outcome.error is not None
        assert outcome.error.message == "it stopped again: no space on root"

    on_stage(tmp_path, scenario)
