"""Guests outlive the service and are found again; what is not ours is not touched."""

import asyncio
import errno
import json
import os
import shutil
import signal
import sys
from dataclasses import replace

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_host import processes
from manor_lifecycle.hypervisors import load
from manor_lifecycle.hypervisors.qemu import folder, open_hypervisor
from manor_lifecycle.hypervisors.qemu.folder import RECORD
from manor_lifecycle.hypervisors.seen import Activity, EndReason, LastEnd, Run, Seen
from tests.lifecycle.hypervisors.qemu.guests import ROOT, UUID, Screen, Story, pid_of, run_of

pytestmark = pytest.mark.qemu

# A service of its own: continues the saved guest, says so, and waits for its end.
SERVICE = """
import asyncio, sys
from pathlib import Path
from tests.lifecycle.hypervisors.qemu.guests import UUID, Place, pid_of
from manor_lifecycle.hypervisors import Run

async def main(folder, saved, kernel, initrd):
    place = Place(folder, kernel, initrd)
    async with place.hypervisor() as hypervisor:
        creation = place.creation(place.linux(), place.disk("root"), place.nic("net"), incarnation=2)
        await hypervisor.restore(creation, saved)
        await hypervisor.resume(Run(UUID, 2))
        print(pid_of(hypervisor), flush=True)
        await asyncio.sleep(3600)

asyncio.run(main(*map(Path, sys.argv[1:])))
"""


async def killed_service(place, saved):
    """Let another process start a guest, kill that process, return the guest's process id."""
    service = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SERVICE, place.folder, saved, place.kernel, place.initrd),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    pid = int(await service.stdout.readline())
    service.kill()
    await service.communicate()
    return pid


async def test_a_guest_outlives_its_service_and_is_found_again(place, saved):
    pid = await killed_service(place, saved)
    async with place.hypervisor() as hypervisor:
        assert pid_of(hypervisor) == pid
        found = await run_of(hypervisor)
        assert (found.run, found.activity) == (Run(UUID, 2), Activity.RUNS)
        assert [one.id for one in found.devices] == ["root", "net"]
        run = Run(UUID, 2)
        screen = Screen(await hypervisor.console(run))
        assert await screen.ask("echo still here") == "still here"
        await screen.stream.close()
        await hypervisor.plug(run, place.disk("more"))
        assert os.getsid(pid) == pid


async def test_a_guest_that_was_killed_meanwhile_is_listed_as_ended_until_it_is_destroyed(place, saved):
    os.kill(await killed_service(place, saved), signal.SIGKILL)
    async with place.hypervisor() as hypervisor:
        found = await run_of(hypervisor)
        assert (found.activity, found.end) == (Activity.ENDED, EndReason.DEVICE_MODEL)
        await hypervisor.destroy(Run(UUID, 2))
        assert await run_of(hypervisor) is None


async def test_a_process_number_that_belongs_to_somebody_else_is_not_trusted(place, saved):
    os.kill(await killed_service(place, saved), signal.SIGKILL)
    file = place.folder / "qemu" / UUID / RECORD
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pid": os.getpid()}))
    async with place.hypervisor() as hypervisor:
        assert (await run_of(hypervisor)).activity is Activity.ENDED
        await hypervisor.destroy(Run(UUID, 2))  # and this process is still there


async def test_a_guest_of_an_earlier_boot_of_this_machine_is_forgotten(place, saved):
    os.kill(await killed_service(place, saved), signal.SIGKILL)
    file = place.folder / "qemu" / UUID / RECORD
    file.write_text(json.dumps(json.loads(file.read_text()) | {"boot_id": "another"}))
    async with place.hypervisor() as hypervisor:
        assert (await hypervisor.look())[UUID].ended == LastEnd(
            2, EndReason.UNKNOWN, "the machine started anew"
        )


async def test_a_guest_with_an_unreadable_record_is_neither_dead_nor_started_again(place, saved):
    pid = await killed_service(place, saved)
    (place.folder / "qemu" / UUID / RECORD).write_text("{")
    async with place.hypervisor() as hypervisor:
        seen = (await hypervisor.look())[UUID]
        assert (seen.last, seen.run) == (2, None)
        assert RECORD in seen.unknown
        with pytest.raises(ManorError, match="runs") as refused:
            await hypervisor.create(place.creation(place.bare(), incarnation=3))
        assert refused.value.kind is Kind.DENIED_STATE
        assert processes.started_ticks(pid)
        await hypervisor.destroy(Run(UUID, 2))
        assert processes.started_ticks(pid) == 0
        assert (await hypervisor.look())[UUID] == Seen(UUID, 2)


