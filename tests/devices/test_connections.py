"""What may be asked about connections: repeated, stale, wrong, in every order."""

import asyncio

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_devices.backends import Target
from manor_devices.records import Remembered
from tests.devices.driving import UUID, bench, key, on_virtual_time, request
from tests.testkit import virtual


async def refusal(coroutine):
    with pytest.raises(ManorError) as caught:
        await coroutine
    return caught.value


@on_virtual_time
async def test_a_repeated_connect_answers_the_same_descriptor(tmp_path):
    async with bench(tmp_path) as made:
        first = await made.connect()
        assert await made.connect() == first
        await made.calls.connected(key(), 1)
        assert await made.connect() == first
        assert made.connection().state.value == "CONNECTED"


@on_virtual_time
async def test_two_connects_at_the_same_time_are_one(tmp_path):
    async with bench(tmp_path) as made:
        first, second = await asyncio.gather(made.connect(), made.connect())
        assert first == second
        assert made.connection().generation == 1


@on_virtual_time
async def test_the_words_of_a_front_end_may_be_repeated(tmp_path):
    async with bench(tmp_path) as made:
        await made.attach()
        await made.calls.connected(key(), 1)
        await made.calls.detach(key(), force=False)
        await made.calls.detach(key(), force=False)
        await made.calls.released(key(), 1, made.soon())
        await made.calls.released(key(), 1, made.soon())
        await made.calls.detach(key(), force=True)
        await made.calls.domain_gone(UUID, 1, made.soon())
        await made.calls.domain_gone(UUID, 1, made.soon())
        assert (made.states(), made.world.served) == ({}, {})


@on_virtual_time
async def test_words_about_an_older_generation_are_stale_and_change_nothing(tmp_path):
    async with bench(tmp_path) as made:
        await made.attach()
        await made.calls.released(key(), 1, made.soon())
        await made.attach()
        for call in (
            made.calls.connected(key(), 1),
            made.calls.refused(key(), 1, "in use", pending=False),
            made.calls.released(key(), 1, made.soon()),
        ):
            error = await refusal(call)
            assert error.kind is Kind.STALE
            assert "generation 2" in error.message
        assert made.connection().state.value == "CONNECTED"


@on_virtual_time
async def test_nobody_connects_to_a_run_that_ended_or_is_older(tmp_path):
    async with bench(tmp_path) as made:
        await made.attach(incarnation=3)
        assert (await refusal(made.connect(incarnation=2))).kind is Kind.STALE
        await made.calls.domain_gone(UUID, 3, made.soon())
        assert (await refusal(made.connect(incarnation=3))).kind is Kind.STALE
        await made.restart()
        assert (await refusal(made.connect(incarnation=3))).kind is Kind.STALE
        assert (await made.connect(incarnation=4)).generation == 1


@on_virtual_time
async def test_the_first_word_of_a_newer_run_closes_what_the_older_left(tmp_path):
    async with bench(tmp_path) as made:
        await made.attach("vda", incarnation=1)
        await made.attach("vdb", incarnation=1)
        await made.attach("vda", incarnation=2)
        assert made.states() == {("vda", 2): "CONNECTED"}
        assert list(made.world.served) == [key("vda", 2)]


@on_virtual_time
async def test_the_end_of_a_run_waits_until_everything_is_released(tmp_path):
    async with bench(tmp_path) as made:
        for device in ("vda", "vdb"):
            await made.attach(device)
        await made.calls.domain_gone(UUID, 1, made.soon())
        assert made.world.served == {}
        assert made.records.keys("connection/") == ()


@on_virtual_time
async def test_a_release_that_hangs_does_not_hold_the_caller_beyond_its_time_and_is_forgotten_later(tmp_path):
    async with bench(tmp_path) as made:
        await made.attach()
        made.world.behaviour["release"] = "hang"
        begun = made.now()
        await made.calls.domain_gone(UUID, 1, begun + 5)
        assert made.now() - begun <= 5
        made.world.behaviour.clear()
        await asyncio.sleep(100)
        assert (made.states(), made.world.served) == ({}, {})


