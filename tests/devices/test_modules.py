"""Back ends that are loaded, used, refused to go, forced to go, and come back."""

import asyncio

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_devices.backends import ENTRY_POINTS
from manor_devices.backends.fake import FakeBackend
from manor_devices.modules import Installed, installed
from tests.devices.driving import bench, key, on_virtual_time


def test_the_first_set_of_back_ends_is_installed_and_says_its_version():
    found = installed()
    assert set(found) >= {"bridge", "console", "fake", "file", "nbd", "usernet"}
    assert ENTRY_POINTS == "manor.backends"
    assert all(entry.version for entry in found.values())
    assert all(callable(entry.load()) for entry in found.values())


@on_virtual_time
async def test_a_loaded_back_end_shows_what_it_is_and_who_uses_it(tmp_path):
    async with bench(tmp_path) as made:
        await made.attach()
        status = made.modules.status("fake")
        assert (status.state, status.version, status.epoch, status.in_use) == ("loaded", "1", 1, 1)
        assert status.classes == ("disk", "nic", "channel", "console")
        await made.modules.load("fake")
        assert made.modules.status("fake").epoch == 1


@on_virtual_time
async def test_one_in_use_is_not_unloaded_and_the_users_are_named(tmp_path):
    async with bench(tmp_path) as made:
        await made.attach("vda")
        await made.attach("vdb")
        with pytest.raises(ManorError, match="in use by web/vda, web/vdb") as caught:
            await made.modules.unload("fake")
        assert caught.value.kind is Kind.DENIED_STATE
        assert made.modules.status("fake").state == "loaded"
        assert set(made.states().values()) == {"CONNECTED"}


@on_virtual_time
async def test_force_orphans_its_connections_until_it_is_loaded_again(tmp_path):
    async with bench(tmp_path) as made:
        await made.attach()
        await made.modules.unload("fake", force=True)
        await asyncio.sleep(1)
        assert made.states() == {("vda", 1): "ORPHANED"}
        assert made.modules.status("fake").state == "available"
        await made.modules.load("fake")
        await asyncio.sleep(1)
        assert made.states() == {("vda", 1): "CONNECTED"}
        assert (made.connection().generation, made.connection().epoch) == (2, 2)


@on_virtual_time
async def test_what_is_loaded_survives_a_restart_and_epochs_never_go_back(tmp_path):
    async with bench(tmp_path) as made:
        await made.modules.unload("fake")
        await made.modules.load("fake")
        assert made.modules.epoch("fake") == 2
        await made.modules.unload("fake")
        await made.restart()
        assert made.modules.status("fake").state == "available"
        await made.modules.load("fake")
        assert made.modules.epoch("fake") == 3
        await made.restart()
        assert (made.modules.status("fake").state, made.modules.epoch("fake")) == ("loaded", 3)


@on_virtual_time
async def test_one_that_cannot_be_opened_is_failed_with_the_reason_and_can_be_tried_again(tmp_path):
    async with bench(tmp_path) as made:
        await made.modules.unload("fake")
        made.world.behaviour["observe"] = "refuse"
        with pytest.raises(ManorError, match="told to refuse"):
            await made.modules.load("fake")
        status = made.modules.status("fake")
        assert (status.state, status.reason) == ("failed", "back end fake was told to refuse")
        made.world.behaviour.clear()
        await made.modules.load("fake")
        assert made.modules.status("fake").state == "loaded"


@on_virtual_time
async def test_one_that_cannot_even_be_imported_fails_alone(tmp_path):
    def broken():
        raise ImportError("no module named x")

    async with bench(tmp_path) as made:
        made.modules._installed["broken"] = Installed("1", broken)
        await made.modules.configure("other", "fake", {})
        with pytest.raises(ManorError, match="ImportError: no module named x"):
            await made.modules.configure("bad", "broken", {})
        assert made.modules.status("bad").state == "failed"
        assert made.modules.status("other").state == "loaded"


