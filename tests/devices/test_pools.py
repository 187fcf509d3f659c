"""Volumes made, grown, cloned, kept and deleted as their documents say, with the real qemu-img."""

import asyncio
import os
import shutil

import msgspec
import pytest

from manor_bus.wire.errors import ManorError, unavailable
from manor_bus.wire.messages.documents import Metadata, Volume, VolumeSpec
from manor_devices import images, pools
from manor_devices.backends import Claim
from manor_devices.pools import Pools
from manor_devices.records import Records
from manor_devices.uses import Uses

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")


exists = os.path.exists


async def inline(work):
    work()


def document(name="root", size_mib=4, revision=1, uuid="", **fields):
    spec = VolumeSpec(size_mib=size_mib, **fields)
    return Volume(
        metadata=Metadata(name=name, uuid=uuid or f"{name}-uuid-0123", revision=revision), spec=spec
    )


class Told(Uses):
    """Who uses a volume is what the test says."""

    def __init__(self, users):
        super().__init__()
        self.users_told = users

    def of_volume(self, volume):
        """Say it."""
        return tuple((user, True) for user in self.users_told.get(volume, ()))


class Keeper:
    """Pools with users and a history of deletions that the test decides."""

    def __init__(self, folder):
        self.folder, self.users, self.deleted, self.error = folder, {}, set(), None
        self.uses = Told(self.users)
        self.changed, self.asked = asyncio.Event(), asyncio.Event()
        self.open()

    def open(self):
        self.records = Records(self.folder / "records", inline)
        self.pools = Pools(
            self.records,
            self.folder / "volumes",
            self.uses,
            self.was_deleted,
            lambda name: self.changed.set(),
        )

    async def was_deleted(self, record):
        self.asked.set()
        if self.error is not None:
            raise self.error
        return 7 if record.name in self.deleted else 0

    def apply(self, *documents):
        for one in documents:
            self.pools.document(one.metadata.name, one)

    def delete(self, name):
        self.deleted.add(name)
        self.pools.document(name, None)

    async def until(self, condition):
        async with asyncio.timeout(30):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def becomes(self, name, state, reason=""):
        def is_so():
            status = self.pools.status(name)
            return status is not None and status.state == state and reason in status.reason

        await self.until(is_so)
        return self.pools.status(name)

    async def restart(self):
        await self.close()
        self.open()

    async def close(self):
        await self.pools.close()
        await self.records.close()


@pytest.fixture
async def keeper(tmp_path):
    made = Keeper(tmp_path)
    made.pools.synced()
    yield made
    await made.close()


async def shape(path, format_="qcow2"):
    return [(layer.format, layer.size >> 20) for layer in await images.chain(path, format_)]


@pytest.mark.parametrize("format_", ["raw", "qcow2"])
async def test_a_volume_is_made_in_its_pool_and_shown(keeper, format_):
    keeper.apply(document(format=format_, pool="fast"))
    status = await keeper.becomes("root", "ready")
    assert (status.size_mib, status.format, status.revision) == (4, format_, 1)
    assert status.path == str(keeper.folder / "volumes" / "fast" / f"root-root-uui.{format_}")
    assert await shape(status.path, format_) == [(format_, 4)]
    assert os.stat(status.path).st_mode & 0o777 == 0o600
    file = keeper.pools.wanted("root")
    assert (file.path, file.state) == (status.path, "ready")


async def test_a_preallocated_volume_occupies_its_size(keeper):
    keeper.apply(document(preallocate=True))
    assert (await keeper.becomes("root", "ready")).used_mib >= 4


async def test_a_volume_grows_and_is_never_made_smaller(keeper):
    keeper.apply(document())
    await keeper.becomes("root", "ready")
    keeper.apply(document(size_mib=9, revision=2))
    await keeper.until(lambda: keeper.pools.status("root").size_mib == 9)
    status = await keeper.becomes("root", "ready")
    assert await shape(status.path) == [("qcow2", 9)]
    keeper.apply(document(size_mib=3, revision=3))
    status = await keeper.becomes("root", "ready", "is not made smaller")
    assert await shape(status.path) == [("qcow2", 9)]


