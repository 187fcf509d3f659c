"""What happens to a guest is noticed, at once and with the right reason."""

import os
import signal

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_lifecycle.hypervisors import Answering, Ended, EndReason, GuestState, Hung, Run
from manor_lifecycle.hypervisors.qemu.monitor import Monitor
from tests.lifecycle.hypervisors.qemu.guests import UUID, pid_of

pytestmark = pytest.mark.qemu


async def only(hypervisor):
    (domain,) = [one for one in await hypervisor.domains() if one.ours]
    return domain


async def test_the_power_button_ends_in_a_power_off(living):
    async with living() as (hypervisor, run, screen, story):
        await hypervisor.shutdown(run)
        await screen.until("POWER-BUTTON")
        assert await story.until(Ended) == Ended(run, EndReason.POWEROFF, "", kept=True)
        domain = await only(hypervisor)
        assert (domain.state, domain.ended) == (GuestState.ENDED, EndReason.POWEROFF)
        with pytest.raises(ManorError) as refused:
            await hypervisor.resume(run)
        assert refused.value.kind is Kind.DENIED_STATE


async def test_a_reboot_is_told_and_left_to_the_service(living):
    async with living() as (hypervisor, _, screen, story):
        await screen.type("reboot -f")
        assert (await story.until(Ended)).reason is EndReason.REBOOT
        assert (await only(hypervisor)).state is GuestState.ENDED


async def test_a_panic_is_a_crash_whose_memory_can_be_dumped(living, place):
    async with living() as (hypervisor, run, screen, story):
        await screen.type("echo c > /proc/sysrq-trigger")
        assert (await story.until(Ended)).reason is EndReason.CRASH
        await hypervisor.coredump(run, place.folder / "core")
        assert (place.folder / "core").stat().st_size > 100 << 20


async def test_a_killed_process_is_noticed_at_once(living):
    async with living() as (hypervisor, run, _, story):
        os.kill(pid_of(hypervisor), signal.SIGKILL)
        ended = await story.until(Ended)
        assert ended.reason is EndReason.DEVICE_MODEL
        assert "-9" in ended.detail
        assert (await only(hypervisor)).ended is EndReason.DEVICE_MODEL
        with pytest.raises(ManorError) as refused:
            await hypervisor.coredump(run, "nowhere")
        assert refused.value.kind is Kind.DENIED_STATE
        await hypervisor.destroy(run)
        assert [one for one in await hypervisor.domains() if one.ours] == []


async def test_a_silent_process_is_hung_until_it_answers_again(living):
    async with living() as (hypervisor, run, screen, story):
        os.kill(pid_of(hypervisor), signal.SIGSTOP)
        assert (await story.until(Hung)).run == run
        os.kill(pid_of(hypervisor), signal.SIGCONT)
        assert (await story.until(Answering)).run == run
        assert await screen.ask("echo here") == "here"
        assert sum(isinstance(one, Hung) for one in story.past) == 1


async def test_a_hung_guest_is_destroyed_all_the_same(place):
    async with place.hypervisor() as hypervisor:
        run = Run(UUID, 1)
        await hypervisor.create(place.creation(place.bare()))
        os.kill(pid_of(hypervisor), signal.SIGSTOP)
        await hypervisor.destroy(run)
        assert [one for one in await hypervisor.domains() if one.ours] == []


async def test_a_paused_guest_does_not_run_and_is_told_so_to_who_asks_it_to_shut_down(living):
    async with living() as (hypervisor, run, screen, _):
        await hypervisor.pause(run)
        await hypervisor.pause(run)
        assert (await only(hypervisor)).state is GuestState.PAUSED
        with pytest.raises(ManorError) as refused:
            await hypervisor.shutdown(run)
        assert refused.value.kind is Kind.DENIED_STATE
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
        domain = await only(hypervisor)
        assert (domain.state, domain.ended) == (GuestState.ENDED, reason)
