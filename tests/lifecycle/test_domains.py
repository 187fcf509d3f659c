"""What happens to a domain by itself, and what the service does about it without being asked."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from manor_bus.errors import Kind, ManorError
from manor_bus.messages import config as c
from manor_bus.messages import lifecycle as m
from manor_bus.messages.devices import ConnectionState, DeviceKey
from manor_bus.messages.lifecycle import OperationState, State
from manor_lifecycle import domains as module
from manor_lifecycle import hypervisors as h
from manor_lifecycle.hypervisors import EndReason, ForeignChanged, GuestState, Run, RunningDomain
from tests.lifecycle.scene import Scene, disk, on_stage

THEIRS = RunningDomain("u9", "web", 0, GuestState.RUNNING, ours=False, cpus=2)


async def running(scene: Scene, **spec: object) -> Run:
    uuid = await scene.apply("web", disks=[disk()], **spec)
    assert (await scene.do(m.DomainStart(name="web"))).state is OperationState.DONE
    return Run(uuid, 1)


def test_a_domain_is_found_by_name_and_by_uuid_and_not_by_its_old_name(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await scene.apply("web")
        domains = scene.opened[-1].domains
        assert domains.find("web") is domains.find(uuid)
        await scene.do(m.DomainRename(name="web", new_name="www"))
        await scene.until(State.DEFINED, "www")
        with pytest.raises(ManorError, match="no domain 'web'") as refused:
            domains.find("web")
        assert refused.value.kind is Kind.NOT_FOUND

    on_stage(tmp_path, scenario)


def test_a_document_that_went_away_takes_an_idle_domain_along(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        uuid = await scene.apply("web")
        gone = c.Delete(references=(c.Reference(kind="Domain", name="web"),))
        await scene.operator.call(gone, c.Applied, timeout=10)
        await asyncio.sleep(60)
        assert uuid not in scene.opened[-1].domains.by_uuid

    on_stage(tmp_path, scenario)


def test_what_failed_is_tried_again_after_a_while_and_not_at_once(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        loop = asyncio.get_running_loop()
        before = loop.time()
        told = {"fake": {"create": {"do": "fail", "times": 2}}}
        await scene.apply("web", run="always", extra=told)
        await scene.until(State.RUNNING)
        assert loop.time() - before > 2 + 4
        states = [operation.state for operation in await scene.operations("web")]
        assert states == [OperationState.DONE, OperationState.FAILED, OperationState.FAILED]

    on_stage(tmp_path, scenario)


def test_only_so_many_are_worked_on_at_once_and_all_have_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUSY_MAX", 2)

    async def scenario(scene: Scene) -> None:
        names = [f"d{number}" for number in range(6)]
        busy: list[int] = []
        told = {"fake": {"create": {"wait_s": 10}}}
        for name in names:
            await scene.apply(name, run="always", extra=told)
            busy.append(scene.opened[-1].domains.driver.busy)
        assert max(busy) == 2
        for name in names:
            await scene.until(State.RUNNING, name)

    on_stage(tmp_path, scenario)


def test_what_is_said_of_an_older_run_changes_nothing(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        run = await running(scene)
        scene.fake.say(h.Ended(Run(run.uuid, 0), EndReason.CRASH))
        scene.fake.say(h.Ended(Run("unknown", 1), EndReason.CRASH))
        await asyncio.sleep(60)
        status = await scene.status()
        assert (status.state, status.incarnation) == (State.RUNNING, 1)

    on_stage(tmp_path, scenario)


def test_a_guest_that_stopped_by_itself_says_why_and_may_go_on(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        run = await running(scene)
        scene.fake.say(h.Stopped(run, "I/O error"))
        assert (await scene.until(State.PAUSED)).reason == "I/O error"
        scene.fake.say(h.Continued(run))
        assert (await scene.until(State.RUNNING)).reason == ""

    on_stage(tmp_path, scenario)


def test_a_silent_device_model_is_preserved_where_the_document_says_so(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        run = await running(scene, on_device_model_crash="preserve")
        scene.fake.say(h.Hung(run, "10 s"))
        await scene.until(lambda status: status.reason == "the device model does not answer: 10 s")
        scene.fake.say(h.Answering(run))
        status = await scene.until(lambda status: not status.reason)
        assert (status.state, status.incarnation) == (State.RUNNING, 1)

    on_stage(tmp_path, scenario)


def test_a_silent_device_model_is_replaced_otherwise(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        run = await running(scene, on_device_model_crash="restart")
        scene.fake.say(h.Hung(run, "10 s"))
        await scene.until(lambda status: status.incarnation == 2 and status.state is State.RUNNING)

    on_stage(tmp_path, scenario)


def test_a_device_that_the_guest_let_go_is_released(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        run = await running(scene)
        scene.fake.let_go(run.uuid, "root")
        await scene.until(lambda status: not scene.devices.open)
        assert (await scene.status()).state is State.RUNNING

    on_stage(tmp_path, scenario)


def test_a_broken_device_is_taken_out_and_connected_anew_as_the_document_says(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        run = await running(scene)
        key = DeviceKey(uuid=run.uuid, incarnation=1, id="root")
        scene.devices.publish(key, ConnectionState.BROKEN, "the provider is gone")
        await asyncio.sleep(60)
        operations = {one.kind: one for one in await scene.operations("web")}
        assert operations.keys() == {"start", "unplug", "configure"}
        assert operations["unplug"].reason == "the provider is gone"
        assert (await scene.fake.domains())[0].devices == ("root",)

    on_stage(tmp_path, scenario)


def test_a_back_end_that_came_back_is_connected_again(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        run = await running(scene)
        scene.devices.come_back(run.uuid, "root")
        life = scene.opened[-1].domains.find("web")
        await scene.until(lambda status: life.connections["root"].generation == 2)
        assert (await scene.operations("web"))[0].kind == "configure"

    on_stage(tmp_path, scenario)


def test_a_connection_that_no_run_needs_is_closed(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        run = await running(scene)
        request = scene.devices.open[run.uuid, "root"]
        await scene.do(m.DomainDestroy(name="web"))
        scene.devices.open[run.uuid, "root"] = request
        scene.devices.publish(request.key, ConnectionState.CONNECTED)
        await scene.until(lambda status: not scene.devices.open)

    on_stage(tmp_path, scenario)


def test_a_foreign_guest_with_a_taken_name_is_shown_under_another(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.apply("web")
        scene.fake.say(ForeignChanged("u9", THEIRS))
        status = await scene.until(State.FOREIGN, "foreign-web")
        assert (status.uuid, status.cpus, status.allowed) == ("u9", 2, ())
        assert (await scene.status("web")).state is State.DEFINED
        scene.fake.say(ForeignChanged("u9", None))
        await asyncio.sleep(60)
        assert "u9" not in scene.opened[-1].domains.by_uuid

    on_stage(tmp_path, scenario)
