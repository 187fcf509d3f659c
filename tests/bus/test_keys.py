import errno
import json
import os
import re
from pathlib import Path

import pytest

from manor_bus import keys
from manor_bus.wire.errors import Kind, ManorError

PUBLIC = "a" * 40  # the names of tests are the same in every process that collects them


@pytest.fixture
def folder(tmp_path):
    keys.create(tmp_path / "keys")
    return tmp_path / "keys"


def refused(action, *arguments):
    with pytest.raises(ManorError) as caught:
        action(*arguments)
    return caught.value


def test_a_new_node_gets_keys_that_only_its_owner_can_read(folder):
    assert folder.stat().st_mode & 0o777 == 0o700
    for path in folder.glob("*.key"):
        assert path.stat().st_mode & 0o777 == 0o600, path
    assert (folder / "broker.pub").read_text().strip() == keys.load(folder / "broker.key").public
    assert set(keys.authorised(folder).values()) == {
        "operator/admin",
        *(f"service/{name}" for name in keys.SERVICES),
    }


def test_creating_again_keeps_what_is_there(folder):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert keys.create(folder) == ()
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("lost", [None, "", "{", "[]"])
def test_what_follows_from_the_keys_is_made_anew(folder, lost):
    keys.add(folder, "operator/alice")
    before = keys.authorised(folder)
    for name in ("authorised.json", "broker.pub"):
        (folder / name).unlink() if lost is None else (folder / name).write_text(lost)
    assert keys.create(folder) == ("broker.pub from the broker's key", "authorised.json from the keys")
    assert keys.authorised(folder) == before
    assert keys.load_public(folder / "broker.pub") == keys.load(folder / "broker.key").public
    assert (folder / "broker.pub").stat().st_mode & 0o777 == 0o644
    assert keys.create(folder) == ()


@pytest.mark.parametrize("lost", [None, "", "{}"])
@pytest.mark.parametrize("name", ["broker", "service/config", "operator/admin"])
def test_a_key_that_is_lost_is_made_anew_and_the_others_stay(folder, name, lost):
    path = keys.key_file(folder, name)
    others = {one: one.read_bytes() for one in folder.glob("*.key") if one != path}
    old = keys.load(path).public
    if lost is None and name == "operator/admin":
        keys.revoke(folder, name)
    else:
        path.unlink() if lost is None else path.write_text(lost)
    assert keys.create(folder) == (f"key of {name}",)
    fresh = keys.load(path).public
    assert {one: one.read_bytes() for one in others} == others
    table = keys.authorised(folder)
    assert old not in table
    assert table.get(fresh, "broker") == name
    assert keys.load_public(folder / "broker.pub") == keys.load(folder / "broker.key").public


def test_a_service_whose_rotation_was_cut_off_gets_in_with_its_file(folder):
    table = keys.authorised(folder)
    keys.rotate(folder, "service/config")
    (folder / "authorised.json").write_text(json.dumps(table))
    keys.create(folder)
    assert keys.authorised(folder)[keys.load(folder / "service-config.key").public] == "service/config"


def test_who_was_revoked_or_has_a_key_of_their_own_is_left_alone(folder):
    keys.add(folder, "operator/alice", PUBLIC)
    secret = (folder / "operator-admin.key").read_text()
    keys.revoke(folder, "operator/admin")
    (folder / "observer-eye.key").write_text(secret)  # as if it was cut off before the secret was removed
    (folder / "observer-eye.key").chmod(0o600)
    assert keys.create(folder) == ()
    assert not {"operator/admin", "observer/eye"} & set(keys.authorised(folder).values())


def test_a_disk_that_does_not_answer_is_told(folder, monkeypatch):
    def stale(*_, **__):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(Path, "open", stale)
    error = refused(keys.load, folder / "broker.key")
    assert error.kind is Kind.UNAVAILABLE
    assert "dmesg" in error.hint


def test_a_principal_is_added_with_a_key_of_its_own_or_the_one_it_has(folder):
    path = keys.add(folder, "observer/eye")
    assert path is not None
    assert keys.authorised(folder)[keys.load(path).public] == "observer/eye"
    assert keys.add(folder, "operator/alice", PUBLIC) is None
    assert keys.authorised(folder)[PUBLIC] == "operator/alice"
    assert not (folder / "operator-alice.key").exists()


def test_a_name_that_is_taken_is_refused(folder):
    assert refused(keys.add, folder, "operator/admin").kind is Kind.CONFLICT


