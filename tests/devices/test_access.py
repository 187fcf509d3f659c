"""Files made usable for a domain's user."""

import os
import stat

import pytest

from manor_bus.wire.errors import ManorError
from manor_devices import access

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: acts for other users")
UID = 54321


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def image(tmp_path):
    os.chmod(tmp_path, 0o711)
    path = tmp_path / "image"
    path.write_bytes(b"x")
    path.chmod(0o600)
    for folder in path.parents:
        if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 1:
            folder.chmod(0o711)
    return path


def test_a_list_is_what_was_encoded():
    entries = access.changed(access.minimal(0o640), UID, 6)
    assert access.decode(access.encode(entries)) == sorted(entries)
    assert (access.MASK, 6, access.NO_ID) in entries
    assert sorted(access.changed(entries, UID, 0)) == sorted(access.minimal(0o640))


def test_the_entry_of_another_user_stays():
    both = access.changed(access.changed(access.minimal(0o600), 1, 4), 2, 6)
    assert [entry for entry in access.changed(both, 2, 0) if entry[0] == access.USER] == [(access.USER, 4, 1)]


@root
async def test_a_user_may_write_until_it_is_taken_back_and_the_mode_is_as_before(image):
    await access.grant(str(image), UID, write=True)
    assert await access._may(str(image), UID, write=True)
    await access.revoke(str(image), UID)
    assert not await access._may(str(image), UID, write=False)
    assert mode(image) == 0o600
    assert "system.posix_acl_access" not in os.listxattr(image)


@root
async def test_to_read_is_not_to_write_and_two_users_do_not_disturb_each_other(image):
    await access.grant(str(image), UID, write=False)
    await access.grant(str(image), UID + 1, write=True)
    assert not await access._may(str(image), UID, write=True)
    await access.revoke(str(image), UID + 1)
    assert await access._may(str(image), UID, write=False)


@root
async def test_what_everybody_may_read_is_left_alone(image):
    image.chmod(0o644)
    await access.grant(str(image), UID, write=False)
    assert "system.posix_acl_access" not in os.listxattr(image)


@root
async def test_a_closed_folder_on_the_way_is_named(image):
    image.parent.chmod(0o700)
    with pytest.raises(ManorError, match=f"user {UID} cannot write") as caught:
        await access.grant(str(image), UID, write=True)
    assert f"chmod o+x {image.parent}" in caught.value.hint


@root
async def test_taking_back_from_a_file_that_is_gone_is_harmless(tmp_path):
    await access.revoke(str(tmp_path / "gone"), UID)
