"""A guest's memory in a file and back; dumps and pictures."""

import asyncio
import os

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.documents import Graphics
from manor_lifecycle.hypervisors.qemu.saved import HEADER_BYTES
from manor_lifecycle.hypervisors.seen import Activity, Run
from tests.lifecycle.hypervisors.qemu.guests import UUID, run_of

pytestmark = pytest.mark.qemu
COUNT = "(i=0; while sleep 0.1; do i=$((i+1)); echo $i > /tmp/count; done) >/dev/null 2>&1 & true"
COUNTED = "while [ ! -s /tmp/count ]; do sleep 0.1; done; cat /tmp/count"


async def test_a_guest_counts_on_where_it_was_saved_with_what_it_was_given_meanwhile(living, place):
    state, progress = place.folder / "state", []
    async with living() as (hypervisor, run, screen, _):
        await hypervisor.plug(run, place.disk("more"))
        await screen.until("DEVICE add vdb")
        await hypervisor.set_cpus(run, 2)
        await screen.ask(COUNT)
        before = int(await screen.ask(COUNTED))
        await hypervisor.save(run, state, progress.append)
        assert (await run_of(hypervisor)).activity is Activity.STANDS
        await screen.stream.close()
        await hypervisor.destroy(run)
        assert progress == sorted(progress)
        assert progress[-1] == 1.0

        run = Run(UUID, 3)
        creation = place.creation(
            place.linux(), place.disk("more", 2), place.nic("net"), place.disk("root", 2), incarnation=3
        )
        await hypervisor.restore(creation, state)
        await hypervisor.resume(run)
        screen.stream = await hypervisor.console(run)
        assert int(await screen.ask(COUNTED)) >= before
        assert "DISK-WRITTEN" in await screen.ask("disk write /dev/vdb 1")
        assert (await run_of(hypervisor)).cpus == 2
        await hypervisor.unplug(run, "more", force=False, timeout_s=60)


async def test_a_saved_guest_may_go_on_in_its_old_process(living, place):
    async with living() as (hypervisor, run, screen, _):
        await hypervisor.save(run, place.folder / "state", lambda part: None)
        await hypervisor.resume(run)
        assert await screen.ask("echo here") == "here"


@pytest.mark.parametrize("left", ["whole", "under way"])
async def test_a_guest_is_saved_anew_whatever_a_service_that_ended_left_of_an_earlier_stream(
    living, place, left
):
    async with living() as (hypervisor, run, screen, _):
        guest = hypervisor._guests[UUID]
        if left == "whole":
            await hypervisor.save(run, place.folder / "earlier", lambda part: None)
        else:
            await guest.ask("stop")
            await guest.ask("migrate-set-parameters", {"max-bandwidth": 4096})
            with (place.folder / "earlier").open("wb") as file:
                await guest.ask("getfd", {"fdname": "earlier"}, lend=file.fileno())
            await guest.ask("migrate", {"uri": "fd:earlier"})
        image = await hypervisor.save(run, place.folder / "state", lambda part: None, "anew")
        assert image.id == "anew"
        assert (await run_of(hypervisor)).activity is Activity.STANDS
        await hypervisor.resume(run)
        assert await screen.ask("echo here") == "here"


async def test_a_save_that_cannot_be_written_leaves_no_file_and_a_running_guest(living, place):
    folder = place.folder / "readonly"
    folder.mkdir()
    (folder / "state").mkdir()  # in the way
    async with living() as (hypervisor, run, screen, _):
        with pytest.raises((ManorError, OSError)):
            await hypervisor.save(run, folder / "state", lambda part: None)
        assert os.listdir(folder) == ["state"]
        assert (await run_of(hypervisor)).activity is Activity.RUNS
        assert await screen.ask("echo here") == "here"


async def test_a_save_that_is_cancelled_at_any_point_leaves_no_file_and_a_running_guest(living, place):
    async with living() as (hypervisor, run, screen, _):
        for steps in range(0, 60, 7):
            saving = asyncio.ensure_future(hypervisor.save(run, place.folder / "state", lambda part: None))
            for _ in range(steps):
                await asyncio.sleep(0)
            saving.cancel()
            await asyncio.gather(saving, return_exceptions=True)
            assert saving.cancelled()
            assert [name for name in os.listdir(place.folder) if name.startswith("state")] == []
            assert (await run_of(hypervisor)).activity is Activity.RUNS
        assert await screen.ask("echo here") == "here"