async def test_a_volume_in_use_grows_when_it_is_detached(keeper):
    keeper.apply(document())
    await keeper.becomes("root", "ready")
    keeper.users["root"] = ("web/vda",)
    keeper.apply(document(size_mib=9))
    status = await keeper.becomes("root", "ready", "grows to 9 MiB when it is detached from web/vda")
    assert status.users == ("web/vda",)
    keeper.users.clear()
    keeper.pools.used("root")
    await keeper.until(lambda: keeper.pools.status("root").size_mib == 9)


async def test_a_clone_shares_its_base_which_then_may_not_go(keeper):
    keeper.apply(document("copy", 8, clone_of="base"), document("base"))
    status = await keeper.becomes("copy", "ready")
    assert await shape(status.path) == [("qcow2", 8), ("qcow2", 4)]
    assert keeper.pools.status("base").users == ("copy",)
    keeper.delete("base")
    await keeper.becomes("base", "deleting", "no longer used by copy")
    keeper.delete("copy")
    await keeper.until(lambda: keeper.pools.statuses() == ())
    assert not exists(status.path)


async def test_a_raw_clone_is_a_copy_of_its_own(keeper):
    keeper.apply(document("base"), document("copy", 8, clone_of="base", format="raw"))
    status = await keeper.becomes("copy", "ready")
    assert await shape(status.path, "raw") == [("raw", 8)]
    assert keeper.pools.status("base").users == ()


async def test_a_clone_waits_while_its_base_is_being_written(keeper):
    keeper.apply(document("base"))
    await keeper.becomes("base", "ready")
    keeper.users["base"] = ("web/vda",)
    keeper.apply(document("copy", clone_of="base"))
    await keeper.becomes("copy", "creating", "is written by web/vda")
    keeper.users.clear()
    keeper.pools.used("base")
    await keeper.becomes("copy", "ready")


async def test_a_volume_may_start_from_an_image_of_the_node(keeper, tmp_path):
    await images.create(tmp_path / "cloud.img", "raw", 2)
    keeper.apply(document(backing_file=str(tmp_path / "cloud.img"), backing_format="raw"))
    assert await shape((await keeper.becomes("root", "ready")).path) == [("qcow2", 4), ("raw", 2)]
    keeper.apply(document("other", backing_file=str(tmp_path / "gone.img"), backing_format="raw"))
    await keeper.becomes("other", "failed", "there is no file")


async def test_a_volume_in_use_is_deleted_when_it_is_released(keeper):
    keeper.apply(document())
    path = (await keeper.becomes("root", "ready")).path
    keeper.users["root"] = ("web/vda",)
    keeper.delete("root")
    await keeper.becomes("root", "deleting", "web/vda")
    assert exists(path)
    keeper.users.clear()
    keeper.pools.used("root")
    await keeper.until(lambda: keeper.pools.status("root") is None)
    assert not exists(path)


async def test_a_kept_volume_leaves_its_file(keeper):
    keeper.apply(document(keep=True))
    path = (await keeper.becomes("root", "ready")).path
    keeper.delete("root")
    await keeper.until(lambda: keeper.pools.status("root") is None)
    assert exists(path)
    assert keeper.records.keys("volume/") == ()


async def test_a_store_that_forgot_a_document_does_not_cost_the_file(keeper):
    keeper.apply(document())
    path = (await keeper.becomes("root", "ready")).path
    keeper.pools.document("root", None)
    await keeper.becomes("root", "failed", "gone but was never deleted")
    assert exists(path)
    keeper.apply(document())
    await keeper.becomes("root", "ready")


async def test_a_deletion_that_cannot_be_proven_now_is_asked_for_again(keeper, monkeypatch):
    monkeypatch.setattr(pools, "RETRY_S", 0.05)
    keeper.apply(document())
    path = (await keeper.becomes("root", "ready")).path
    keeper.error = unavailable("config is away", delivered=False)
    keeper.delete("root")
    for _ in range(2):
        await asyncio.wait_for(keeper.asked.wait(), 10)
        assert exists(path)
        keeper.asked.clear()
    keeper.error = None
    await keeper.until(lambda: keeper.pools.status("root") is None)
    assert not exists(path)


