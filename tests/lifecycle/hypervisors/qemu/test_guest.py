"""What happens to a guest is noticed, at once and with the right reason."""

import asyncio
import os
import signal
import subprocess
from dataclasses import replace

import msgspec
import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_host import clock, processes
from manor_host.processes import Identity
from manor_lifecycle.hypervisors.qemu import hotplug
from manor_lifecycle.hypervisors.qemu.folder import last_words
from manor_lifecycle.hypervisors.qemu.monitor import Monitor
from manor_lifecycle.hypervisors.seen import Activity, Cause, CauseWord, EndReason, Run, SeenDevice
from tests.lifecycle.hypervisors.qemu.guests import PATIENCE_S, UUID, Screen, Story, pid_of, run_of

pytestmark = pytest.mark.qemu


async def test_the_power_button_ends_in_a_power_off(living):
    async with living() as (hypervisor, run, screen, story):
        await hypervisor.shutdown(run)
        await screen.until("POWER-BUTTON")
        ended = await story.end()
        assert (ended.run, ended.end, ended.end_detail) == (run, EndReason.POWEROFF, "")
        with pytest.raises(ManorError) as refused:
            await hypervisor.resume(run)
        assert refused.value.kind is Kind.DENIED_STATE


async def test_a_reboot_is_told_and_left_to_the_service(living):
    async with living() as (_, _, screen, story):
        await screen.type("reboot -f")
        assert (await story.end()).end is EndReason.REBOOT


async def test_a_panic_is_a_crash_whose_memory_can_be_dumped(living, place):
    async with living() as (hypervisor, run, screen, story):
        await screen.type("echo c > /proc/sysrq-trigger")
        assert (await story.end()).end is EndReason.CRASH
        await hypervisor.coredump(run, place.folder / "core")
        assert (place.folder / "core").stat().st_size > 100 << 20


async def test_a_killed_process_is_noticed_at_once(living):
    async with living() as (hypervisor, run, _, story):
        os.kill(pid_of(hypervisor), signal.SIGKILL)
        ended = await story.end()
        assert ended.end is EndReason.KILLED
        assert "-9" in ended.end_detail
        with pytest.raises(ManorError) as refused:
            await hypervisor.coredump(run, "nowhere")
        assert refused.value.kind is Kind.DENIED_STATE
        await hypervisor.destroy(run)
        assert await run_of(hypervisor) is None


async def test_a_silent_process_is_hung_until_it_answers_again(living):
    async with living() as (hypervisor, run, screen, story):
        os.kill(pid_of(hypervisor), signal.SIGSTOP)
        seen = await story.until(lambda seen: bool(seen.unknown))
        assert seen.run.run == run
        assert seen.run.silent_for_s > 0
        os.kill(pid_of(hypervisor), signal.SIGCONT)
        await story.until(lambda seen: not seen.unknown)
        assert await screen.ask("echo here") == "here"


async def test_a_hung_guest_is_destroyed_all_the_same(place):
    async with place.hypervisor() as hypervisor:
        run = Run(UUID, 1)
        await hypervisor.create(place.creation(place.bare()))
        os.kill(pid_of(hypervisor), signal.SIGSTOP)
        await hypervisor.destroy(run)
        assert await run_of(hypervisor) is None


async def test_a_guest_is_paused_and_goes_on_as_often_as_it_is_asked(living):
    async with living() as (hypervisor, run, screen, _):
        await hypervisor.pause(run)
        await hypervisor.pause(run)
        assert (await run_of(hypervisor)).activity is Activity.STANDS
        await hypervisor.resume(run)
        await hypervisor.resume(run)
        assert await screen.ask("echo here") == "here"


async def test_an_interrupt_that_cannot_be_masked_reaches_the_guest(living):
    async with living() as (hypervisor, run, screen, _):
        before = await screen.ask("awk '/NMI:/{print $2}' /proc/interrupts")
        await hypervisor.nmi(run)
        after = f"while [ $(awk '/NMI:/{{print $2}}' /proc/interrupts) = {before} ]; do sleep 0.1; done"
        await screen.ask(after)