async def test_the_end_of_a_guest_with_an_unreadable_record_is_noticed(place, saved):
    pid = await killed_service(place, saved)
    (place.folder / "qemu" / UUID / RECORD).write_text("{")
    async with place.hypervisor() as hypervisor:
        os.kill(pid, signal.SIGKILL)
        seen = await Story(hypervisor).until(lambda seen: not seen.unknown)
        assert (seen.run, seen.ended.incarnation) == (None, 2)


async def test_the_end_of_a_guest_is_noticed_when_its_record_cannot_be_written(place, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with place.hypervisor() as hypervisor:
        story = Story(hypervisor)
        await hypervisor.create(place.creation(place.bare()))
        monkeypatch.setattr(folder, "write_record", full)
        for call in (hypervisor.plug(Run(UUID, 1), place.disk("more")), hypervisor.rename(Run(UUID, 1), "x")):
            with pytest.raises(ManorError) as refused:
                await call
            assert refused.value.kind is Kind.NO_CAPACITY
        assert [one.id for one in (await hypervisor.look(UUID))[UUID].run.devices] == []
        os.kill(pid_of(hypervisor), signal.SIGKILL)
        assert (await story.end()).end is EndReason.KILLED
        await hypervisor.destroy(Run(UUID, 1))
        with pytest.raises(ManorError) as refused:
            await hypervisor.create(place.creation(place.bare(), incarnation=2))
        assert refused.value.kind is Kind.NO_CAPACITY
        assert (await hypervisor.look(UUID))[UUID].run is None


async def test_a_guest_whose_service_died_while_making_it_is_cleared_away(place, saved):
    pid = await killed_service(place, saved)
    file = place.folder / "qemu" / UUID / RECORD
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pid": 0, "started_ticks": 0}))
    async with place.hypervisor() as hypervisor:
        assert await run_of(hypervisor) is None
        assert processes.started_ticks(pid) == 0


async def test_a_stopped_process_does_not_keep_the_service_from_starting(place, saved):
    pid = await killed_service(place, saved)
    os.kill(pid, signal.SIGSTOP)
    async with place.hypervisor() as hypervisor:
        seen = await Story(hypervisor).until(lambda seen: bool(seen.unknown))
        assert seen.run.run == Run(UUID, 2)
        os.kill(pid, signal.SIGCONT)
        screen = Screen(await hypervisor.console(Run(UUID, 2)))
        assert await screen.ask("echo here") == "here"
        await screen.stream.close()


async def test_the_console_begins_with_what_was_printed_before(living, place):
    async with living() as (hypervisor, run, screen, _):
        assert await screen.ask("echo before") == "before"
    async with place.hypervisor() as hypervisor:
        stream = await hypervisor.console(run)
        assert stream.offset == 0
        assert b"before" in await stream.read()
        await stream.close()


async def test_the_same_run_is_made_once_and_other_runs_are_refused(place):
    async with place.hypervisor() as hypervisor:
        await hypervisor.create(place.creation(place.bare(), incarnation=5))
        pid = pid_of(hypervisor)
        await hypervisor.create(place.creation(place.bare(), incarnation=5))
        assert pid_of(hypervisor) == pid
        for incarnation, kind in ((6, Kind.CONFLICT), (4, Kind.STALE)):
            with pytest.raises(ManorError) as refused:
                await hypervisor.create(place.creation(place.bare(), incarnation=incarnation))
            assert refused.value.kind is kind
        with pytest.raises(ManorError) as refused:
            await hypervisor.pause(Run(UUID, 4))
        assert refused.value.kind is Kind.STALE
        with pytest.raises(ManorError) as refused:
            await hypervisor.pause(Run(UUID, 6))
        assert refused.value.kind is Kind.NOT_FOUND
        with pytest.raises(ManorError) as refused:
            await hypervisor.destroy(Run(UUID, 4))
        assert refused.value.kind is Kind.STALE
        await hypervisor.destroy(Run(UUID, 5))
        await hypervisor.destroy(Run(UUID, 5))
        assert processes.started_ticks(pid) == 0


async def test_the_remains_of_an_ended_run_are_in_the_way_until_they_are_destroyed(place):
    async with place.hypervisor() as hypervisor:
        story = Story(hypervisor)
        await hypervisor.create(place.creation(place.bare()))
        os.kill(pid_of(hypervisor), signal.SIGKILL)
        await story.end()
        with pytest.raises(ManorError) as refused:
            await hypervisor.create(place.creation(place.bare(), incarnation=2))
        assert refused.value.kind is Kind.CONFLICT
    async with place.hypervisor() as hypervisor:
        with pytest.raises(ManorError) as refused:
            await hypervisor.create(place.creation(place.bare(), incarnation=2))
        assert refused.value.kind is Kind.CONFLICT
        await hypervisor.destroy(Run(UUID, 1))
        await hypervisor.create(place.creation(place.bare(), incarnation=2))
        assert (await run_of(hypervisor)).run == Run(UUID, 2)


async def test_a_reset_is_the_same_machine_from_the_beginning_as_a_new_run(living, place):
    async with living() as (hypervisor, run, screen, _):
        await hypervisor.plug(run, place.disk("more"))
        assert "first run" in await screen.ask("echo first run")
        await hypervisor.reset(run, 3)
        await hypervisor.reset(run, 3)
        again = Screen(await hypervisor.console(Run(UUID, 3)))
        await again.until("MANOR-GUEST-READY")
        assert (await again.ask("ls /sys/block")).split() == ["vda", "vdb"]
        await again.stream.close()
        before = await hypervisor.last_run(UUID)
        assert before is not None
        assert b"first run" in before.console, "what it printed before the reset"
        with pytest.raises(ManorError) as refused:
            await hypervisor.pause(run)
        assert refused.value.kind is Kind.STALE


async def test_a_renamed_guest_has_its_name_after_a_restart(place):
    async with place.hypervisor() as hypervisor:
        await hypervisor.create(place.creation(place.bare()))
        await hypervisor.rename(Run(UUID, 1), "shop")
    async with place.hypervisor() as hypervisor:
        assert (await run_of(hypervisor)).name == "shop"


async def test_a_guest_of_somebody_else_is_seen_and_left_alone(place):
    name, their = "4e6c6e60-2f0b-4bb4-9d3c-1a9c0c7f1d11", "-nodefaults -display none -accel tcg -m 16 -S"
    foreign = await asyncio.create_subprocess_exec(
        *("qemu-system-x86_64", "-uuid", name, "-name", "guest=other,debug-threads=on", *their.split())
    )
    try:
        async with place.hypervisor() as hypervisor:
            seen = (await hypervisor.look())[name].run
            assert (seen.name, seen.ours, seen.run, seen.memory_mib) == ("other", False, Run(name, 0), 16)
            with pytest.raises(ManorError) as refused:
                await hypervisor.pause(Run(name, 0))
            assert refused.value.kind is Kind.NOT_FOUND
            await hypervisor.destroy(Run(name, 0))
        assert foreign.returncode is None
    finally:
        foreign.kill()
        await foreign.wait()


async def test_a_copy_of_a_state_directory_leaves_the_guests_of_the_original_alone(place):
    place.state_id = "original"
    async with place.hypervisor() as hypervisor:
        await hypervisor.create(place.creation(place.bare()))
        pid = pid_of(hypervisor)
        assert processes.environment(pid).keys() == {"PATH", "LANG", "MANOR_STATE_ID"}
    copy = replace(place, folder=place.folder / "copy", state_id="copy")
    shutil.copytree(
        place.folder / "qemu", copy.folder / "qemu", ignore=shutil.ignore_patterns("monitor", "console")
    )
    async with copy.hypervisor() as hypervisor:
        seen = (await hypervisor.look())[UUID]
        assert (seen.last, seen.run, seen.ended.reason) == (1, None, EndReason.UNKNOWN)
        await hypervisor.destroy(Run(UUID, 1))
    assert processes.started_ticks(pid)


def test_the_adapter_is_found_by_its_name():
    assert load("qemu") is open_hypervisor
