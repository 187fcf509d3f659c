"""What happens to domains by themselves: policies, loop guards, documents, devices, hypervisor events."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import config as c
from manor_bus.wire.messages import lifecycle as m
from manor_bus.wire.messages.devices import ConnectionState, DeviceKey, DomainGone
from manor_bus.wire.messages.lifecycle import OperationState, State
from manor_lifecycle.hypervisors import Changed
from manor_lifecycle.hypervisors.fake.guest import Guest
from manor_lifecycle.hypervisors.seen import Activity, CauseWord, EndReason, Run
from tests.lifecycle.scene import Scene, disk, on_stage, silent


async def started(scene: Scene, **spec: Any) -> str:
    uuid = await scene.apply("web", **spec)
    assert (await scene.do(m.DomainStart(name="web"))).state is OperationState.DONE
    return uuid


def test_since_when_a_run_is_there_is_told_on_a_clock_that_nobody_sets_and_stays(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await asyncio.sleep(50)
        await started(scene)
        began = asyncio.get_running_loop().time()
        first = await scene.status()
        assert first.began_s == pytest.approx(began, abs=5)
        await asyncio.sleep(100)
        await scene.restart()
        again = await scene.until(State.RUNNING)
        assert again.began_s == pytest.approx(first.began_s, abs=0.2)
        await scene.do(m.DomainDestroy(name="web"))
        assert (await scene.status()).began_s == 0.0

    on_stage(tmp_path, scenario)


# --- runs that end by themselves


@pytest.mark.parametrize(
    ("reason", "policy", "state", "incarnation"),
    [
        (EndReason.POWEROFF, {}, State.DEFINED, 1),
        (EndReason.REBOOT, {}, State.RUNNING, 2),
        (EndReason.CRASH, {}, State.DEFINED, 1),
        (EndReason.CRASH, {"on_crash": "restart"}, State.RUNNING, 2),
        (EndReason.CRASH, {"on_crash": "preserve"}, State.CRASHED, 1),
        (EndReason.CRASH, {"on_crash": "coredump-restart"}, State.RUNNING, 2),
        (EndReason.CRASH, {"on_crash": "rename-restart"}, State.CRASHED, 1),
        (EndReason.WATCHDOG, {"on_watchdog": "restart"}, State.RUNNING, 2),
        (EndReason.DEVICE_MODEL, {"on_device_model_crash": "restart"}, State.RUNNING, 2),
        (EndReason.UNKNOWN, {}, State.CRASHED, 1),
    ],
)
def test_a_run_that_ends_is_treated_by_its_policy(
    tmp_path: Path, reason: EndReason, policy: dict[str, Any], state: State, incarnation: int
) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await started(scene, disks=[disk()], **policy)
        scene.fake.end(uuid, reason, "as it happens", kept=True)
        await asyncio.sleep(5)
        status = await scene.status()
        assert (status.state, status.incarnation) == (state, incarnation), status
        if state is not State.RUNNING:
            assert reason.value in status.reason
        assert bool(scene.devices.open) is (state is not State.DEFINED)

    on_stage(tmp_path, scenario)


def test_a_core_dump_is_written_and_named(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await started(scene, on_crash="coredump-destroy")
        scene.fake.end(uuid, EndReason.CRASH, kept=True)
        await scene.until(State.DEFINED)
        (end,) = [o for o in await scene.operations("web") if o.kind == "end"]
        assert end.result["coredump"].endswith("web-1.core")
        assert end.who == "lifecycle@n1"
        scene.folder.joinpath(end.result["coredump"]).stat()

    on_stage(tmp_path, scenario)


def test_a_core_dump_that_cannot_be_written_does_not_block_the_policy(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        faults = {"coredump": "fail"}
        uuid = await started(scene, on_crash="coredump-restart", extra={"fake": faults})
        scene.fake.end(uuid, EndReason.CRASH, kept=True)
        status = await scene.until(lambda s: s.state is State.RUNNING and s.incarnation == 2)
        assert "told to fail coredump" in status.reason

    on_stage(tmp_path, scenario)


def test_remains_are_kept_until_somebody_destroys_them(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await started(scene, on_crash="preserve", run="always")
        scene.fake.end(uuid, EndReason.CRASH, "panic", kept=True)
        await scene.until(State.CRASHED)
        await scene.kill()
        await scene.restart()
        status = await scene.until(State.CRASHED)
        assert status.allowed == ("destroy", "rename", "screenshot", "console")
        assert (await scene.do(m.DomainDestroy(name="web"))).state is OperationState.DONE
        await asyncio.sleep(5)
        assert (await scene.status()).state is State.DEFINED
        assert await scene.runs() == []

    on_stage(tmp_path, scenario)


def test_a_crash_loop_ends_with_an_operator_even_when_the_service_forgets(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        ends = {"end": {"after_s": 5, "reason": "crash"}}
        await scene.apply("web", run="always", disks=[disk()], extra={"fake": ends})
        await scene.until(lambda s: s.incarnation == 2 and s.state is State.RUNNING)
        await scene.kill()
        await scene.restart()
        status = await scene.until(State.FAILED)
        assert "CRASH_LOOP" in status.reason
        assert status.incarnation == 3
        await asyncio.sleep(5)
        assert scene.devices.open == {}
        await scene.kill()
        await scene.restart()
        await asyncio.sleep(300)
        status = await scene.status()
        assert (status.state, status.incarnation, status.allowed) == (
            State.FAILED,
            3,
            ("destroy", "rename", "clear"),
        )
        await scene.apply("web", run="always", disks=[disk()])
        await asyncio.sleep(30)
        assert (await scene.status()).state is State.FAILED
        await scene.do(m.DomainClear(name="web"))
        assert (await scene.until(State.RUNNING)).incarnation == 4

    on_stage(tmp_path, scenario)


def test_quick_reboots_are_slowed_down(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await started(scene)
        scene.fake.end(uuid, EndReason.REBOOT)
        await scene.until(lambda s: s.incarnation == 2 and s.state is State.RUNNING)
        before = asyncio.get_running_loop().time()
        scene.fake.end(uuid, EndReason.REBOOT)
        status = await scene.until(State.REBOOTING)
        assert status.allowed == ("destroy", "console")
        await scene.until(lambda s: s.incarnation == 3 and s.state is State.RUNNING)
        assert 15 <= asyncio.get_running_loop().time() - before < 20

    on_stage(tmp_path, scenario)


def test_destroy_ends_the_wait_for_the_next_run(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await started(scene)
        for _ in range(2):
            scene.fake.end(uuid, EndReason.REBOOT)
            await asyncio.sleep(1)
        assert (await scene.status()).state is State.REBOOTING
        await scene.do(m.DomainDestroy(name="web"))
        await asyncio.sleep(60)
        assert (await scene.status()).state is State.DEFINED

    on_stage(tmp_path, scenario)


def test_news_without_anything_new_change_nothing(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await started(scene)
        await scene.do(m.DomainReboot(name="web"))
        scene.fake.say(Changed(uuid))
        await asyncio.sleep(1)
        status = await scene.status()
        assert (status.state, status.incarnation) == (State.RUNNING, 2)

    on_stage(tmp_path, scenario)


def test_a_hung_device_model_is_treated_by_policy(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await started(scene, on_silence={"after_s": 60, "action": "restart"})
        silent(scene, uuid)
        await asyncio.sleep(49)
        assert (await scene.status()).incarnation == 1
        await scene.until(lambda s: s.incarnation == 2 and s.state is State.RUNNING)

    on_stage(tmp_path, scenario)


def test_a_guest_that_answers_in_time_is_left_alone_whatever_its_policy(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await started(scene, on_silence={"after_s": 60, "action": "destroy"})
        silent(scene, uuid)
        await asyncio.sleep(30)
        scene.fake.change(uuid, silent_since=0.0)
        await asyncio.sleep(600)
        assert (await scene.status()).state is State.RUNNING

    on_stage(tmp_path, scenario)


def test_a_silent_guest_is_never_ended_by_default(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await started(scene)
        silent(scene, uuid)
        await asyncio.sleep(86_400)
        status = await scene.status()
        assert (status.state, status.incarnation) == (State.RUNNING, 1)
        assert status.not_answering_since > 0
        scene.fake.change(uuid, silent_since=0.0)
        assert (await scene.until(lambda s: s.reason == "")).not_answering_since == 0

    on_stage(tmp_path, scenario)


@pytest.mark.parametrize(("how", "incarnation"), [("late", 2), ("fail-after", 2), ("fail", 1)])
def test_a_reset_that_did_not_plainly_work_leaves_the_state_that_is_there(
    tmp_path: Path, how: str, incarnation: int
) -> None:
    """Its end is noticed afterwards, whichever run it is."""

    async def scenario(scene: Scene) -> None:
        uuid = await started(scene, on_crash="restart")
        scene.fake.faults.next("reset", how)
        ended = OperationState.FAILED if how == "fail" else OperationState.DONE
        assert (await scene.do(m.DomainReset(name="web"))).state is ended
        status = await scene.status()
        assert (status.state, status.incarnation) == (State.RUNNING, incarnation)
        scene.fake.end(uuid, EndReason.CRASH, "as it happens")
        await scene.until(lambda s: s.state is State.RUNNING and s.incarnation > incarnation)

    on_stage(tmp_path, scenario)


def test_a_pause_that_came_late_is_shown(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await started(scene)
        scene.fake.faults.next("pause", "late")
        assert (await scene.do(m.DomainPause(name="web"))).state is OperationState.DONE
        (run,) = await scene.runs()
        assert run.activity is Activity.STANDS
        assert (await scene.status()).state is State.PAUSED

    on_stage(tmp_path, scenario)


def test_a_run_that_vanished_without_a_word_is_noticed_by_the_next_operation(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await started(scene, on_device_model_crash="restart")
        await scene.fake.destroy(Run(uuid, 1))
        assert (await scene.do(m.DomainPause(name="web"))).state is OperationState.FAILED
        await scene.until(lambda s: s.incarnation == 2 and s.state is State.RUNNING)

    on_stage(tmp_path, scenario)


def test_a_guest_that_did_not_hear_is_asked_again_within_the_deadline(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await started(scene)
        deaf = scene.folder / "lifecycle" / "fake" / "faults.json"
        deaf.write_text('{"web": {"shutdown": "ignore"}}')
        asked = await scene.call(m.DomainShutdown(name="web", timeout_s=60))
        await asyncio.sleep(2)
        deaf.unlink()
        assert (await scene.outcome(asked.id)).state is OperationState.DONE

    on_stage(tmp_path, scenario)


def test_on_a_full_disk_a_start_is_refused_for_good_and_a_destroy_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(scene: Scene) -> None:
        await started(scene)
        await scene.apply("db")
        journal = scene.opened[-1].site.operations._log

        async def full() -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(journal, "commit", full)
        with pytest.raises(ManorError) as refusal:
            await scene.call(m.DomainStart(name="db"), key="refused")
        assert refusal.value.kind is Kind.NO_CAPACITY
        for verb in (m.DomainPause, m.DomainResume, m.DomainDestroy):
            assert (await scene.do(verb(name="web"))).state is OperationState.DONE
        monkeypatch.undo()
        await asyncio.sleep(60)
        assert (await scene.status("db")).state is State.DEFINED
        assert (await scene.outcome("refused")).state is OperationState.FAILED

    on_stage(tmp_path, scenario)


def test_a_hung_device_model_may_be_left_alone(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await started(scene, on_device_model_crash="preserve")
        silent(scene, uuid)
        status = await scene.until(lambda s: "does not answer" in s.reason)
        assert status.state is State.RUNNING
        scene.fake.change(uuid, silent_since=0.0)
        await scene.until(lambda s: s.reason == "")

    on_stage(tmp_path, scenario)


def test_a_guest_that_the_hypervisor_stopped_is_shown_paused_with_the_reason(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await started(scene)
        scene.fake.change(uuid, activity=Activity.STANDS, cause=CauseWord.IO_ERROR, io={"root": "failed"})
        status = await scene.until(State.PAUSED)
        assert status.reason == "io-error on disk root"
        scene.fake.change(uuid, activity=Activity.RUNS, cause=CauseWord.NONE, io={})
        assert (await scene.until(State.RUNNING)).reason == ""

    on_stage(tmp_path, scenario)


def test_a_guest_that_is_not_ours_is_listed_and_never_touched(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("web")
        guest = Guest("other-uuid", "web", 0, Activity.RUNS, 0.0, ours=False, cpus=2, memory_mib=64)
        scene.fake._store.put(guest)
        scene.fake.say(Changed("other-uuid", foreign="web"))
        status = await scene.until(State.FOREIGN, "foreign-web")
        assert (status.allowed, status.cpus) == ((), 2)
        operation = scene.call(m.DomainDestroy(name="foreign-web"))
        with pytest.raises(Exception, match="FOREIGN"):
            await operation
        del scene.fake._store.there["other-uuid"]
        scene.fake.say(Changed("other-uuid"))
        await asyncio.sleep(1)
        assert set(await scene.facts()) == {"web"}

    on_stage(tmp_path, scenario)


# --- documents


def test_a_domain_that_shall_always_run_is_started_and_its_shutdown_is_remembered(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("web", run="always")
        await scene.until(State.RUNNING)
        await scene.do(m.DomainShutdown(name="web"))
        await asyncio.sleep(30)
        assert (await scene.status()).state is State.DEFINED
        await scene.kill()
        await scene.restart()
        await asyncio.sleep(30)
        assert (await scene.status()).state is State.DEFINED
        await scene.do(m.DomainStart(name="web"))
        await scene.do(m.DomainReboot(name="web"))
        scene.fake.end((await scene.status()).uuid, EndReason.POWEROFF)
        await scene.until(lambda s: s.incarnation == 4 and s.state is State.RUNNING)

    on_stage(tmp_path, scenario)


def test_a_domain_waits_for_those_it_depends_on(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("db")
        await scene.apply("web", run="always", depends_on=["db"])
        status = await scene.until(lambda s: s.reason == "waits for db")
        await asyncio.sleep(30)
        assert (await scene.status()).state is State.DEFINED
        assert (await scene.do(m.DomainStart(name="db"))).state is OperationState.DONE
        assert (await scene.until(State.RUNNING)).reason == ""
        await scene.kill()
        await scene.restart()
        assert (await scene.until(State.RUNNING)).incarnation == 1
        assert status.incarnation == 0

    on_stage(tmp_path, scenario)


def test_a_halted_domain_is_asked_to_shut_down_once(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        ignores = {"fake": {"shutdown": "ignore"}}
        await started(scene, extra=ignores)
        await scene.apply("web", run="halted", shutdown_timeout_s=5, extra=ignores)
        await scene.until(State.STOPPING)
        status = await scene.until(State.RUNNING)
        assert "shutdown failed" in status.reason
        await asyncio.sleep(300)
        assert [o.kind for o in await scene.operations("web")] == ["shutdown", "start"]

    on_stage(tmp_path, scenario)


def test_a_failed_start_is_tried_again_later_each_time(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("web", run="always", extra={"fake": {"create": "fail"}})
        status = await scene.until(lambda s: "told to fail create" in s.reason)
        assert status.state is State.DEFINED
        await asyncio.sleep(600)
        tries = len(await scene.operations("web"))
        assert 10 < tries < 20
        await scene.apply("web", run="always")
        await scene.until(State.RUNNING)

    on_stage(tmp_path, scenario)


def test_what_can_be_changed_live_is_and_the_rest_is_pending(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await started(scene, memory={"size_mib": 256, "max_mib": 1024}, cpu={"count": 1, "max": 4})
        await scene.apply(
            "web",
            memory={"size_mib": 512, "max_mib": 2048},
            cpu={"count": 2, "max": 4},
            on_crash="restart",
            rng=False,
        )
        status = await scene.until(lambda s: (s.memory_mib, s.cpus) == (512, 2))
        assert {(p.path, p.old, p.new, p.applies) for p in status.pending} == {
            ("spec.memory.max_mib", "1024", "2048", "next-start"),
            ("spec.rng", "true", "false", "next-start"),
        }
        await scene.kill()
        await scene.restart()
        again = await scene.status()
        assert (again.pending, again.incarnation) == (status.pending, 1)
        await scene.do(m.DomainReboot(name="web"))
        assert (await scene.status()).pending == ()

    on_stage(tmp_path, scenario)


def test_disks_and_nics_are_plugged_and_unplugged_live(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await started(scene, disks=[disk()])
        await scene.apply("web", disks=[disk(), disk("more")], nics=[{"id": "net"}])
        status = await scene.until(lambda s: len(s.devices) == 3 and not s.pending)
        assert {d.state for d in status.devices} == {"CONNECTED"}
        (run,) = await scene.runs()
        assert {device.id for device in run.devices} == {"root", "more", "net"}
        await scene.apply("web", disks=[disk()])
        await scene.until(lambda s: len(s.devices) == 1 and not s.pending)
        assert {name for _, name in scene.devices.open} == {"root"}
        assert (await scene.status()).incarnation == 1

    on_stage(tmp_path, scenario)


def test_a_refused_device_is_detached_by_force(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        faults = {"fake": {"unplug": "ignore"}}
        await started(scene, disks=[disk(), disk("more")], extra=faults)
        with pytest.raises(Exception, match="still has the device"):
            await scene.call(m.DomainUnplug(name="web", device="more"))
        with pytest.raises(Exception, match="has no device"):
            await scene.call(m.DomainUnplug(name="web", device="nothing"))
        await scene.apply("web", disks=[disk()], extra=faults)
        await scene.until(lambda s: any("did not let more go" in p.reason for p in s.pending))
        forced = await scene.do(m.DomainUnplug(name="web", device="more", force=True))
        assert forced.state is OperationState.DONE, forced
        await scene.until(lambda s: len(s.devices) == 1 and not s.pending)

    on_stage(tmp_path, scenario)


def test_a_document_that_is_gone_leaves_the_guest_alone(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await started(scene)
        reference = c.Reference(kind="Domain", name="web")
        with pytest.raises(ManorError, match="domain web runs"):
            await scene.operator.call(c.Delete(references=(reference,)), c.Applied, timeout=10)
        forced = c.Delete(references=(reference,), force=True)
        await scene.operator.call(forced, c.Applied, timeout=10)
        await asyncio.sleep(30)
        assert (await scene.status()).state is State.RUNNING
        await scene.kill()
        await scene.restart()
        assert (await scene.status()).state is State.RUNNING
        await scene.do(m.DomainShutdown(name="web"))
        await asyncio.sleep(1)
        assert await scene.facts() == {}

    on_stage(tmp_path, scenario)


def test_a_domain_that_shall_be_halted_is_not_started_and_that_is_said(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("web", run="halted")
        with pytest.raises(ManorError, match="run: halted") as refusal:
            await scene.call(m.DomainStart(name="web"))
        assert refusal.value.kind is Kind.DENIED_STATE
        await scene.apply("db")
        await scene.do(m.DomainStart(name="db"))
        await scene.do(m.DomainSave(name="db"))
        await scene.apply("db", run="halted")
        with pytest.raises(ManorError, match="run: halted"):
            await scene.call(m.DomainRestore(name="db"))
        assert (await scene.status("db")).state is State.SUSPENDED
        await scene.apply("web", run="on-request")
        await scene.do(m.DomainStart(name="web"))
        await scene.until(State.RUNNING)

    on_stage(tmp_path, scenario)


def test_a_domain_that_shall_be_halted_is_not_begun_again_by_a_reboot(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        ignores = {"fake": {"shutdown": "ignore"}}
        await started(scene, extra=ignores)
        await scene.apply("web", run="halted", shutdown_timeout_s=5, extra=ignores)
        await scene.until(State.STOPPING)
        await scene.until(State.RUNNING)
        for request in (m.DomainReboot(name="web", force_after=True), m.DomainStart(name="web")):
            with pytest.raises(ManorError, match="run: halted"):
                await scene.call(request)

    on_stage(tmp_path, scenario)


def test_a_document_that_is_being_deleted_is_left_alone_and_only_that_one_goes(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await started(scene, extra={"fake": {"destroy": {"wait_s": 20}}})
        operation = await scene.call(m.DomainDelete(name="web", force=True, reason="moved out"))
        await asyncio.sleep(1)
        raw = {"kind": "Domain", "metadata": {"name": "web"}, "spec": {"title": "mine"}}
        rename = c.Rename(kind="Domain", name="web", new_name="shop")
        for request in (c.Apply(documents=(raw,)), rename):
            with pytest.raises(ManorError, match=f"being deleted by operation {operation.id}") as refusal:
                await scene.operator.call(request, c.Applied, timeout=10)
            assert refusal.value.kind is Kind.DENIED_STATE
        got = await scene.operator.call(c.Get(kind="Domain", name="web"), c.Got, timeout=10)
        assert got.deleting == operation.id
        assert (await scene.outcome(operation.id)).state is OperationState.DONE
        history = await scene.operator.call(c.History(kind="Domain", name="web"), c.HistoryListed, timeout=10)
        last = history.entries[0]
        assert (last.action, last.by, last.reason) == (
            "deleted",
            scene.operator.address.partition("@")[0],
            "moved out",
        )
        await scene.operator.call(c.Apply(documents=(raw,)), c.Applied, timeout=10)

    on_stage(tmp_path, scenario)


def test_who_gives_no_reason_is_not_given_one(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("web")
        await scene.do(m.DomainDelete(name="web"))
        history = await scene.operator.call(c.History(kind="Domain", name="web"), c.HistoryListed, timeout=10)
        assert [(one.action, one.reason) for one in history.entries[:1]] == [("deleted", "")]

    on_stage(tmp_path, scenario)


def test_what_keeps_a_document_from_being_deleted_is_found_before_its_run_ends(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await started(scene)
        await scene.apply("user", depends_on=["web"])
        outcome = await scene.do(m.DomainDelete(name="web", force=True))
        assert outcome.error is not None
        assert "used by Domain/user" in outcome.error.message
        assert (await scene.status()).state is State.RUNNING
        got = await scene.operator.call(c.Get(kind="Domain", name="web"), c.Got, timeout=10)
        assert got.deleting == ""

    on_stage(tmp_path, scenario)


def test_a_deletion_that_fails_late_takes_its_mark_off(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await started(scene)
        scene.fake.faults.next("destroy", "fail")
        outcome = await scene.do(m.DomainDelete(name="web", force=True))
        assert outcome.state is OperationState.FAILED
        got = await scene.operator.call(c.Get(kind="Domain", name="web"), c.Got, timeout=10)
        assert got.deleting == ""

    on_stage(tmp_path, scenario)


# --- devices


def test_a_required_device_that_fails_undoes_the_start(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.devices.fail.add("more")
        await scene.apply("web", disks=[disk(), disk("more")])
        failed = await scene.do(m.DomainStart(name="web"))
        assert failed.error is not None
        assert "no image for more" in failed.error.message
        status = await scene.status()
        assert (status.state, "no image for more" in status.reason) == (State.DEFINED, True)
        assert scene.devices.open == {}

    on_stage(tmp_path, scenario)


def test_a_device_that_is_not_required_may_fail(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.devices.fail.add("more")
        await started(scene, disks=[disk(), disk("more", required=False)])
        status = await scene.status()
        assert "no image for more" in status.reason
        assert {d.id: d.state for d in status.devices} == {"root": "CONNECTED", "more": "ABSENT"}

    on_stage(tmp_path, scenario)


def test_a_provider_that_is_back_is_connected_again(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await started(scene, disks=[disk()])
        key = DeviceKey(uuid=uuid, incarnation=1, id="root")
        scene.devices.publish(key, ConnectionState.ORPHANED, "its provider died")
        status = await scene.until(lambda s: s.devices[0].state == "ORPHANED")
        assert (status.state, status.devices[0].reason) == (State.RUNNING, "its provider died")
        scene.devices.come_back(uuid, "root")
        status = await scene.until(lambda s: s.devices[0].state == "CONNECTED")
        assert (status.incarnation, status.devices[0].generation) == (1, 2)

    on_stage(tmp_path, scenario)


def test_a_broken_device_is_taken_away(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await started(scene, disks=[disk(), disk("more")])
        scene.devices.fail.add("more")
        key = DeviceKey(uuid=uuid, incarnation=1, id="more")
        scene.devices.publish(key, ConnectionState.BROKEN, "the resource is gone")
        await asyncio.sleep(5)
        assert {name for _, name in scene.devices.open} == {"root"}
        assert (await scene.status()).state is State.RUNNING

    on_stage(tmp_path, scenario)


def test_devices_is_told_of_an_ended_run_as_soon_as_it_can_be(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await started(scene, disks=[disk()])
        scene.devices.away = True
        done = await scene.do(m.DomainDestroy(name="web"))
        assert done.state is OperationState.DONE
        assert scene.devices.open
        await asyncio.sleep(20)
        scene.devices.away = False
        await asyncio.sleep(20)
        assert scene.devices.open == {}
        assert DomainGone(uuid=uuid, incarnation=1) in scene.devices.calls

    on_stage(tmp_path, scenario)


def test_a_reset_keeps_the_devices(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await started(scene, disks=[disk()])
        await scene.do(m.DomainReset(name="web"))
        await scene.kill()
        await scene.restart()
        await scene.apply("web", disks=[disk(), disk("more")])
        await scene.until(lambda s: len(s.devices) == 2 and not s.pending)
        assert {scene.devices.incarnations[uuid, name] for name in ("root", "more")} == {1}
        await scene.do(m.DomainDestroy(name="web"))
        assert scene.devices.open == {}

    on_stage(tmp_path, scenario)


def test_a_zombie_is_reported_and_ended_when_the_hypervisor_lets_go(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await started(scene, extra={"fake": {"destroy": {"do": "hang", "times": 5}}})
        failed = await scene.do(m.DomainDestroy(name="web"))
        assert failed.state is OperationState.FAILED
        status = await scene.status()
        assert (status.state, "ZOMBIE" in status.reason) == (State.DYING, True)
        assert status.allowed == ("destroy", "console")
        await scene.until(State.DEFINED)

    on_stage(tmp_path, scenario)


def test_an_unreadable_ownership_record_harms_nobody(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        running = await started(scene)
        stopped = await scene.apply("db", run="always")
        await scene.until(State.RUNNING, "db")
        await scene.do(m.DomainDestroy(name="db"))
        await scene.kill()
        puts = tuple(c.Put(key=f"owner/domain/{uuid}", value=b"rubbish") for uuid in (running, stopped))
        assert (await scene.operator.call(c.Txn(puts=puts), c.TxnDone, timeout=5)).succeeded
        await scene.restart()
        status = await scene.status()
        assert (status.state, status.incarnation) == (State.RUNNING, 1)
        assert "cannot be read" in status.reason
        assert (await scene.do(m.DomainReboot(name="web"))).state is OperationState.DONE
        assert (await scene.status("db")).state is State.FAILED
        await scene.do(m.DomainClear(name="db"))
        await scene.until(State.RUNNING, "db")
        await scene.kill()
        await scene.restart()
        assert {s.state for s in (await scene.status("web"), await scene.status("db"))} == {State.RUNNING}

    on_stage(tmp_path, scenario)