@pytest.mark.parametrize(
    ("end", "reason"), [("poweroff -f", EndReason.POWEROFF), ("reboot -f", EndReason.REBOOT)]
)
async def test_what_ended_while_nobody_watched_is_found_out_afterwards(living, place, end, reason):
    async with living() as (hypervisor, _, screen, _):
        pid = pid_of(hypervisor)
        await screen.type(f"echo go''od; sleep 1; {end}")
        await screen.until("good")  # it was taken
    monitor = Monitor("web")
    await monitor.connect(place.folder / "qemu" / UUID)
    while (await monitor.ask("query-status"))["status"] != "shutdown":
        pass
    await monitor.close()
    async with place.hypervisor() as hypervisor:
        assert pid_of(hypervisor) == pid
        found = await run_of(hypervisor)
        assert (found.activity, found.end) == (Activity.ENDED, reason)


def mount(*arguments, program="mount"):
    subprocess.run([program, *arguments], check=True)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, "quit"])
async def test_a_polite_end_from_outside_is_no_crash(place, how):
    async with place.hypervisor() as hypervisor:
        story = Story(hypervisor)
        await hypervisor.create(place.creation(place.bare()))
        if how == "quit":
            await hypervisor._guests[UUID].monitor.ask("quit")
        else:
            os.kill(pid_of(hypervisor), how)
        assert (await story.end()).end is EndReason.KILLED


def end(pid, how):
    there = Identity.of(pid)
    assert there is not None
    os.kill(pid, how)
    assert processes.left([there], PATIENCE_S) == []


@pytest.mark.parametrize(
    ("how", "reason"), [(signal.SIGTERM, EndReason.KILLED), (signal.SIGSEGV, EndReason.DEVICE_MODEL)]
)
async def test_an_end_from_outside_while_nobody_watched_is_told_from_a_crash(place, how, reason):
    async with place.hypervisor() as hypervisor:
        await hypervisor.create(place.creation(place.bare()))
        pid = pid_of(hypervisor)
    end(pid, how)
    async with place.hypervisor() as hypervisor:
        run = await run_of(hypervisor)
        assert (run.activity, run.end) == (Activity.ENDED, reason)


async def test_who_powered_off_before_the_machine_went_down_did_not_crash(living, place, monkeypatch):
    async with living() as (hypervisor, _, screen, _):
        pid = pid_of(hypervisor)
        await screen.type("echo go''od; sleep 1; poweroff -f")
        await screen.until("good")
    async with asyncio.timeout(PATIENCE_S):
        while "reason=6" not in last_words(place.folder / "qemu" / UUID):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    end(pid, signal.SIGTERM)
    monkeypatch.setattr(clock, "boot_id", lambda: "another")
    async with place.hypervisor() as hypervisor:
        seen = (await hypervisor.look(UUID))[UUID]
        assert (seen.run, seen.ended.reason) == (None, EndReason.POWEROFF)


async def test_the_kernels_choice_is_told_also_when_the_process_takes_its_time_to_die(place, monkeypatch):
    count = [3]
    monkeypatch.setattr("manor_lifecycle.hypervisors.qemu.guest.starvations", lambda: count[0])
    async with place.hypervisor() as hypervisor:
        story = Story(hypervisor)
        await hypervisor.create(place.creation(place.bare()))
        await asyncio.sleep(0.5)  # some heartbeats
        count[0] += 1
        await asyncio.sleep(0.25)  # and one more before it is dead
        os.kill(pid_of(hypervisor), signal.SIGKILL)
        assert (await story.end()).end is EndReason.OUT_OF_MEMORY


async def test_how_long_a_run_lasted_does_not_grow_after_its_end(place):
    async with place.hypervisor() as hypervisor:
        story = Story(hypervisor)
        await hypervisor.create(place.creation(place.bare()))
        assert 0 <= (await run_of(hypervisor)).uptime_s < 30
        os.kill(pid_of(hypervisor), signal.SIGKILL)
        await story.end()
        lasted = (await run_of(hypervisor)).uptime_s
        await asyncio.sleep(0.1)
        assert (await run_of(hypervisor)).uptime_s == lasted > 0
    async with place.hypervisor() as hypervisor:
        assert (await run_of(hypervisor)).uptime_s == lasted


