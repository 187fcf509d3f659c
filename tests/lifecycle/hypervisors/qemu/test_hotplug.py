"""Devices and processors come and go in a real guest."""

import asyncio

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.devices import Descriptor
from manor_bus.wire.messages.documents import Disk
from manor_lifecycle.hypervisors import Attachment
from manor_lifecycle.hypervisors.seen import Feature, Run
from tests.lifecycle.hypervisors.qemu.guests import UUID, open_files, pid_of, run_of

pytestmark = pytest.mark.qemu


async def attached(hypervisor):
    return tuple(one.id for one in (await run_of(hypervisor)).devices)


async def test_a_disk_and_a_card_come_are_used_and_go(living, place):
    async with living() as (hypervisor, run, screen, _):
        await hypervisor.plug(run, place.disk("more"))
        await screen.until("DEVICE add vdb")
        assert "DISK-WRITTEN" in await screen.ask("disk write /dev/vdb 2 7")
        await hypervisor.plug(run, place.nic("second"))
        await screen.until("NETWORK eth1")
        assert await attached(hypervisor) == ("root", "net", "more", "second")
        await hypervisor.unplug(run, "second", force=False, timeout_s=60)
        await screen.until("DEVICE remove eth1")
        await hypervisor.unplug(run, "more", force=False, timeout_s=60)
        await screen.until("DEVICE remove vdb")
        assert await attached(hypervisor) == ("root", "net")
        await hypervisor.plug(run, place.disk("more", generation=2))
        await screen.until("DEVICE add vdb")
        assert "DISK-VERIFIED" in await screen.ask("disk verify /dev/vdb 2 7")


async def test_plugging_and_unplugging_again_changes_nothing(living, place):
    async with living() as (hypervisor, run, _, _):
        await hypervisor.plug(run, place.disk("more"))
        await hypervisor.plug(run, place.disk("more"))
        assert await attached(hypervisor) == ("root", "net", "more")
        await hypervisor.unplug(run, "more", force=False, timeout_s=60)
        await hypervisor.unplug(run, "more", force=False, timeout_s=60)
        assert await attached(hypervisor) == ("root", "net")


async def test_a_guest_that_does_not_answer_keeps_its_device_until_it_lets_go(place):
    async with place.hypervisor() as hypervisor:
        run = Run(UUID, 1)
        await hypervisor.create(place.creation(place.bare(), place.disk("root")))
        await hypervisor.resume(run)
        with pytest.raises(ManorError) as late:
            await hypervisor.unplug(run, "root", force=False, timeout_s=0.3)
        assert late.value.kind is Kind.TIMEOUT
        assert await attached(hypervisor) == ("root",)
        with pytest.raises(ManorError) as late:
            await hypervisor.unplug(run, "root", force=False, timeout_s=0.3)
        assert late.value.kind is Kind.TIMEOUT
        await hypervisor.unplug(run, "root", force=True, timeout_s=0.3)
        assert await attached(hypervisor) == ()
        await hypervisor.plug(run, place.disk("root", generation=2))
        assert await attached(hypervisor) == ("root",)


async def test_a_guest_that_lets_go_late_is_heard(living, place):
    async with living() as (hypervisor, run, _, story):
        await hypervisor.plug(run, place.disk("more"))
        with pytest.raises(ManorError) as late:
            await hypervisor.unplug(run, "more", force=False, timeout_s=0)
        assert late.value.kind is Kind.TIMEOUT
        seen = await story.until(lambda seen: len(seen.run.devices) == 2)
        assert [one.id for one in seen.run.devices] == ["root", "net"]


async def test_a_forced_unplug_takes_the_file_from_a_guest_that_holds_on(living, place):
    async with living() as (hypervisor, run, screen, _):
        await hypervisor.plug(run, place.disk("more"))
        await screen.until("DEVICE add vdb")
        await hypervisor.pause(run)  # so it cannot answer
        await hypervisor.unplug(run, "more", force=True, timeout_s=0.1)
        assert str(place.folder / "more.raw") not in open_files(pid_of(hypervisor))
        assert str(place.folder / "root.raw") in open_files(pid_of(hypervisor))
        await hypervisor.resume(run)
        await screen.until("DEVICE remove vdb")


async def test_a_disk_gets_another_back_end_below_a_front_end_that_stays(living, place):
    async with living() as (hypervisor, run, screen, _):
        await hypervisor.plug(run, place.disk("more"))
        await screen.until("DEVICE add vdb")
        assert "DISK-WRITTEN" in await screen.ask("disk write /dev/vdb 1 5; sync")
        elsewhere = place.file("elsewhere.raw", (place.folder / "more.raw").read_bytes())
        moved = place.disk("more", generation=2)
        moved.descriptor.args["path"] = str(elsewhere)
        await hypervisor.plug(run, moved)
        await screen.ask("echo 3 > /proc/sys/vm/drop_caches")
        assert "DISK-VERIFIED" in await screen.ask("disk verify /dev/vdb 1 5")
        assert "DISK-WRITTEN" in await screen.ask("disk write /dev/vdb 1 6; sync")
        assert elsewhere.read_bytes() != (place.folder / "more.raw").read_bytes()