async def test_what_was_deleted_while_the_service_was_down_goes_after_the_documents_were_seen(keeper):
    keeper.apply(document("one"), document("two"))
    path = (await keeper.becomes("one", "ready")).path
    await keeper.becomes("two", "ready")
    await keeper.restart()
    keeper.deleted.add("one")
    keeper.apply(document("two"))
    await keeper.becomes("two", "ready")
    assert exists(path)
    keeper.pools.synced()
    await keeper.until(lambda: not exists(path))
    assert await keeper.becomes("two", "ready")


async def test_a_name_used_again_is_another_volume(keeper):
    keeper.apply(document(uuid="aaaaaaaa-1"))
    first = (await keeper.becomes("root", "ready")).path
    keeper.delete("root")
    keeper.apply(document(uuid="bbbbbbbb-2"))
    await keeper.until(lambda: not exists(first))
    status = await keeper.becomes("root", "ready")
    assert status.uuid == "bbbbbbbb-2"
    assert exists(status.path)


async def test_a_file_half_made_is_made_again_and_leaves_nothing(keeper, monkeypatch):
    async def fails(*_, **__):
        raise ManorError(unavailable("x", delivered=True).kind, "the disk is full")

    monkeypatch.setattr(images, "create", fails)
    keeper.apply(document())
    await keeper.becomes("root", "failed", "the disk is full")
    assert os.listdir(keeper.folder / "volumes" / "default") == []
    monkeypatch.undo()
    keeper.apply(document(revision=2))
    await keeper.becomes("root", "ready")
    assert len(os.listdir(keeper.folder / "volumes" / "default")) == 1


async def test_what_the_document_asks_in_vain_is_told(keeper):
    keeper.apply(document(pool="../../etc"))
    await keeper.becomes("root", "failed", "pool '../../etc' must be")
    keeper.apply(document(revision=2))
    await keeper.becomes("root", "ready")
    keeper.apply(document(format="raw", revision=3))
    await keeper.becomes("root", "ready", "format cannot change")


async def test_a_file_that_vanished_is_told_and_not_made_anew_empty(keeper):
    keeper.apply(document())
    status = await keeper.becomes("root", "ready")
    os.unlink(status.path)
    keeper.pools.used("root")
    await keeper.becomes("root", "failed", "is gone")
    assert not exists(status.path)


async def test_records_survive_with_what_cannot_change(keeper):
    keeper.apply(document(keep=True, pool="p"))
    await keeper.becomes("root", "ready")
    await keeper.restart()
    stored = keeper.records.get(keeper.records.keys("volume/")[0], pools.VolumeRecord)
    assert (stored.made, stored.size_mib, stored.spec.pool, stored.spec.keep) == (True, 4, "p", True)
    assert msgspec.json.encode(stored)


async def test_users_of_a_volume_include_clones_of_clones(keeper):
    keeper.apply(document("base"), document("copy", clone_of="base"), document("leaf", clone_of="copy"))
    await keeper.becomes("leaf", "ready")
    keeper.pools.used("base")
    await keeper.until(lambda: keeper.pools.status("base").users == ("copy", "leaf"))


async def test_a_volume_under_another_name_is_the_same_one_with_its_file_and_its_clones(keeper):
    keeper.apply(document("base"), document("copy", clone_of="base"))
    await keeper.becomes("copy", "ready")
    path = keeper.pools.status("base").path
    for opened in range(2):
        keeper.pools.document("base", None)
        keeper.apply(
            document("golden", uuid="base-uuid-0123", revision=2),
            document("copy", clone_of="golden", revision=2),
        )
        await keeper.becomes("golden", "ready")
        await keeper.until(lambda: keeper.pools.status("base") is None)
        await keeper.until(lambda: keeper.pools.status("golden").users == ("copy",))
        assert (await keeper.becomes("golden", "ready")).path == path
        await keeper.becomes("copy", "ready")
        await keeper.until(lambda: keeper.pools.status("copy").revision == 2)
        assert (await keeper.becomes("copy", "ready")).reason == ""
        if not opened:
            await keeper.restart()
    keeper.delete("golden")
    await keeper.becomes("golden", "deleting", "no longer used by copy")