@on_virtual_time
async def test_nobody_waits_for_an_absent_provider_and_the_device_goes_on_when_it_comes(tmp_path):
    async with bench(tmp_path) as made:
        await made.modules.unload("fake")
        begun = made.now()
        error = await refusal(made.connect(within=43))
        assert made.now() == begun
        assert error.kind is Kind.UNAVAILABLE
        assert "web/vda is WAITING for provider fake: back end fake is available" in error.message
        assert "manor backend load fake" in error.hint
        assert made.states() == {("vda", 1): "WAITING"}
        await made.modules.load("fake")
        await asyncio.sleep(1)
        assert made.states() == {("vda", 1): "READY"}
        assert (await made.connect()).generation == 1


@on_virtual_time
async def test_an_orphan_is_told_at_once_and_answers_when_its_provider_is_back(tmp_path):
    async with bench(tmp_path) as made:
        await made.attach()
        await made.modules.unload("fake", force=True)
        error = await refusal(made.connect())
        assert "web/vda is ORPHANED for provider fake" in error.message
        await made.modules.load("fake")
        assert (await made.connect()).generation == 2


class Slow:
    """Resolves the names of a device when the test says so."""

    def __init__(self, made):
        self.go, self.target = asyncio.Event(), Target("fake")
        made.calls._resolve = self.resolve

    async def resolve(self, request, deadline):
        await self.go.wait()
        return self.target


@pytest.mark.parametrize("force", [True, False])
def test_a_detach_withdraws_a_connect_that_waits(tmp_path, force):
    async def body():
        async with bench(tmp_path) as made:
            slow = Slow(made)
            waiting = asyncio.ensure_future(made.connect())
            await asyncio.sleep(1)
            await made.calls.detach(key(), force=force)
            slow.go.set()
            assert (await refusal(waiting)).kind is Kind.STALE
            assert (made.states(), made.world.served) == ({}, {})
            assert (await made.connect()).generation == 1

    virtual.run(body())


@on_virtual_time
async def test_a_run_that_ends_while_a_connect_waits_is_not_connected_afterwards(tmp_path):
    async with bench(tmp_path) as made:
        slow = Slow(made)
        waiting = asyncio.ensure_future(made.connect())
        await asyncio.sleep(1)
        await made.calls.domain_gone(UUID, 1, made.soon())
        slow.go.set()
        assert (await refusal(waiting)).kind is Kind.STALE
        assert (made.states(), made.world.served) == ({}, {})


@on_virtual_time
async def test_a_late_detach_of_an_earlier_connection_is_stale(tmp_path):
    async with bench(tmp_path) as made:
        await made.attach()
        await made.calls.released(key(), 1, made.soon())
        await made.attach()
        for force in (True, False):
            assert (await refusal(made.calls.detach(key(), 1, force=force))).kind is Kind.STALE
        assert made.connection().state.value == "CONNECTED"
        await made.calls.detach(key(), 2, force=True)
        await asyncio.sleep(1)
        assert made.world.served == {}


@on_virtual_time
async def test_a_failed_attach_leaves_nothing_that_a_later_one_takes_for_true(tmp_path):
    async with bench(tmp_path) as made:
        asked = []

        async def resolve(request, deadline):
            asked.append(request.key.id)
            return Target("fake")

        made.calls._resolve = resolve
        made.world.behaviour["prepare"] = "refuse"
        assert "told to refuse" in (await refusal(made.connect())).message
        assert made.connection().claims == ()
        made.world.behaviour.clear()
        await made.connect()
        assert asked == ["vda", "vda"]


@on_virtual_time
async def test_what_cannot_be_removed_yet_is_told_as_such_and_not_as_the_old_failure(tmp_path):
    async with bench(tmp_path) as made:
        made.world.behaviour |= {"prepare": "refuse", "release": "hang"}
        await refusal(made.connect(within=90))
        error = await refusal(made.connect(within=5))
        assert error.kind is Kind.UNAVAILABLE
        assert "what an earlier connection left is not removed yet" in error.message
        made.world.behaviour.clear()
        assert (await made.connect()).generation == 2


