from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.devices import Descriptor
from manor_bus.wire.messages.documents import Cpu, Disk, DomainSpec, Memory
from manor_host import clock
from manor_lifecycle.hypervisors import AdapterSettings, Attachment, Changed, Creation, fake, load
from manor_lifecycle.hypervisors.lanes import LOOK_S
from manor_lifecycle.hypervisors.seen import Activity, EndReason, Feature, LastEnd, Run
from tests.testkit import virtual

RUN = Run("u-1", 1)


def creation(run: Run = RUN, attachments: tuple[Attachment, ...] = (), **told: Any) -> Creation:
    spec = DomainSpec(cpu=Cpu(count=2), memory=Memory(size_mib=64), extra={"fake": told} if told else {})
    return Creation(run, "web", spec, attachments)


def attachment(name: str = "root", generation: int = 1) -> Attachment:
    return Attachment(Disk(id=name, source="/x"), Descriptor(type="fake", generation=generation))


def virtually(folder: Path) -> fake.FakeHypervisor:
    return fake.FakeHypervisor(AdapterSettings(folder, "n1"), wall=asyncio.get_running_loop().time)


def with_fake(folder: Path, scenario: Callable[[fake.FakeHypervisor], Awaitable[None]]) -> None:
    async def run() -> None:
        hypervisor = virtually(folder)
        await scenario(hypervisor)
        await hypervisor.close()

    virtual.run(run())


async def refused(call: Awaitable[object]) -> Kind:
    with pytest.raises(ManorError) as refusal:
        await call
    return refusal.value.kind


async def seen_run(made: fake.FakeHypervisor) -> Any:
    return (await made.look(RUN.uuid))[RUN.uuid].run


async def devices(made: fake.FakeHypervisor) -> list[str]:
    return [one.id for one in (await seen_run(made)).devices]


def test_it_is_found_by_its_entry_point(tmp_path: Path) -> None:
    async def run() -> None:
        made = await load("fake")(AdapterSettings(tmp_path, "n1"))
        description = await made.describe()
        assert (description.name, description.features) == ("fake", frozenset(Feature))
        await made.close()

    virtual.run(run())


def test_an_adapter_that_is_not_installed_is_not_found() -> None:
    with pytest.raises(ManorError) as refusal:
        load("bochs")
    assert refusal.value.kind is Kind.NOT_FOUND
    assert "fake" in refusal.value.message


def test_a_guest_is_created_paused_and_outlives_the_adapter(tmp_path: Path) -> None:
    async def scenario(first: fake.FakeHypervisor) -> None:
        await first.create(creation(attachments=(attachment(),)))
        await first.create(creation())  # already there
        run = await seen_run(first)
        assert (run.activity, run.cpus, run.memory_mib) == (Activity.STANDS, 2, 64)
        assert await devices(first) == ["root"]
        await first.resume(RUN)
        second = fake.FakeHypervisor(AdapterSettings(tmp_path, "n1"))
        assert (await seen_run(second)).activity is Activity.RUNS
        await second.destroy(RUN)
        await second.destroy(RUN)  # already gone
        assert await seen_run(fake.FakeHypervisor(AdapterSettings(tmp_path, "n1"))) is None

    with_fake(tmp_path, scenario)


def test_incarnations_are_kept_apart(tmp_path: Path) -> None:
    async def scenario(made: fake.FakeHypervisor) -> None:
        assert await refused(made.resume(RUN)) is Kind.NOT_FOUND
        await made.create(creation(Run("u-1", 2)))
        assert await refused(made.create(creation(Run("u-1", 3)))) is Kind.CONFLICT
        assert await refused(made.resume(RUN)) is Kind.STALE
        assert await refused(made.resume(Run("u-1", 3))) is Kind.NOT_FOUND
        await made.destroy(RUN)
        assert await seen_run(made) is not None
        await made.reset(Run("u-1", 2), 5)
        await made.reset(Run("u-1", 2), 5)  # already so
        assert (await seen_run(made)).run.incarnation == 5

    with_fake(tmp_path, scenario)