def test_rotating_replaces_the_key(folder):
    before = keys.load(folder / "operator-admin.key").public
    keys.rotate(folder, "operator/admin")
    after = keys.load(folder / "operator-admin.key").public
    table = keys.authorised(folder)
    assert before not in table
    assert table[after] == "operator/admin"
    assert refused(keys.rotate, folder, "operator/nobody").kind is Kind.NOT_FOUND


def test_revoking_removes_the_key_and_its_secret(folder):
    public = keys.load(folder / "operator-admin.key").public
    keys.revoke(folder, "operator/admin")
    assert public not in keys.authorised(folder)
    assert not (folder / "operator-admin.key").exists()
    assert refused(keys.revoke, folder, "operator/admin").kind is Kind.NOT_FOUND


@pytest.mark.parametrize(
    "name",
    ["", "admin", "operator/", "operator/A", "operator/../x", "guest/x", "operator/a/b", "operator/-a",
     "operator/" + "a" * 64, "operator/a\n"],
)  # fmt: skip
def test_a_name_that_is_no_principal_is_refused(folder, name):
    for action in (keys.add, keys.rotate, keys.revoke):
        error = refused(action, folder, name)
        assert (error.kind, error.problems[0].path) == (Kind.BAD_REQUEST, "principal")


@pytest.mark.parametrize("public", ["x", "a" * 39, "a" * 41, "ä" * 40, "a" * 39 + " ", "a" * 40 + "\n"])
def test_a_key_that_is_none_is_refused(folder, public):
    assert refused(keys.add, folder, "operator/bob", public).problems[0].path == "public_key"


def test_a_key_file_that_others_may_read_is_refused(folder):
    path = folder / "operator-admin.key"
    path.chmod(0o640)
    error = refused(keys.load, path)
    assert error.kind is Kind.FORBIDDEN
    assert error.hint == f"chmod 600 {path}"


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "{}", '{"public": "x", "secret": "y"}', "5", "\\x00"])
def test_a_damaged_key_file_is_refused(folder, text):
    path = folder / "operator-admin.key"
    path.write_text(text)
    assert refused(keys.load, path).kind is Kind.BAD_REQUEST


def test_a_missing_key_says_how_to_make_one(tmp_path):
    error = refused(keys.load, tmp_path / "none.key")
    assert (error.kind, error.delivered) == (Kind.UNAVAILABLE, False)
    assert "manor init" in error.hint


@pytest.mark.parametrize("text", ["nonsense", "[]", '{"short": "operator/a"}', json.dumps({PUBLIC: 5}),
                                  json.dumps({PUBLIC: "root"})])  # fmt: skip
def test_a_damaged_table_is_refused_and_never_taken_as_empty(folder, text):
    (folder / "authorised.json").write_text(text)
    assert refused(keys.authorised, folder).kind is Kind.BAD_REQUEST


def test_without_a_table_nobody_is_authorised(tmp_path):
    assert keys.authorised(tmp_path) == {}


def test_a_file_is_replaced_in_one_step_and_follows_no_link(folder, tmp_path):
    target = tmp_path / "victim"
    target.write_text("untouched")
    (folder / ".authorised.json.new").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        keys.add(folder, "operator/bob")
    assert target.read_text() == "untouched"
    assert "operator/bob" not in keys.authorised(folder).values()


@pytest.mark.parametrize("principal", ["service/config", "service/devices", "node/n1"])
def test_a_document_may_not_grant_what_only_the_folder_names(principal):
    assert refused(keys.check_grant, PUBLIC, principal).problems[0].path == "principal"


@pytest.mark.parametrize("principal", ["operator/bob", "observer/eye", "service/backup"])
def test_a_document_may_grant_the_rest(principal):
    keys.check_grant(PUBLIC, principal)


def test_keys_are_z85_of_forty_characters():
    pair = keys.generate()
    for half in (pair.public, pair.secret):
        assert re.fullmatch(r"\S{40}", half)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files that are root's: run as root")
def test_what_systemd_hands_over_by_an_access_list_is_taken_and_nothing_else_of_the_group(tmp_path):
    keys.create(tmp_path)
    path = tmp_path / "broker.key"
    path.chmod(0o440)
    assert keys.load(path).secret
    for mode, gid in ((0o640, 0), (0o444, 0), (0o440, 7)):
        os.chown(path, 0, gid)
        path.chmod(mode)
        refused(keys.load, path)