@pytest.mark.parametrize("damage", ["shorter", "changed", "foreign", "gone"])
async def test_a_damaged_state_is_refused_untouched_and_nothing_is_started(place, saved, damage):
    state = place.folder / "state"
    content = saved.read_bytes()
    spoiled = {
        "shorter": content[:-1],
        "changed": content[: HEADER_BYTES + 100] + b"\x00\x01" + content[HEADER_BYTES + 102 :],
        "foreign": b"x" * len(content),
    }
    if damage in spoiled:
        state.write_bytes(spoiled[damage])
    async with place.hypervisor() as hypervisor:
        creation = place.creation(place.linux(), place.disk("root"), place.nic("net"), incarnation=2)
        with pytest.raises(ManorError, match="no saved state" if damage == "gone" else "damaged") as refused:
            await hypervisor.restore(creation, state)
        assert refused.value.kind is (Kind.NOT_FOUND if damage == "gone" else Kind.BAD_REQUEST)
        assert await run_of(hypervisor) is None
    assert damage == "gone" or state.read_bytes() == spoiled[damage]


async def test_a_state_is_not_restored_without_the_devices_it_had(place, saved):
    async with place.hypervisor() as hypervisor:
        creation = place.creation(place.linux(), place.nic("net"), incarnation=2)
        with pytest.raises(ManorError, match="root") as refused:
            await hypervisor.restore(creation, saved)
        assert refused.value.kind is Kind.BAD_REQUEST
        assert await run_of(hypervisor) is None


async def test_a_dump_is_an_elf_core_and_the_guest_goes_on(living, place):
    async with living() as (hypervisor, run, screen, _):
        await hypervisor.coredump(run, place.folder / "core")
        assert (place.folder / "core").read_bytes()[:4] == b"\x7fELF"
        assert await screen.ask("echo here") == "here"


async def test_a_screen_is_a_picture_and_no_screen_is_said_so(place):
    async with place.hypervisor() as hypervisor:
        run = Run(UUID, 1)
        await hypervisor.create(place.creation(place.bare(graphics=Graphics(video="std"))))
        await hypervisor.resume(run)
        assert (await hypervisor.screenshot(run)).startswith(b"\x89PNG")
        assert (await hypervisor.screenshot(run)).startswith(b"\x89PNG")
        await hypervisor.destroy(run)
        await hypervisor.create(place.creation(place.bare(), incarnation=2))
        with pytest.raises(ManorError) as refused:
            await hypervisor.screenshot(Run(UUID, 2))
        assert refused.value.kind is Kind.DENIED_STATE


@pytest.mark.parametrize(
    ("change", "word"),
    [("another", "another file"), ("longer", "bytes"), ("written", "written to"), ("gone", "No such file")],
)
async def test_a_state_is_not_restored_over_a_disk_that_is_not_what_it_was(place, change, word):
    state, disk = place.folder / "state", place.folder / "root.raw"
    async with place.hypervisor() as hypervisor:
        await hypervisor.create(place.creation(place.bare(), place.disk("root")))
        await hypervisor.save(Run(UUID, 1), state, lambda part: None)
        await hypervisor.destroy(Run(UUID, 1))
        again = place.creation(place.bare(), place.disk("root"), incarnation=2)
        match change:
            case "another":
                disk.rename(place.folder / "old")
                place.disk("root")
            case "longer":
                os.truncate(disk, 32 << 20)
            case "written":
                with disk.open("r+b") as file:
                    file.write(b"x")
            case _:
                disk.unlink()
        with pytest.raises(ManorError, match=word) as refused:
            await hypervisor.restore(again, state)
        assert refused.value.kind is Kind.DENIED_STATE
        assert "discard" in refused.value.hint
        assert (await hypervisor.look(UUID))[UUID].run is None