def test_a_guest_powers_off_when_asked_and_says_so(tmp_path: Path) -> None:
    async def scenario(made: fake.FakeHypervisor) -> None:
        await made.create(creation())
        await made.resume(RUN)
        events = made.events()
        await made.shutdown(RUN)
        assert await anext(events) == Changed("u-1")
        seen = (await made.look("u-1"))["u-1"]
        assert (seen.run, seen.ended) == (None, LastEnd(1, EndReason.POWEROFF))

    with_fake(tmp_path, scenario)


def test_a_guest_ends_by_itself_as_told_even_after_a_restart(tmp_path: Path) -> None:
    async def scenario(made: fake.FakeHypervisor) -> None:
        await made.create(creation(end={"after_s": 10, "reason": "crash", "kept": True}))
        await made.resume(RUN)
        await asyncio.sleep(4)
        await made.close()
        later = virtually(tmp_path)
        before = asyncio.get_running_loop().time()
        assert await anext(later.events()) == Changed("u-1")
        assert asyncio.get_running_loop().time() - before == pytest.approx(6)
        run = await seen_run(later)
        assert (run.activity, run.end, run.end_detail) == (Activity.ENDED, EndReason.CRASH, "as told")
        await later.coredump(RUN, tmp_path / "core")
        assert await refused(later.resume(RUN)) is Kind.NOT_FOUND
        await later.destroy(RUN)

    with_fake(tmp_path, scenario)


def test_devices_are_plugged_and_unplugged(tmp_path: Path) -> None:
    async def scenario(made: fake.FakeHypervisor) -> None:
        await made.create(creation())
        await made.plug(RUN, attachment())
        await made.plug(RUN, attachment("more"))
        await made.unplug(RUN, "root", force=False, timeout_s=1)
        await made.unplug(RUN, "root", force=False, timeout_s=1)  # already gone
        made.let_go("u-1", "more")
        assert await anext(made.events()) == Changed("u-1")
        assert await devices(made) == []

    with_fake(tmp_path, scenario)


@pytest.mark.parametrize(
    ("told", "kind"), [("refuse", Kind.DENIED_STATE), ("ignore", Kind.TIMEOUT), ("fail", Kind.INTERNAL)]
)
def test_a_guest_may_keep_a_device_but_not_by_force(tmp_path: Path, told: str, kind: Kind) -> None:
    async def scenario(made: fake.FakeHypervisor) -> None:
        run = RUN
        await made.create(creation(attachments=(attachment(),), unplug={"do": told, "times": 1}))
        if told == "ignore":
            await made.destroy(RUN)
            run = Run("u-1", 2)
            await made.create(creation(run, attachments=(attachment(),), unplug=told))
        assert await refused(made.unplug(run, "root", force=False, timeout_s=1)) is kind
        assert await devices(made) == ["root"]
        await made.unplug(run, "root", force=True, timeout_s=1)
        assert await devices(made) == []

    with_fake(tmp_path, scenario)


def test_faults_come_from_a_file_too_and_come_first(tmp_path: Path) -> None:
    async def scenario(made: fake.FakeHypervisor) -> None:
        faults = tmp_path / "faults.json"
        faults.write_text('{"*": {"resume": "fail"}, "web": {"create": {"wait_s": 5}}}')
        before = asyncio.get_running_loop().time()
        await made.create(creation(create="fail"))
        assert asyncio.get_running_loop().time() - before == pytest.approx(5)
        assert await refused(made.resume(RUN)) is Kind.INTERNAL
        faults.write_text("not JSON")
        assert await refused(made.resume(RUN)) is Kind.BAD_REQUEST
        faults.unlink()
        await made.resume(RUN)

    with_fake(tmp_path, scenario)


