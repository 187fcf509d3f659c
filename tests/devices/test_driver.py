"""Connections driven over a back end that can be told to fail, hang, refuse and die."""

import asyncio
import contextlib
import errno

import pytest

from manor_bus.wire.errors import Kind, ManorError, denied_state
from manor_devices import bounds, driver
from manor_devices.backends import Leftover, Notice, Observation
from manor_devices.backends.fake import FakeBackend
from tests.devices.driving import UUID, bench, key, on_virtual_time


@on_virtual_time
async def test_a_device_goes_from_nothing_to_connected_in_the_states_of_the_design(tmp_path):
    async with bench(tmp_path) as made:
        descriptor = await made.attach()
        assert (descriptor.type, descriptor.generation, descriptor.provider) == ("fake", 1, "fake")
        states = [state for _, state, _ in made.seen]
        assert states == ["REQUESTED", "PREPARING", "READY", "CONNECTING", "CONNECTED"]
        assert key() in made.world.served


@on_virtual_time
async def test_a_back_end_that_hangs_is_given_up_after_its_deadline_and_undone(tmp_path):
    async with bench(tmp_path) as made:
        made.world.behaviour["prepare"] = "hang"
        begun = made.now()
        with pytest.raises(ManorError, match="did not answer within 40 s") as caught:
            await made.connect()
        assert caught.value.kind is Kind.TIMEOUT
        assert driver.PREPARE_S <= made.now() - begun < driver.PREPARE_S + bounds.GRACE_S
        assert made.states() == {("vda", 1): "FAILED"}
        made.world.behaviour.clear()
        assert (await made.connect()).generation == 2


@on_virtual_time
async def test_a_back_end_that_ignores_its_cancellation_is_abandoned(tmp_path):
    async with bench(tmp_path) as made:
        never = asyncio.Event()

        class Deaf(FakeBackend):
            async def prepare(self, order):
                while not never.is_set():
                    with contextlib.suppress(asyncio.CancelledError):
                        await never.wait()

        await with_back_end(made, Deaf)
        with pytest.raises(ManorError, match="did not answer"):
            await made.connect()
        await made.calls.domain_gone(UUID, 1, made.soon())
        assert made.states() == {}
        never.set()


async def with_back_end(made, made_like):
    """Serve with another kind of back end."""
    made.factory = lambda settings: made_like(settings, made.world)
    await made.modules.unload("fake")
    await made.modules.load("fake")


@on_virtual_time
async def test_what_a_failed_preparation_left_is_undone_and_undone_again_until_it_is(tmp_path):
    async with bench(tmp_path) as made:

        class Half(FakeBackend):
            async def prepare(self, order):
                await super().prepare(order)
                raise denied_state("half way")

        await with_back_end(made, Half)
        with pytest.raises(ManorError, match="half way"):
            await made.connect()
        assert made.world.served == {}
        made.world.behaviour["release"] = "refuse"
        with pytest.raises(ManorError, match="half way"):
            await made.connect()
        assert (made.states(), list(made.world.served)) == ({("vda", 1): "FAILED"}, [key()])
        made.world.behaviour.clear()
        await asyncio.sleep(60)
        assert (made.states(), made.world.served) == ({("vda", 1): "ABSENT"}, {})


@on_virtual_time
async def test_a_release_begins_when_the_cancelled_preparation_has_cleaned_up(tmp_path):
    async with bench(tmp_path) as made:
        told = []

        class Slow(FakeBackend):
            async def prepare(self, order):
                try:
                    await asyncio.sleep(30)
                finally:
                    await asyncio.sleep(2)
                    told.append("cleaned up")

            async def release(self, order):
                told.append("released")

        await with_back_end(made, Slow)
        connecting = asyncio.ensure_future(made.connect())
        await asyncio.sleep(1)
        await made.calls.domain_gone(UUID, 1, made.soon())
        await asyncio.gather(connecting, return_exceptions=True)
        assert told == ["cleaned up", "released"]


