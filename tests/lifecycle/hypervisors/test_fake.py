"""The fake hypervisor keeps the rules of every adapter, as far as it can be seen without guests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from manor_bus.errors import Kind, ManorError
from manor_bus.messages.devices import Descriptor
from manor_lifecycle import hypervisors
from manor_lifecycle.hypervisors import (
    AdapterSettings,
    Attachment,
    Creation,
    Ended,
    EndReason,
    Feature,
    GuestState,
    Resized,
    Run,
    Unplugged,
)
from manor_lifecycle.hypervisors.fake import FakeHypervisor, Guest, open_hypervisor
from manor_lifecycle.plan import devices_of
from tests.lifecycle.scene import disk, spec_of
from tests.testkit import virtual

FIRST, SECOND = Run("u1", 1), Run("u1", 2)


def opened(folder: Path) -> FakeHypervisor:
    return FakeHypervisor(AdapterSettings(folder, "n1"), wall=asyncio.get_running_loop().time)


def on_fake(folder: Path, scenario: Callable[[FakeHypervisor], Awaitable[None]]) -> None:
    async def run() -> None:
        adapter = opened(folder)
        await scenario(adapter)
        await adapter.close()

    virtual.run(run())


def creation(run: Run = FIRST, *, told: dict[str, Any] | None = None, **spec: Any) -> Creation:
    made = spec_of(extra={"fake": told or {}}, **spec)
    attachments = tuple(Attachment(d, Descriptor(type="fake", generation=1)) for d in devices_of(made))
    return Creation(run, "web", made, attachments)


async def started(adapter: FakeHypervisor, **more: Any) -> None:
    await adapter.create(creation(**more))
    await adapter.resume(FIRST)


async def next_event(adapter: FakeHypervisor) -> hypervisors.HypervisorEvent:
    async with asyncio.timeout(60):
        return await anext(adapter.events())


async def refused(call: Awaitable[object], kind: Kind) -> None:
    with pytest.raises(ManorError) as refusal:
        await call
    assert refusal.value.kind is kind, refusal.value
    assert refusal.value.hint or kind is Kind.CONFLICT


def test_it_is_installed_and_can_everything(tmp_path: Path) -> None:
    async def scenario() -> None:
        assert hypervisors.load("fake") is open_hypervisor
        adapter = await open_hypervisor(AdapterSettings(tmp_path, "n1"))
        assert (await adapter.describe()).features == frozenset(Feature)

    virtual.run(scenario())


def test_a_created_guest_is_paused_and_complete(tmp_path: Path) -> None:
    async def scenario(adapter: FakeHypervisor) -> None:
        await adapter.create(creation(disks=[disk()], cpu={"count": 3}, memory={"size_mib": 64}))
        (seen,) = await adapter.domains()
        assert (seen.uuid, seen.name, seen.incarnation, seen.ours) == ("u1", "web", 1, True)
        assert (seen.state, seen.devices) == (GuestState.PAUSED, ("root",))
        assert (seen.cpus, seen.memory_mib) == (3, 64)
        await adapter.resume(FIRST)
        assert (await adapter.domains())[0].state is GuestState.RUNNING
        await adapter.pause(FIRST)
        assert (await adapter.domains())[0].state is GuestState.PAUSED

    on_fake(tmp_path, scenario)


def test_creating_again_changes_nothing_and_another_run_has_to_wait(tmp_path: Path) -> None:
    async def scenario(adapter: FakeHypervisor) -> None:
        await started(adapter)
        await adapter.create(creation())
        assert (await adapter.domains())[0].state is GuestState.RUNNING
        await refused(adapter.create(creation(SECOND)), Kind.CONFLICT)

    on_fake(tmp_path, scenario)


def test_a_failed_creation_leaves_nothing(tmp_path: Path) -> None:
    async def scenario(adapter: FakeHypervisor) -> None:
        await refused(adapter.create(creation(told={"create": "fail"})), Kind.INTERNAL)
        assert await adapter.domains() == ()

    on_fake(tmp_path, scenario)
    assert list(tmp_path.iterdir()) == []


def test_calls_for_a_run_that_is_not_there_are_refused_and_destroy_is_done(tmp_path: Path) -> None:
    async def scenario(adapter: FakeHypervisor) -> None:
        await refused(adapter.pause(FIRST), Kind.NOT_FOUND)
        await adapter.destroy(FIRST)
        await started(adapter)
        await refused(adapter.pause(SECOND), Kind.NOT_FOUND)
        await adapter.reset(FIRST, 2)
        await refused(adapter.pause(FIRST), Kind.STALE)
        await adapter.destroy(FIRST)
        assert [seen.incarnation for seen in await adapter.domains()] == [2]
        await adapter.destroy(SECOND)
        assert await adapter.domains() == ()

    on_fake(tmp_path, scenario)


def test_runs_outlive_the_adapter(tmp_path: Path) -> None:
    async def scenario(adapter: FakeHypervisor) -> None:
        await started(adapter, disks=[disk()])
        await adapter.reset(FIRST, 2)
        await adapter.rename(SECOND, "www")
        before = await adapter.domains()
        await adapter.close()
        assert await opened(tmp_path).domains() == before
        assert (before[0].name, before[0].incarnation) == ("www", 2)

    on_fake(tmp_path, scenario)


def test_a_guest_that_is_not_ours_is_listed_and_not_destroyed(tmp_path: Path) -> None:
    foreign = Guest("u9", "theirs", 7, GuestState.RUNNING, 0.0, ours=False)
    (tmp_path / "u9.guest").write_bytes(msgspec.json.encode(foreign))

    async def scenario(adapter: FakeHypervisor) -> None:
        await adapter.destroy(Run("u9", 7))
        (seen,) = await adapter.domains()
        assert (seen.ours, seen.incarnation) == (False, 0)

    on_fake(tmp_path, scenario)


def test_a_guest_powers_off_when_it_is_asked_unless_it_ignores_that(tmp_path: Path) -> None:
    async def scenario(adapter: FakeHypervisor) -> None:
        await started(adapter)
        await adapter.shutdown(FIRST)
        assert await next_event(adapter) == Ended(FIRST, EndReason.POWEROFF)
        assert await adapter.domains() == ()
        await started(adapter, told={"shutdown": "ignore"})
        await adapter.shutdown(FIRST)
        await asyncio.sleep(60)
        assert (await adapter.domains())[0].state is GuestState.RUNNING

    on_fake(tmp_path, scenario)


def test_a_run_ends_by_itself_when_it_was_told_to(tmp_path: Path) -> None:
    async def scenario(adapter: FakeHypervisor) -> None:
        loop = asyncio.get_running_loop()
        before = loop.time()
        await started(adapter, told={"end": {"after_s": 3, "reason": "crash", "kept": True}})
        assert await next_event(adapter) == Ended(FIRST, EndReason.CRASH, "as told", kept=True)
        assert loop.time() - before == pytest.approx(3)
        (seen,) = await adapter.domains()
        assert (seen.state, seen.ended) == (GuestState.ENDED, EndReason.CRASH)
        await refused(adapter.resume(FIRST), Kind.NOT_FOUND)
        await adapter.coredump(FIRST, tmp_path / "core")
        assert (tmp_path / "core").exists()

    on_fake(tmp_path, scenario)


def test_a_told_end_is_kept_over_a_restart_of_the_service(tmp_path: Path) -> None:
    async def scenario(adapter: FakeHypervisor) -> None:
        await started(adapter, told={"end": {"after_s": 3}})
        await adapter.close()
        again = opened(tmp_path)
        assert await next_event(again) == Ended(FIRST, EndReason.POWEROFF, "as told")

    on_fake(tmp_path, scenario)


def test_no_end_is_told_of_a_run_that_was_destroyed(tmp_path: Path) -> None:
    async def scenario(adapter: FakeHypervisor) -> None:
        await started(adapter, told={"end": {"after_s": 3}})
        await adapter.destroy(FIRST)
        with pytest.raises(TimeoutError):
            await next_event(adapter)

    on_fake(tmp_path, scenario)


def test_the_guest_may_keep_a_device_but_not_against_force(tmp_path: Path) -> None:
    async def scenario(adapter: FakeHypervisor) -> None:
        for wish, kind in (("refuse", Kind.DENIED_STATE), ("ignore", Kind.TIMEOUT)):
            await started(adapter, disks=[disk()], told={"unplug": wish})
            await refused(adapter.unplug(FIRST, "root", force=False, timeout_s=10), kind)
            assert (await adapter.domains())[0].devices == ("root",)
            await adapter.unplug(FIRST, "root", force=True, timeout_s=10)
            assert (await adapter.domains())[0].devices == ()
            await adapter.destroy(FIRST)

    on_fake(tmp_path, scenario)


def test_devices_come_and_go_and_the_guest_may_let_one_go_late(tmp_path: Path) -> None:
    async def scenario(adapter: FakeHypervisor) -> None:
        await started(adapter)
        (device,) = devices_of(spec_of(disks=[disk("extra")]))
        for _ in range(2):
            await adapter.plug(FIRST, Attachment(device, Descriptor(type="fake", generation=2)))
        assert (await adapter.domains())[0].devices == ("extra",)
        adapter.let_go("u1", "extra")
        assert await next_event(adapter) == Unplugged(FIRST, "extra")
        assert (await adapter.domains())[0].devices == ()
        await adapter.unplug(FIRST, "extra", force=False, timeout_s=10)

    on_fake(tmp_path, scenario)


def test_a_guest_is_restored_from_what_was_saved_and_not_from_nothing(tmp_path: Path) -> None:
    async def scenario(adapter: FakeHypervisor) -> None:
        path, told = tmp_path / "web.state", list[float]()
        await refused(adapter.restore(creation(), path), Kind.NOT_FOUND)
        await started(adapter)
        await adapter.save(FIRST, path, told.append)
        assert (await adapter.domains())[0].state is GuestState.PAUSED
        assert told == sorted(told)
        assert 0 <= told[0] < told[-1] <= 1
        await adapter.destroy(FIRST)
        saved = path.read_bytes()
        await adapter.restore(creation(SECOND), path)
        assert (await adapter.domains())[0].incarnation == 2
        assert path.read_bytes() == saved

    on_fake(tmp_path, scenario)


def test_a_failed_save_leaves_the_run_as_it_was_and_no_file(tmp_path: Path) -> None:
    async def scenario(adapter: FakeHypervisor) -> None:
        path = tmp_path / "web.state"
        await started(adapter, told={"save": "fail"})
        await refused(adapter.save(FIRST, path, lambda within: None), Kind.INTERNAL)
        assert (await adapter.domains())[0].state is GuestState.RUNNING
        assert not path.exists()

    on_fake(tmp_path, scenario)


def test_a_new_size_is_reported(tmp_path: Path) -> None:
    async def scenario(adapter: FakeHypervisor) -> None:
        await started(adapter, cpu={"count": 1}, memory={"size_mib": 256})
        await adapter.set_memory(FIRST, 128)
        assert await next_event(adapter) == Resized(FIRST, 128, 1)
        await adapter.set_cpus(FIRST, 2)
        assert await next_event(adapter) == Resized(FIRST, 128, 2)

    on_fake(tmp_path, scenario)


def test_a_console_greets_echoes_and_ends_with_the_run(tmp_path: Path) -> None:
    async def scenario(adapter: FakeHypervisor) -> None:
        await started(adapter)
        console = await adapter.console(FIRST)
        greeting = await console.read()
        assert b"web, run 1" in greeting
        assert console.offset == len(greeting)
        await console.write(b"hello\r")
        assert await console.read() == b"hello\r\n"
        await adapter.destroy(FIRST)
        assert await console.read() == b""

    on_fake(tmp_path, scenario)


def test_events_end_when_the_adapter_is_closed(tmp_path: Path) -> None:
    async def scenario(adapter: FakeHypervisor) -> None:
        await adapter.close()
        assert [event async for event in adapter.events()] == []

    on_fake(tmp_path, scenario)