def test_a_call_can_hang_and_be_cancelled_without_a_trace(tmp_path: Path) -> None:
    async def scenario(made: fake.FakeHypervisor) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await made.create(creation(create="hang"))
        assert await seen_run(made) is None
        assert os.listdir(tmp_path) == []

    with_fake(tmp_path, scenario)


def test_a_guest_is_saved_and_restored(tmp_path: Path) -> None:
    async def scenario(made: fake.FakeHypervisor) -> None:
        path, heard = tmp_path / "state", list[float]()
        assert await refused(made.restore(creation(), path)) is Kind.NOT_FOUND
        await made.create(creation())
        await made.resume(RUN)
        await made.save(RUN, path, heard.append)
        assert heard == sorted(heard)
        assert (await seen_run(made)).activity is Activity.STANDS
        await made.destroy(RUN)
        await made.restore(creation(Run("u-1", 2)), path)
        run = await seen_run(made)
        assert (run.activity, run.run.incarnation) == (Activity.STANDS, 2)

    with_fake(tmp_path, scenario)


def test_size_name_picture_and_console(tmp_path: Path) -> None:
    async def scenario(made: fake.FakeHypervisor) -> None:
        await made.create(creation())
        await made.set_memory(RUN, 128)
        await made.set_cpus(RUN, 4)
        assert await anext(made.events()) == Changed("u-1")
        run = await seen_run(made)
        assert (run.memory_mib, run.cpus) == (128, 4)
        await made.rename(RUN, "www")
        await made.nmi(RUN)
        assert (await seen_run(made)).name == "www"
        assert (await made.screenshot(RUN)).startswith(b"\x89PNG")
        console = await made.console(RUN)
        greeting = await console.read()
        assert b"fake domain www, run 1" in greeting
        assert console.offset == len(greeting)
        await console.write(b"ls\r")
        assert await console.read() == b"ls\r\n"
        await made.destroy(RUN)
        assert await console.read() == b""

    with_fake(tmp_path, scenario)


def test_a_call_may_fail_after_its_effect_or_say_done_without_one(tmp_path: Path) -> None:
    async def scenario(made: fake.FakeHypervisor) -> None:
        made.faults.next("create", "fail-after")
        assert await refused(made.create(creation())) is Kind.UNAVAILABLE
        assert (await seen_run(made)).run == RUN
        made.faults.next("resume", "lie", "stale", "fail")
        await made.resume(RUN)
        assert await refused(made.resume(RUN)) is Kind.STALE
        assert await refused(made.resume(RUN)) is Kind.INTERNAL
        assert (await seen_run(made)).activity is Activity.STANDS
        made.faults.next("destroy", "fail-after")
        assert await refused(made.destroy(RUN)) is Kind.UNAVAILABLE
        assert await seen_run(made) is None

    with_fake(tmp_path, scenario)


def test_a_late_effect_comes_before_the_next_look_and_never_after_one(tmp_path: Path) -> None:
    async def scenario(made: fake.FakeHypervisor) -> None:
        made.faults.next("create", "late")
        assert await refused(made.create(creation())) is Kind.TIMEOUT
        assert (await seen_run(made)).run == RUN
        made.faults.next("resume", "late")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await made.resume(RUN)
        assert (await seen_run(made)).activity is Activity.RUNS

    with_fake(tmp_path, scenario)


def test_a_look_behind_a_call_that_hangs_says_that_it_does_not_know(tmp_path: Path) -> None:
    async def scenario(made: fake.FakeHypervisor) -> None:
        await made.create(creation())
        made.faults.next("pause", "hang")
        stuck = asyncio.create_task(made.pause(RUN))
        await asyncio.sleep(0)
        seen = (await made.look())[RUN.uuid]
        assert seen.unknown
        assert seen.run is not None
        await made.destroy(RUN)  # goes past what is stuck
        stuck.cancel()
        await asyncio.gather(stuck, return_exceptions=True)
        assert await seen_run(made) is None

    with_fake(tmp_path, scenario)