@on_virtual_time
async def test_nothing_is_prepared_before_the_intent_is_on_the_disk(tmp_path):
    async with bench(tmp_path) as made:
        written = asyncio.Event()

        async def slowly(work):
            await written.wait()
            work()

        made.records._log._run = slowly
        connecting = asyncio.ensure_future(made.connect())
        await asyncio.sleep(10)
        assert made.world.served == {}
        written.set()
        assert (await connecting).generation == 1


@on_virtual_time
async def test_a_crash_of_a_back_end_is_told_as_a_bug_and_not_as_a_hang(tmp_path):
    async with bench(tmp_path) as made:

        class Broken(FakeBackend):
            async def prepare(self, order):
                return {}["missing"]

        await with_back_end(made, Broken)
        with pytest.raises(ManorError, match="KeyError") as caught:
            await made.connect()
        assert caught.value.kind is Kind.INTERNAL


@on_virtual_time
async def test_a_refused_preparation_is_told_with_its_own_reason(tmp_path):
    async with bench(tmp_path) as made:
        with pytest.raises(ManorError, match="told to refuse") as caught:
            await made.connect(source="fake:refuse")
        assert caught.value.kind is Kind.DENIED_STATE
        assert made.connection().reason == "back end fake was told to refuse"


@on_virtual_time
async def test_a_killed_server_orphans_its_device_which_reconnects_by_itself(tmp_path):
    async with bench(tmp_path) as made:
        first = await made.attach()
        made.seen.clear()
        made.world.kill(key(), "process 7 was killed")
        assert await made.driver.until(
            made.driver.slots[UUID, 1, "vda"], frozenset({"ORPHANED"}), made.soon()
        )
        assert made.connection().reason == "process 7 was killed"
        assert await made.driver.until(
            made.driver.slots[UUID, 1, "vda"], frozenset({"CONNECTED"}), made.soon()
        )
        now = made.connection()
        assert (now.generation, now.epoch) == (2, first.provider_epoch + 1)
        assert made.world.served[key()] == (2, now.epoch)


@on_virtual_time
async def test_a_server_that_dies_again_and_again_is_restarted_ever_more_slowly_and_forgiven_later(tmp_path):
    async with bench(tmp_path) as made:
        await made.attach()
        slot = made.driver.slots[UUID, 1, "vda"]
        pauses = []
        for _ in range(4):
            made.world.kill(key())
            await made.driver.until(slot, frozenset({"ORPHANED"}), made.soon())
            begun = made.now()
            await made.driver.until(slot, frozenset({"CONNECTED"}), made.soon())
            pauses.append(round(made.now() - begun))
        assert pauses == [0, 1, 2, 4]
        await asyncio.sleep(100)
        assert made.connection().attempts == 0


@on_virtual_time
async def test_a_reconnect_that_fails_leaves_an_orphan_that_is_tried_again(tmp_path):
    async with bench(tmp_path) as made:
        await made.attach()
        slot = made.driver.slots[UUID, 1, "vda"]
        made.world.behaviour["prepare"] = "refuse"
        made.world.kill(key())
        await asyncio.sleep(20)
        assert made.states() == {("vda", 1): "ORPHANED"}
        assert "told to refuse" in made.connection().reason
        made.world.behaviour.clear()
        assert await made.driver.until(slot, frozenset({"CONNECTED"}), made.soon())
        assert made.connection().generation > 2


@on_virtual_time
async def test_the_death_of_a_whole_back_end_orphans_all_and_its_return_reconnects_all(tmp_path):
    async with bench(tmp_path) as made:
        for device in ("vda", "vdb", "vdc"):
            await made.attach(device)
        made.world.die("crashed")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert set(made.states().values()) == {"ORPHANED"}
        assert made.modules.status("fake").state == "failed"
        await asyncio.sleep(5)
        assert set(made.states().values()) == {"CONNECTED"}
        assert {made.connection(device).generation for device in ("vda", "vdb", "vdc")} == {2}


@on_virtual_time
async def test_a_resource_that_goes_away_breaks_the_device_and_is_released_in_bounded_time(tmp_path):
    async with bench(tmp_path) as made:
        await made.attach()
        made.world.take_away(key(), "pulled out")
        await asyncio.sleep(1)
        assert (made.connection().state.value, made.connection().reason) == ("BROKEN", "pulled out")
        await asyncio.sleep(60)
        assert made.states() == {("vda", 1): "ABSENT"}
        assert made.world.served == {}