@on_virtual_time
async def test_one_that_hangs_while_opening_does_not_hang_the_service(tmp_path):
    async with bench(tmp_path) as made:
        await made.stop()
        made.world.behaviour["observe"] = "hang"
        await made.start()
        assert made.modules.status("fake").state == "failed"
        made.world.behaviour.clear()


@on_virtual_time
async def test_one_that_dies_comes_back_by_itself_ever_more_slowly(tmp_path):
    async with bench(tmp_path) as made:
        for pause in (1, 2, 4):
            made.world.die()
            await asyncio.sleep(pause - 0.1)
            assert made.modules.status("fake").state == "failed"
            await asyncio.sleep(0.2)
            assert made.modules.status("fake").state == "loaded"
        assert made.modules.status("fake").epoch == 4
        await asyncio.sleep(100)
        assert made.modules.module("fake").deaths == 0


@on_virtual_time
async def test_a_death_at_any_moment_of_a_restart_is_one_loss(tmp_path):
    for moment in (0, 0.5, 1, 1.5, 2):
        async with bench(tmp_path / str(moment)) as made:
            await made.attach()
            await made.stop()

            class Slow(FakeBackend):
                async def observe(self, known):
                    seen = await super().observe(known)
                    await asyncio.sleep(1)
                    return seen

            async def slowly(work):
                await asyncio.sleep(1)
                work()

            made.factory = lambda settings, slow=Slow, made=made: slow(settings, made.world)
            asyncio.get_running_loop().call_later(moment, made.world.kill, key())
            starting = asyncio.ensure_future(made.start())
            await asyncio.sleep(0)
            made.records._run = slowly
            await starting
            await asyncio.sleep(60)
            assert (made.states(), made.connection().generation) == ({("vda", 1): "CONNECTED"}, 2)


@on_virtual_time
async def test_a_name_nobody_knows_is_not_found_and_the_known_are_listed(tmp_path):
    async with bench(tmp_path) as made:
        for call in (made.modules.load("nfs"), made.modules.unload("nfs")):
            with pytest.raises(ManorError) as caught:
                await call
            assert caught.value.kind is Kind.NOT_FOUND
            assert "There are: fake." in caught.value.hint


@on_virtual_time
async def test_a_provider_is_a_back_end_under_another_name_with_settings(tmp_path):
    async with bench(tmp_path) as made:
        await made.modules.configure("slow", "fake", {"prepare": "refuse"})
        assert made.modules.status("slow").state == "loaded"
        assert made.modules.given() == ("slow",)
        await made.restart()
        assert dict(made.modules.module("slow").values) == {"prepare": "refuse"}
        await made.modules.forget("slow")
        assert made.modules.names() == ("fake",)
        assert made.records.keys("module/slow") == ()
        with pytest.raises(ManorError, match="there is no back end 'nfs'"):
            await made.modules.configure("far", "nfs", {})


@on_virtual_time
async def test_new_settings_of_a_provider_in_use_wait_until_nothing_uses_it(tmp_path):
    async with bench(tmp_path) as made:
        await made.attach()
        await made.modules.configure("fake", "fake", {"prepare": "ok"})
        assert "new settings apply when nothing uses it" in made.modules.status("fake").reason
        await made.calls.domain_gone(made.connection().request.key.uuid, 1, made.soon())
        await made.modules.configure("fake", "fake", {"prepare": "ok"})
        assert dict(made.modules.module("fake").values) == {"prepare": "ok"}
        assert made.modules.status("fake").state == "loaded"
        await made.modules.forget("fake")
        assert dict(made.modules.module("fake").values) == {}


@on_virtual_time
async def test_one_that_is_not_installed_any_more_is_told(tmp_path):
    async with bench(tmp_path) as made:
        await made.modules.configure("slow", "fake", {})
        made.modules._installed.clear()
        await made.modules.unload("slow")
        with pytest.raises(ManorError, match="not installed any more"):
            await made.modules.load("slow")