async def test_what_a_volume_stands_on_is_claimed_by_whatever_name_it_is_written(keeper):
    keeper.apply(document("base"), document("copy", clone_of="base"))
    below = await keeper.becomes("copy", "ready")
    base = keeper.pools.status("base").path
    for _ in range(2):
        path, identity = images.identify(base)
        clash = keeper.uses.clash("web", (Claim(identity, path, write=True),))
        assert clash.reason == f"{base} may only be read: volume copy stands on it"
        assert keeper.uses.clash("web", (Claim(identity, path, write=False),)) is None
        await keeper.restart()
        await keeper.pools.start()
    assert below.path != base


async def test_a_clone_is_not_made_of_a_file_that_somebody_writes(keeper):
    keeper.apply(document("base"))
    base = (await keeper.becomes("base", "ready")).path
    path, identity = images.identify(base)
    keeper.uses.claim("web", "web/vda", (Claim(identity, path, write=True),))
    keeper.apply(document("copy", clone_of="base"))
    await keeper.becomes("copy", "failed", f"{base} is being written by web/vda")
    assert keeper.uses.clash("web", (Claim(identity, path, write=True),)) is None


async def test_a_moved_state_directory_takes_its_volumes_and_clones_with_it_and_is_told(keeper, caplog):
    await keeper.pools.start()
    before = keeper.folder / "volumes"
    keeper.apply(document("base"), document("copy", 8, clone_of="base"))
    await keeper.becomes("copy", "ready")
    await keeper.close()
    moved = keeper.folder / "elsewhere"
    os.makedirs(moved)
    for name in ("records", "volumes"):
        os.rename(keeper.folder / name, moved / name)
    keeper.folder = moved
    keeper.open()
    await keeper.pools.start()
    assert f"from {before} to {moved / 'volumes'}" in caplog.text
    keeper.apply(document("base"), document("copy", 8, clone_of="base"))
    status = await keeper.becomes("copy", "ready")
    assert [layer.path for layer in await images.chain(status.path, "qcow2")] == [
        status.path,
        keeper.pools.status("base").path,
    ]
    assert status.path.startswith(str(moved))


async def test_domains_users_may_pass_the_folders_of_volumes_whatever_the_umask_is(keeper):
    before = os.umask(0o077)
    try:
        keeper.apply(document(pool="fast"))
        status = await keeper.becomes("root", "ready")
    finally:
        os.umask(before)
    for folder in (os.path.dirname(status.path), keeper.folder / "volumes"):
        assert os.stat(folder).st_mode & 0o777 == 0o711


async def test_a_wish_that_comes_back_does_not_bring_the_content_back(keeper):
    keeper.apply(document())
    path = (await keeper.becomes("root", "ready")).path
    keeper.delete("root")
    await keeper.until(lambda: keeper.pools.status("root") is None)
    for _ in range(2):
        keeper.apply(document(revision=9))
        await keeper.becomes("root", "failed", "its content was deleted in revision 7")
        assert not exists(path)
        await keeper.restart()
    keeper.apply(document(uuid="another-uuid"))
    assert exists((await keeper.becomes("root", "ready")).path)


async def test_a_kept_file_is_taken_again_with_its_content_when_its_document_comes_back(keeper):
    keeper.apply(document(keep=True))
    path = (await keeper.becomes("root", "ready")).path
    await images.grow(path, "qcow2", 6)
    inode = os.stat(path).st_ino
    keeper.delete("root")
    await keeper.until(lambda: keeper.pools.status("root") is None)
    keeper.apply(document(keep=True))
    assert (await keeper.becomes("root", "ready")).size_mib == 6
    assert os.stat(path).st_ino == inode


async def test_a_clone_whose_base_went_and_a_truncated_volume_are_not_ready(keeper):
    keeper.apply(document("base"), document("copy", clone_of="base"), document("raw", format="raw"))
    await keeper.becomes("copy", "ready")
    os.truncate((await keeper.becomes("raw", "ready")).path, 4096)
    os.unlink(keeper.pools.status("base").path)
    for name in ("base", "copy", "raw"):
        keeper.pools.used(name)
    await keeper.becomes("copy", "failed", "what it stands on is gone")
    await keeper.becomes("base", "failed", "is gone")
    await keeper.becomes("raw", "failed", "was truncated: 4096 bytes are left")


async def test_a_clone_of_a_volume_without_a_document_says_so(keeper):
    keeper.apply(document("copy", clone_of="base"))
    await keeper.becomes("copy", "creating", "of which there is no document")