@on_virtual_time
async def test_an_orphan_whose_policy_is_detach_goes_after_a_while(tmp_path):
    async with bench(tmp_path) as made:
        await made.attach(on_provider_loss="detach")
        await made.modules.unload("fake", force=True)
        await asyncio.sleep(30)
        assert made.states() == {("vda", 1): "ORPHANED"}
        await asyncio.sleep(60)
        assert made.states() == {("vda", 1): "ABSENT"}


@on_virtual_time
async def test_a_release_that_fails_is_retried_until_it_succeeds(tmp_path):
    async with bench(tmp_path) as made:
        await made.attach()
        made.world.behaviour["release"] = "refuse"
        await made.calls.released(key(), 1, made.now() + 5)
        assert made.states() == {("vda", 1): "FAILED"}
        made.world.behaviour.clear()
        await asyncio.sleep(60)
        assert made.states() == {("vda", 1): "ABSENT"}
        assert made.world.served == {}


@on_virtual_time
async def test_a_detach_while_a_preparation_hangs_does_not_wait_for_it(tmp_path):
    async with bench(tmp_path) as made:
        made.world.behaviour["prepare"] = "hang"
        connecting = asyncio.ensure_future(made.connect())
        await made.driver.until(await slot_of(made), frozenset({"PREPARING"}), made.soon())
        begun = made.now()
        await made.calls.domain_gone(UUID, 1, made.soon())
        assert made.now() - begun < 1
        with pytest.raises(ManorError, match="the run of the domain ended"):
            await connecting
        assert made.states() == {}


async def slot_of(made):
    await asyncio.sleep(0.001)
    return made.driver.slots[UUID, 1, "vda"]


@on_virtual_time
async def test_after_a_restart_everything_goes_on_as_it_was(tmp_path):
    async with bench(tmp_path) as made:
        await made.attach("vda")
        await made.connect("vdb")
        await made.attach("vdc")
        await made.calls.detach(key("vdc"), force=False)
        before = made.states()
        await made.restart()
        await asyncio.sleep(0.1)
        assert made.states() == before
        assert {(made.connection(device).generation) for device in ("vda", "vdb", "vdc")} == {1}
        assert made.modules.epoch("fake") == 1
        await made.calls.released(key("vdc"), 1, made.soon())
        assert key("vdc") not in made.world.served


@on_virtual_time
async def test_what_was_lost_while_the_service_was_down_is_made_again(tmp_path):
    async with bench(tmp_path) as made:
        await made.attach()
        await made.stop()
        del made.world.served[key()]
        await made.start()
        slot = made.driver.slots[UUID, 1, "vda"]
        await made.driver.until(slot, frozenset({"ORPHANED"}), made.soon())
        await made.driver.until(slot, frozenset({"CONNECTED"}), made.soon())
        assert made.connection().generation == 2


@on_virtual_time
async def test_a_detach_under_way_ends_even_when_its_back_end_is_not_there_after_a_restart(tmp_path):
    async with bench(tmp_path) as made:
        await made.attach()
        await made.modules.unload("fake", force=True)
        await made.calls.detach(key(), force=False)
        await made.restart()
        assert made.states() == {("vda", 1): "CLOSING"}
        await asyncio.sleep(60)
        assert made.states() == {("vda", 1): "ORPHANED"}
        await made.modules.load("fake")
        await asyncio.sleep(1)
        assert made.states() == {("vda", 1): "CONNECTED"}


@on_virtual_time
async def test_a_leftover_of_ours_that_no_record_explains_is_removed(tmp_path):
    async with bench(tmp_path) as made:
        await made.stop()
        made.world.served[key("ghost")] = (3, 1)
        await made.start()
        await asyncio.sleep(1)
        assert made.world.served == {}


