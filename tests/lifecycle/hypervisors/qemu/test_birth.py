"""How guests begin: confined, complete, or not at all."""

import asyncio
import os

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.documents import Boot, Cpu, Graphics, Memory, Usb
from manor_host.processes import command_line
from manor_lifecycle.hypervisors.qemu import process, sockets
from manor_lifecycle.hypervisors.qemu.screen import SCREEN
from manor_lifecycle.hypervisors.seen import Run
from tests.lifecycle.hypervisors.qemu.guests import (
    PATIENCE_S,
    UID,
    UUID,
    Screen,
    pid_of,
    process_facts,
    run_of,
)

pytestmark = pytest.mark.qemu
RUN = Run(UUID, 1)


def khz():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return next(int(float(line.split(":")[1]) * 1000) for line in file if line.startswith("cpu MHz"))


def tasks_of(hypervisor):
    return f"/proc/{pid_of(hypervisor)}/task"


async def test_a_guests_process_is_confined(place):
    async with place.hypervisor() as hypervisor:
        await hypervisor.create(place.creation(place.linux(), place.disk("root"), place.nic("net")))
        facts = process_facts(pid_of(hypervisor))
        uid = str(UID or os.geteuid())
        assert facts["Uid"].split() == [uid] * 4
        assert facts["Seccomp"] == "2"
        assert facts["NoNewPrivs"] == "1"
        if UID:
            assert facts["CapEff"] == "0" * 16
            assert facts["Groups"].split() in ([], [str(gid) for gid in process.kvm_groups()])


async def test_a_microvm_boots(place):
    spec = place.linux(type="microvm")
    spec = place.linux(
        type="microvm",
        # Without KVM's clock and without a timer to compare with, a busy machine upsets the guest's count.
        boot=Boot(
            kernel=spec.boot.kernel,
            initrd=spec.boot.initrd,
            cmdline=f"{spec.boot.cmdline} tsc_early_khz={khz()}",
        ),
    )
    async with place.hypervisor() as hypervisor:
        await hypervisor.create(place.creation(spec, place.disk("root"), place.nic("net")))
        await hypervisor.resume(RUN)
        screen = Screen(await hypervisor.console(RUN))
        await screen.until("MANOR-GUEST-READY")
        assert "DISK-WRITTEN" in await screen.ask("disk write /dev/vda 1")
        with pytest.raises(ManorError, match="web"):
            await hypervisor.plug(RUN, place.disk("more"))
        with pytest.raises(ManorError, match="microvm"):
            await hypervisor.set_cpus(RUN, 2)
        await screen.stream.close()


async def test_uefi_firmware_starts_and_keeps_its_variables(place):
    async with place.hypervisor() as hypervisor:
        spec = place.bare(memory=Memory(size_mib=128), boot=Boot(firmware="uefi"))
        try:
            await hypervisor.create(place.creation(spec))
        except ManorError as error:
            if "no UEFI firmware" in error.message:
                pytest.skip(error.message)
            raise
        await hypervisor.resume(RUN)
        screen = Screen(await hypervisor.console(RUN))
        await screen.until("UEFI")
        await screen.stream.close()
        await hypervisor.destroy(RUN)
    variables = place.folder / "qemu" / UUID / "variables.fd"
    assert variables.stat().st_size > 0


async def test_every_offered_device_is_understood_by_qemu(place):
    disks = (
        place.disk("virtio", iops=100, boot=1),
        place.disk("scsi", bus="scsi"),
        place.disk("sata", bus="sata"),
        place.disk("usb", bus="usb"),
        place.disk("nvme", bus="nvme", serial="x1"),
        place.disk("cd", bus="sata", device="cdrom"),
        place.disk("shared", shareable=True, cache="writethrough", discard=False),
    )
    spec = place.bare(
        cpu=Cpu(count=1, max=4, affinity="0"),
        memory=Memory(size_mib=32, max_mib=64),
        disks=tuple(one.device for one in disks),
        usb=(Usb(id="t", emulated="tablet"), Usb(id="k", emulated="keyboard")),
        graphics=Graphics(type="vnc", video="virtio"),
        watchdog="i6300esb",
        clock_offset_s=3600,
        smbios={"serial": "a,b", "manufacturer": "Manor"},
        boot=Boot(order=("disk", "network"), menu=True),
        rng=True,
        acpi=True,
    )
    async with place.hypervisor() as hypervisor:
        await hypervisor.create(place.creation(spec, *disks, place.nic("net")))
        await hypervisor.resume(RUN)
        assert len((await run_of(hypervisor)).devices) == 8
        assert {os.sched_getaffinity(int(task)) == {0} for task in os.listdir(tasks_of(hypervisor))} == {
            True,
            False,
        }
        visitor = await sockets.connect(place.folder / "qemu" / UUID, SCREEN)
        with visitor:
            async with asyncio.timeout(PATIENCE_S):
                greeting = await asyncio.get_running_loop().sock_recv(visitor, 64)
            assert greeting.startswith(b"RFB ")


async def test_the_machine_type_pc_takes_devices_too(place):
    async with place.hypervisor() as hypervisor:
        await hypervisor.create(place.creation(place.bare(machine="pc"), place.disk("root")))
        await hypervisor.resume(RUN)
        await hypervisor.plug(RUN, place.disk("more"))


async def test_what_qemu_refuses_is_said_in_its_words_and_nothing_is_left(place):
    async with place.hypervisor() as hypervisor:
        missing = place.disk("root")
        (place.folder / "root.raw").unlink()
        with pytest.raises(ManorError, match="No such file") as refused:
            await hypervisor.create(place.creation(place.bare(), missing))
        assert refused.value.kind is Kind.DENIED_STATE
        assert await run_of(hypervisor) is None


async def test_more_memory_than_there_is_is_no_capacity(place):
    spec = place.bare(memory=Memory(size_mib=1 << 27))
    async with place.hypervisor() as hypervisor:
        with pytest.raises(ManorError) as refused:
            await hypervisor.create(place.creation(spec))
        assert refused.value.kind is Kind.NO_CAPACITY


async def test_all_that_cannot_be_is_said_at_once(place):
    spec = place.bare(type="pv", boot=Boot(kernel="/nowhere"), watchdog="xen")
    async with place.hypervisor() as hypervisor:
        with pytest.raises(ManorError) as refused:
            await hypervisor.create(place.creation(spec))
    assert {one.path for one in refused.value.problems} == {"spec.type", "spec.boot.kernel", "spec.watchdog"}


def processes(place):
    """Return the processes that use a disk of this test."""
    there = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in there if str(place.folder) in " ".join(command_line(pid))]


@pytest.mark.parametrize("steps", range(0, 40, 4))
async def test_a_beginning_that_is_cancelled_leaves_nothing(place, steps):
    async with place.hypervisor() as hypervisor:
        making = asyncio.ensure_future(hypervisor.create(place.creation(place.bare(), place.disk("root"))))
        for _ in range(steps):
            await asyncio.sleep(0)
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
        assert making.cancelled()
        assert processes(place) == []
        assert (await hypervisor.look(UUID))[UUID].run is None
        left = {one.kind for one in await hypervisor.leftovers(UUID)}
        assert left <= {"note", "log", "console"}