@on_virtual_time
async def test_a_back_end_that_could_not_be_opened_is_told_at_once(tmp_path):
    async with bench(tmp_path) as made:
        await made.modules.unload("fake")
        made.world.behaviour["observe"] = "refuse"
        with pytest.raises(ManorError):
            await made.modules.load("fake")
        begun = made.now()
        error = await refusal(made.connect())
        assert "back end fake cannot be used: back end fake was told to refuse" in error.message
        assert made.now() == begun


@on_virtual_time
async def test_a_provider_nobody_installed_is_not_found(tmp_path):
    async with bench(tmp_path) as made:
        channel = request()
        channel = type(channel)(key=channel.key, domain="web", type="channel")
        error = await refusal(made.calls.connect(channel, made.soon()))
        assert error.kind is Kind.NOT_FOUND
        assert "There are: fake" in error.hint


@on_virtual_time
async def test_other_settings_of_a_device_that_is_there_are_refused_and_change_nothing(tmp_path):
    async with bench(tmp_path) as made:
        await made.attach(source="/a")
        error = await refusal(made.connect(source="/b"))
        assert error.kind is Kind.DENIED_STATE
        assert "change its settings" in error.message
        assert made.connection().request.disk.source == "/a"
        await made.calls.released(key(), 1, made.soon())
        assert (await made.attach(source="/b")).generation == 2


@on_virtual_time
async def test_a_device_follows_the_new_name_of_its_domain(tmp_path):
    async with bench(tmp_path) as made:
        first = await made.attach()
        again = await made.calls.connect(request(domain="shop"), made.soon())
        assert again == first
        assert [status.domain for status in made.calls.listed("")] == ["shop"]


@on_virtual_time
async def test_a_refused_detach_leaves_the_device_or_waits_for_the_guest(tmp_path):
    async with bench(tmp_path) as made:
        await made.attach()
        await made.calls.detach(key(), force=False)
        error = await refusal(made.connect())
        assert "web/vda is CLOSING: attach is not possible" in error.message
        await made.calls.refused(key(), 1, "mounted", pending=True)
        await asyncio.sleep(0)
        assert made.connection().state.value == "DETACH_PENDING"
        assert (await made.connect()).generation == 1
        assert made.connection().state.value == "CONNECTED"


@on_virtual_time
async def test_a_connection_nobody_knows_is_stale_for_news_and_nothing_for_the_end(tmp_path):
    async with bench(tmp_path) as made:
        assert (await refusal(made.calls.connected(key(), 1))).kind is Kind.STALE
        assert (await refusal(made.calls.refused(key(), 1, "", pending=False))).kind is Kind.STALE
        await made.calls.released(key(), 1, made.soon())
        await made.calls.detach(key(), force=False)
        assert made.states() == {}


@on_virtual_time
async def test_connections_are_listed_by_domain_and_sorted(tmp_path):
    async with bench(tmp_path) as made:
        for uuid, domain, device in (("u2", "web", "vdb"), ("u2", "web", "vda"), ("u1", "db", "vda")):
            wanted = request(device, uuid=uuid, domain=domain)
            await made.calls.connect(wanted, made.soon())
        names = [(status.domain, status.key.id) for status in made.calls.listed("")]
        assert names == [("db", "vda"), ("web", "vda"), ("web", "vdb")]
        assert len(made.calls.listed("web")) == len(made.calls.listed("u2")) == 2
        assert made.calls.listed("nobody") == ()


@on_virtual_time
async def test_only_so_many_ended_runs_are_remembered(tmp_path):
    async with bench(tmp_path) as made:
        ended = Remembered(made.records, "ended/", 10)
        for number in range(30):
            ended.put(f"u{number}", 1)
        ended.put("u20", 2)
        assert (ended.get("u20"), ended.get("u19")) == (2, 0)
        assert sorted(made.records.keys("ended/")) == [f"ended/u{number}" for number in range(20, 30)]
        assert Remembered(made.records, "ended/", 10).get("u29") == 1