@on_virtual_time
async def test_a_leftover_that_somebody_uses_or_that_is_not_ours_is_listed_and_left(tmp_path):
    async with bench(tmp_path) as made:
        used = Leftover("used", "", ours=True, used=True)
        foreign = Leftover("foreign", "", ours=False)

        class Strange(FakeBackend):
            async def observe(self, known):
                return Observation((), (used, foreign))

            async def discard(self, leftover):
                raise AssertionError(leftover)

        await with_back_end(made, Strange)
        await asyncio.sleep(1)
        assert made.leftovers == [("fake", used), ("fake", foreign)]


@on_virtual_time
async def test_a_preparation_interrupted_by_a_restart_ends_with_a_new_generation(tmp_path):
    async with bench(tmp_path) as made:
        made.world.behaviour["prepare"] = "hang"
        connecting = asyncio.ensure_future(made.connect())
        await made.driver.until(await slot_of(made), frozenset({"PREPARING"}), made.soon())
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
        made.world.behaviour.clear()
        await made.restart()
        assert (await made.connect()).generation == 2


@on_virtual_time
async def test_a_full_disk_is_told_to_the_caller_and_nothing_is_prepared(tmp_path):
    async with bench(tmp_path) as made:

        async def full(work):
            raise OSError(28, "No space left on device")

        made.records._log._run = full
        with pytest.raises(ManorError, match="No space left on device") as caught:
            await made.connect()
        assert caught.value.kind is Kind.NO_CAPACITY
        assert made.world.served == {}
        made.records._log._run = lambda work: inline_again(work)
        assert (await made.connect()).type == "fake"


async def inline_again(work):
    work()


@on_virtual_time
async def test_a_back_end_that_cannot_be_asked_after_a_restart_is_no_proof_that_it_died(tmp_path):
    async with bench(tmp_path) as made:
        await made.attach(on_provider_loss="detach")
        made.world.behaviour["observe"] = "refuse"
        await made.restart()
        await asyncio.sleep(600)
        assert made.states() == {("vda", 1): "CONNECTED"}
        assert made.modules.module("fake").state == "failed"
        made.world.behaviour.clear()
        await asyncio.sleep(120)
        assert made.modules.module("fake").state == "loaded"
        assert (made.connection().state.value, made.connection().generation) == ("CONNECTED", 1)


@on_virtual_time
async def test_what_a_back_end_holds_that_cannot_be_asked_yet_is_released_when_it_can(tmp_path):
    async with bench(tmp_path) as made:
        await made.attach()
        made.world.behaviour["observe"] = "refuse"
        await made.restart()
        await made.calls.domain_gone(UUID, 1, made.now() + 5)
        assert list(made.world.served) == [key()]
        made.world.behaviour.clear()
        await asyncio.sleep(300)
        assert (made.states(), made.world.served) == ({}, {})


@on_virtual_time
async def test_a_resource_that_does_not_answer_is_told_and_the_device_stays_connected(tmp_path):
    async with bench(tmp_path) as made:
        await made.attach()
        for what, reason in (("silent", "/mnt does not answer"), ("answers", "")):
            made.world.tell(Notice(what, reason, key(), 1, 1))
            assert made.connection().state.value == "CONNECTED"
            assert made.connection().status().reason == reason
        made.world.tell(Notice("silent", "of another generation", key(), 7, 1))
        assert made.connection().reason == ""


@on_virtual_time
async def test_what_ends_something_is_done_where_nothing_can_be_written(tmp_path):
    async with bench(tmp_path) as made:
        for device in ("vda", "vdb", "vdc"):
            await made.attach(device)
        await made.records.sync()
        full = [True]

        async def refuse(work):
            if full:
                raise OSError(errno.ENOSPC, "No space left on device")
            work()

        made.records._log._run = refuse
        await made.calls.detach(key("vda"), force=True)
        await made.calls.released(key("vdb"), 1, made.soon())
        with pytest.raises(ManorError, match="cannot be written: No space left") as caught:
            await made.connect("vdd")
        assert caught.value.kind is Kind.NO_CAPACITY
        await made.calls.domain_gone(UUID, 1, made.soon())
        assert made.world.served == {}
        full.clear()
        await made.restart()
        assert made.states() == {}
