"""What the deeds about devices tell the devices service and the hypervisor, and what is known then."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.devices import Connect, Detach, DomainGone, Refused, Released
from manor_bus.wire.messages.documents import Domain, Metadata
from manor_bus.wire.messages.lifecycle import State
from manor_lifecycle import plugging
from manor_lifecycle.hypervisors import Creation, GuestState
from manor_lifecycle.life import Life, Work
from manor_lifecycle.means import Means
from manor_lifecycle.plan import Act, Arguments, Step
from tests.lifecycle.scene import Scene, disk, on_stage, spec_of

UUID = "00000000-0000-4000-8000-000000000001"
SPEC = {"disks": [disk("root"), disk("extra")], "nics": [{"id": "net"}]}


class Bench:
    """One running domain that the service itself does not know of, and an operation on it."""

    def __init__(self, scene: Scene, **spec: Any) -> None:
        self.scene = scene
        self.means: Means = scene.opened[-1].means
        document = Domain(metadata=Metadata(name="bench", uuid=UUID), spec=spec_of(**SPEC | spec))
        self.life = Life(UUID, "bench", document=document, hypervisor="fake", incarnation=3, born=2)
        self.work = Work("op", "start", Arguments())

    async def create(self) -> None:
        await self.scene.fake.create(Creation(self.life.run, "bench", self.life.spec))
        self.life.guest, self.life.running = GuestState.PAUSED, spec_of()

    async def do(self, deed: Callable[..., Awaitable[None]], device: str = "root") -> None:
        await deed(self.means, self.life, self.work, Step(Act.CONNECT, device))

    async def plugged(self) -> tuple[str, ...]:
        return (await self.scene.fake.domains())[0].devices

    @property
    def last(self) -> object:
        return self.scene.devices.calls[-1]


def test_a_connected_back_end_is_known_with_its_descriptor(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        bench = Bench(scene)
        await bench.do(plugging.connect)
        await bench.do(plugging.connect, "net")
        first, second = scene.devices.calls
        assert isinstance(first, Connect)
        assert isinstance(second, Connect)
        assert (first.domain, first.type, first.device) == ("bench", "disk", bench.life.spec.disks[0])
        assert (second.type, second.device) == ("nic", bench.life.spec.nics[0])
        assert bench.life.connections["root"].generation == 1
        assert set(bench.work.descriptors) == {"root", "net"}

    on_stage(tmp_path, scenario)


def test_keys_carry_the_incarnation_the_run_was_created_with(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        bench = Bench(scene)
        await bench.do(plugging.connect)
        assert scene.devices.incarnations == {(UUID, "root"): 2}

    on_stage(tmp_path, scenario)


def test_a_back_end_that_cannot_be_connected_is_not_known_as_connected(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        bench = Bench(scene)
        scene.devices.fail = {"root"}
        with pytest.raises(ManorError, match="no image for root"):
            await bench.do(plugging.connect)
        assert (bench.life.connections, bench.work.descriptors) == ({}, {})

    on_stage(tmp_path, scenario)


def test_only_what_this_operation_connected_is_announced(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        bench = Bench(scene)
        await bench.do(plugging.announce)
        assert scene.devices.calls == []
        await bench.do(plugging.connect)
        await bench.do(plugging.announce)
        assert getattr(bench.last, "generation", None) == 1

    on_stage(tmp_path, scenario)


def test_a_released_back_end_is_forgotten_and_not_a_part_of_the_run(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        bench = Bench(scene)
        await bench.do(plugging.connect)
        bench.life.running, bench.life.refused = bench.life.spec, {"root": "in use"}
        await bench.do(plugging.release)
        assert isinstance(bench.last, Released)
        assert scene.devices.open == {}
        assert (bench.life.connections, bench.life.refused) == ({}, {})
        assert [one.id for one in bench.life.running.disks] == ["extra"]

    on_stage(tmp_path, scenario)


def test_what_was_connected_only_in_part_is_taken_back_by_force(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        bench = Bench(scene)
        await bench.do(plugging.connect)
        bench.life.connections.clear()  # the answer got lost
        await bench.do(plugging.release)
        assert isinstance(bench.last, Detach)
        assert (bench.last.mode, scene.devices.open) == ("force", {})

    on_stage(tmp_path, scenario)


@pytest.mark.parametrize(("kind", "known"), [(Kind.STALE, []), (Kind.NOT_FOUND, ["root"])])
def test_what_devices_released_already_is_no_failure_and_anything_else_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, known: list[str]
) -> None:
    async def scenario(scene: Scene) -> None:
        bench = Bench(scene)
        await bench.do(plugging.connect)

        def refuse(request: object) -> None:
            raise ManorError(kind, "no")

        monkeypatch.setattr(scene.devices, "take", refuse)
        with pytest.raises(ManorError) if known else contextlib.nullcontext():
            await bench.do(plugging.release)
        assert list(bench.life.connections) == known

    on_stage(tmp_path, scenario)


def test_the_end_of_a_run_releases_everything_in_one_call(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        bench = Bench(scene)
        for device in ("root", "extra", "net"):
            await bench.do(plugging.connect, device)
        await bench.do(plugging.release_all, "")
        assert bench.last == DomainGone(uuid=UUID, incarnation=2)
        assert (scene.devices.open, bench.life.connections, bench.means.owed) == ({}, {}, {})

    on_stage(tmp_path, scenario)


def test_what_devices_cannot_be_told_is_owed(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        bench = Bench(scene)
        await bench.do(plugging.connect)
        scene.devices.away = True
        with pytest.raises(ManorError):
            await bench.do(plugging.release_all, "")
        assert bench.life.connections == {}
        assert (UUID, 2) in bench.means.owed

    on_stage(tmp_path, scenario)


def test_a_domain_without_devices_is_no_matter_for_devices(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await Bench(scene, disks=[], nics=[]).do(plugging.release_all, "")
        assert scene.devices.calls == []

    on_stage(tmp_path, scenario)


def test_a_plugged_device_is_in_the_guest_and_a_part_of_the_run(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        bench = Bench(scene)
        await bench.create()
        await bench.do(plugging.connect, "extra")
        await bench.do(plugging.plug, "extra")
        assert await bench.plugged() == ("extra",)
        assert bench.life.running is not None
        assert [one.id for one in bench.life.running.disks] == ["extra"]
        await bench.do(plugging.unplug, "extra")
        assert await bench.plugged() == ()

    on_stage(tmp_path, scenario)


@pytest.mark.parametrize(("wish", "kind"), [("refuse", Kind.DENIED_STATE), ("ignore", Kind.TIMEOUT)])
def test_the_guests_refusal_is_passed_on_and_remembered(tmp_path: Path, wish: str, kind: Kind) -> None:
    async def scenario(scene: Scene) -> None:
        bench = Bench(scene, extra={"fake": {"unplug": wish}})
        await bench.create()
        await bench.do(plugging.connect)
        await bench.do(plugging.plug)
        with pytest.raises(ManorError) as refusal:
            await bench.do(plugging.unplug)
        assert refusal.value.kind is kind
        assert bench.life.refused == {"root": refusal.value.message}
        assert isinstance(bench.last, Refused)
        assert (bench.last.generation, bench.last.pending) == (1, True)
        assert (await bench.plugged(), list(bench.life.connections)) == (("root",), ["root"])
        await bench.do(plugging.force_unplug)
        assert await bench.plugged() == ()

    on_stage(tmp_path, scenario)


def test_a_failure_that_is_not_the_guests_is_not_remembered_as_its_refusal(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        bench = Bench(scene, extra={"fake": {"unplug": "fail"}})
        await bench.create()
        with pytest.raises(ManorError) as failure:
            await bench.do(plugging.unplug)
        assert failure.value.kind is Kind.INTERNAL
        assert (bench.life.refused, scene.devices.calls) == ({}, [])

    on_stage(tmp_path, scenario)


def test_a_refusal_is_the_outcome_even_when_devices_is_away(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        bench = Bench(scene, extra={"fake": {"unplug": "refuse"}})
        await bench.create()
        scene.devices.away = True
        await bench.scene.fake.resume(bench.life.run)
        with pytest.raises(ManorError) as refusal:
            await bench.do(plugging.unplug)
        assert refusal.value.kind is Kind.DENIED_STATE

    on_stage(tmp_path, scenario)


def test_devices_hears_whether_the_guest_will_be_asked(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        bench = Bench(scene)
        await bench.do(plugging.connect)
        await bench.do(plugging.begin_detach)
        assert isinstance(bench.last, Detach)
        assert (bench.last.mode, len(scene.devices.open)) == ("safe", 1)
        await bench.do(plugging.force_detach)
        assert isinstance(bench.last, Detach)
        assert (bench.last.mode, len(scene.devices.open)) == ("force", 0)

    on_stage(tmp_path, scenario)


def test_a_device_that_never_connected_is_detached_once_and_for_all(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.devices.fail.add("cache")
        await scene.apply(run="always", disks=[disk("root"), disk("cache", required=False)])
        await scene.until(State.RUNNING)
        await scene.apply(run="always", disks=[disk("root")])
        status = await scene.until(lambda seen: seen.operation == "" and seen.pending == ())
        assert [device.id for device in status.devices] == ["root"]
        before = len(await scene.operations("web"))
        await asyncio.sleep(60)
        assert len(await scene.operations("web")) == before

    on_stage(tmp_path, scenario)