async def test_a_device_that_cannot_be_attached_leaves_nothing_behind(living, place):
    async with living() as (hypervisor, run, _, _):
        gone = place.disk("more")
        (place.folder / "more.raw").unlink()
        for _ in range(20):  # more often than there are places
            with pytest.raises(ManorError):
                await hypervisor.plug(run, gone)
        assert await attached(hypervisor) == ("root", "net")
        await hypervisor.plug(run, place.disk("more"))


async def test_a_device_without_hot_plug_is_refused_with_the_reason(living, place):
    async with living() as (hypervisor, run, _, _):
        with pytest.raises(ManorError, match="more") as refused:
            await hypervisor.plug(run, place.disk("more", bus="sata"))
        assert "no hot plug" in refused.value.problems[0].reason


async def test_a_channel_carries_bytes_to_a_socket_of_this_node(living, place):
    path = place.folder / "channel"
    came: asyncio.Queue[bytes] = asyncio.Queue()

    async def serve(reader, writer):
        came.put_nowait(await reader.readline())
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    path.chmod(0o666)
    async with server, living() as (hypervisor, run, screen, _):
        await hypervisor.plug(run, place.channel("bus", path))
        await screen.ask("while [ ! -e /dev/vport* ]; do sleep 0.1; done; echo hello | tee /dev/vport*")
        async with asyncio.timeout(60):
            assert await came.get() == b"hello\n"
        await hypervisor.unplug(run, "bus", force=False, timeout_s=60)
        assert await attached(hypervisor) == ("root", "net")


async def test_a_processor_is_added_and_none_is_taken_away_where_qemu_cannot(living, place):
    async with living() as (hypervisor, run, screen, story):
        await hypervisor.set_cpus(run, 2)
        assert (await story.until(lambda seen: seen.run.cpus == 2)).run.spec.cpu.count == 2
        online = "/sys/devices/system/cpu/cpu1/online"
        come = f"while [ ! -e {online} ]; do sleep 0.1; done; echo 1 > {online}; nproc"
        assert await screen.ask(come) == "2"
        for count in (0, 3):
            with pytest.raises(ManorError) as refused:
                await hypervisor.set_cpus(run, count)
            assert refused.value.kind is Kind.BAD_REQUEST
        if Feature.CPU_UNPLUG in (await hypervisor.describe()).features:
            await hypervisor.set_cpus(run, 1)
            await hypervisor.save(run, place.folder / "state", lambda part: None)
        else:
            with pytest.raises(ManorError, match="fewer") as refused:
                await hypervisor.set_cpus(run, 1)
            assert refused.value.kind is Kind.BAD_REQUEST


async def test_memory_follows_the_balloon(living):
    async with living() as (hypervisor, run, _, story):
        await hypervisor.set_memory(run, 144)
        await story.until(lambda seen: seen.run.memory_mib == 144)
        with pytest.raises(ManorError, match="160") as refused:
            await hypervisor.set_memory(run, 161)
        assert refused.value.kind is Kind.BAD_REQUEST


async def test_a_disk_whose_provider_died_goes_on_with_the_next_one(living, place):
    path = place.folder / "nbd"

    async def provider():
        child = await asyncio.create_subprocess_exec(
            *("qemu-storage-daemon", "--blockdev", f"file,node-name=f,filename={place.file('served.raw')}"),
            *("--nbd-server", f"addr.type=unix,addr.path={path}"),
            *("--export", "nbd,id=e,node-name=f,name=disk,writable=on"),
        )
        while not path.exists():  # noqa: ASYNC110 (nobody tells when a socket appears)
            await asyncio.sleep(0.01)
        path.chmod(0o666)
        return child

    def disk(generation):
        args = {"path": str(path), "export": "disk", "reconnect_s": 30}
        descriptor = Descriptor(type="nbd", args=args, generation=generation)
        return Attachment(Disk(id="far", nbd="nbd+unix:///disk"), descriptor)

    first = await provider()
    try:
        async with living() as (hypervisor, run, screen, _):
            await hypervisor.plug(run, disk(1))
            await screen.until("DEVICE add vdb")
            assert "DISK-WRITTEN" in await screen.ask("disk write /dev/vdb 1")
            first.kill()
            await first.wait()
            path.unlink()
            await screen.type("disk write /dev/vdb 1 9")  # waits for the next provider
            first = await provider()
            await hypervisor.plug(run, disk(2))
            await screen.until("DISK-WRITTEN /dev/vdb")
            assert "DISK-VERIFIED" in await screen.ask("disk verify /dev/vdb 1 9")
            await hypervisor.unplug(run, "far", force=False, timeout_s=60)
    finally:
        first.kill()
        await first.wait()