def test_a_look_may_fail_or_be_an_old_one(tmp_path: Path) -> None:
    async def scenario(made: fake.FakeHypervisor) -> None:
        await made.create(creation())
        assert (await seen_run(made)).activity is Activity.STANDS
        await made.resume(RUN)
        made.faults.next("look", "lie", "fail", "")
        assert (await seen_run(made)).activity is Activity.STANDS
        assert (await made.look(RUN.uuid))[RUN.uuid].unknown
        assert (await seen_run(made)).activity is Activity.RUNS

    with_fake(tmp_path, scenario)


def test_how_long_a_run_lasted_is_counted_from_its_start_or_reset_to_its_end(tmp_path: Path) -> None:
    async def scenario(made: fake.FakeHypervisor) -> None:
        await made.create(creation())
        await asyncio.sleep(5)
        assert (await seen_run(made)).uptime_s == pytest.approx(5)
        await made.reset(RUN, 2)
        await asyncio.sleep(3)
        made.end("u-1", EndReason.CRASH, kept=True)
        await asyncio.sleep(100)
        assert (await seen_run(made)).uptime_s == pytest.approx(3)

    with_fake(tmp_path, scenario)


def test_many_that_do_not_answer_take_the_time_of_one(tmp_path: Path) -> None:
    async def scenario(made: fake.FakeHypervisor) -> None:
        for number in range(5):
            await made.create(creation(Run(f"u-{number}", 1), look="hang"))
        before = asyncio.get_running_loop().time()
        assert all(seen.unknown for seen in (await made.look()).values())
        assert asyncio.get_running_loop().time() - before == pytest.approx(LOOK_S)

    with_fake(tmp_path, scenario)


def test_no_run_outlives_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(made: fake.FakeHypervisor) -> None:
        await made.create(creation())
        monkeypatch.setattr(clock, "boot_id", lambda: "another")
        seen = (await virtually(tmp_path).look())["u-1"]
        assert seen.run is None
        assert seen.ended == LastEnd(1, EndReason.UNKNOWN, "the machine started anew")

    with_fake(tmp_path, scenario)


def test_a_number_is_made_once_whatever_became_of_its_run(tmp_path: Path) -> None:
    async def scenario(made: fake.FakeHypervisor) -> None:
        await made.create(creation())
        made.end("u-1", EndReason.CRASH, "panic")
        seen = (await made.look())["u-1"]
        assert (seen.last, seen.run, seen.ended) == (1, None, LastEnd(1, EndReason.CRASH, "panic"))
        assert await refused(made.create(creation())) is Kind.STALE
        later = fake.FakeHypervisor(AdapterSettings(tmp_path, "n1"))
        assert await refused(later.create(creation())) is Kind.STALE
        await later.create(creation(Run("u-1", 2)))

    with_fake(tmp_path, scenario)


def test_a_hostile_world_is_the_same_for_the_same_seed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def history(seed: str) -> list[str]:
        folder = tmp_path / f"{seed}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()

        async def run() -> list[str]:
            settings = AdapterSettings(folder, "n1", {"hostile": seed})
            made = fake.FakeHypervisor(settings, lambda: 0.0)
            told = []
            for number in range(1, 120):
                there = (await made.look("u-1"))["u-1"].run
                call = made.destroy(there.run) if there else made.create(creation(Run("u-1", number)))
                try:
                    async with asyncio.timeout(20):
                        await call
                    told.append("ok")
                except (ManorError, TimeoutError) as error:
                    told.append(getattr(error, "kind", "none"))
                told.append(str((await made.look("u-1"))["u-1"]))
            made.faults.calm()
            await made.close()
            return told

        return virtual.run(run())

    assert history("7") == history("7") != history("8")
    assert "seed 7" in caplog.text
    assert {"ok", "internal", "unavailable", "timeout", "none"} <= set(history("7"))