async def test_a_guest_that_sleeps_is_seen_so_also_after_a_restart_and_woken_by_resume(living, place):
    async with living() as (hypervisor, run, screen, story):
        await screen.type("echo mem > /sys/power/state; echo aw''ake")
        await story.until(lambda seen: seen.run.activity is Activity.SLEEPS)
    async with place.hypervisor() as hypervisor:
        assert (await run_of(hypervisor)).activity is Activity.SLEEPS
        await hypervisor.resume(run)
        assert (await run_of(hypervisor)).activity is Activity.RUNS
        screen = Screen(await hypervisor.console(run))
        await screen.until("awake")
        await screen.stream.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system is mounted by root only")
async def test_a_disk_without_room_stops_the_guest_and_is_named_until_there_is_room(place):
    small = place.folder / "small"
    small.mkdir(mode=0o711)
    mount("-t", "tmpfs", "-o", "size=2m,mode=0777", "tmpfs", str(small))
    try:
        big = place.disk("big")
        path = small / "big.raw"
        path.touch()
        os.truncate(path, 16 << 20)
        path.chmod(0o666)
        args = {**big.descriptor.args, "path": str(path)}
        full = replace(big, descriptor=msgspec.structs.replace(big.descriptor, args=args))
        run = Run(UUID, 1)
        async with place.hypervisor() as hypervisor:
            story = Story(hypervisor)
            await hypervisor.create(place.creation(place.linux(), full))
            await hypervisor.resume(run)
            screen = Screen(await hypervisor.console(run))
            await screen.until("guest#")
            await screen.type("dd if=/dev/zero of=/dev/vda bs=1M count=8 conv=fsync; echo wri''tten")
            seen = (await story.until(lambda seen: seen.run.activity is Activity.STANDS)).run
            assert (seen.activity, seen.cause.word, seen.cause.device) == (
                Activity.STANDS,
                CauseWord.NO_SPACE,
                "big",
            )
            assert seen.devices == (SeenDevice("big", "nospace"),)
            await hypervisor.resume(run)  # and it stops again
            await story.until(lambda seen: seen.run.cause.device == "big")
            await screen.stream.close()
        async with place.hypervisor() as hypervisor:  # also after a restart
            assert (await run_of(hypervisor)).cause.device == "big"
            mount("-o", "remount,size=32m", str(small))
            await hypervisor.resume(run)
            assert (await run_of(hypervisor)).cause == Cause()
            screen = Screen(await hypervisor.console(run))
            await screen.until("written")
            await screen.stream.close()
            await hypervisor.destroy(run)
    finally:
        mount("-l", str(small), program="umount")


async def test_requests_that_fail_under_a_guest_that_goes_on_are_seen(living):
    async with living() as (hypervisor, _, screen, _):
        guest = hypervisor._guests[UUID]
        await hotplug._reconnect(guest, guest.record.plugged[0], None)  # every request fails
        await screen.type("dd if=/dev/zero of=/dev/vda bs=1M count=4 conv=fsync; echo t''ried")
        await screen.until("tried")
        seen = await run_of(hypervisor)
        assert (seen.activity, seen.cause.word, seen.cause.device) == (
            Activity.RUNS,
            CauseWord.IO_ERROR,
            "root",
        )
        assert SeenDevice("root", "failed") in seen.devices


async def test_a_process_that_ends_during_an_unplug_is_noticed_at_once(living):
    async with living() as (hypervisor, run, _, _):
        os.kill(pid_of(hypervisor), signal.SIGSTOP)
        unplug = asyncio.ensure_future(hypervisor.unplug(run, "root", force=False, timeout_s=3600))
        await asyncio.sleep(0)
        os.kill(pid_of(hypervisor), signal.SIGKILL)
        with pytest.raises(ManorError) as refused:
            await unplug
        assert refused.value.kind in (Kind.UNAVAILABLE, Kind.DENIED_STATE)
        assert (await run_of(hypervisor)).activity is Activity.ENDED
