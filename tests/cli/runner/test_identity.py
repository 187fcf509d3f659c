import json
import shutil

import msgspec
import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_cli.runner import identity
from manor_cli.runner.identity import Known, Verdict, judge

AT = Known("a" * 32, "m1", 5, 100, "/srv/manor")


@pytest.mark.parametrize(
    ("here", "original", "verdict"),
    [
        ({}, False, Verdict.SAME),
        ({"device": 6}, False, Verdict.SAME),  # devices are numbered anew at each boot
        ({"machine": ""}, False, Verdict.SAME),
        ({"path": "/new"}, False, Verdict.MOVED),
        ({"path": "/new", "device": 6, "inode": 7}, False, Verdict.MOVED),  # to another file system
        ({"path": "/new", "inode": 7}, True, Verdict.COPY),
        ({"path": "/new", "device": 6}, True, Verdict.COPY),  # a snapshot that is mounted beside
        ({"inode": 7}, False, Verdict.COPY),  # a backup in its place
        ({"machine": "m2"}, False, Verdict.COPY),
    ],
)
def test_what_a_directory_is(here, original, verdict):
    assert judge(AT, msgspec.structs.replace(AT, **here), original=original) is verdict


@pytest.fixture
def node(tmp_path):
    made = tmp_path / "node"
    made.mkdir()
    assert "created identity" in identity.establish(made)[0]
    assert identity.establish(made) == []
    return made


def test_the_identity_is_where_services_read_it(node):
    assert len(json.loads((node / "node.json").read_text())["id"]) == 32


def test_a_moved_directory_goes_on_and_says_so_once(node, tmp_path):
    before = identity.read(node).id
    moved = node.rename(tmp_path / "moved")
    assert identity.establish(moved) == [f"the state directory was {node} and is {moved} now"]
    assert identity.establish(moved) == []
    assert identity.read(moved).id == before


def test_another_way_to_the_same_directory_is_no_move(node, tmp_path):
    (tmp_path / "link").symlink_to(node)
    assert identity.establish(tmp_path / "link") == []


def copied(node, name):
    (node / "lifecycle" / "qemu" / "u").mkdir(parents=True)
    (node / "lifecycle" / "qemu" / "u" / "record.json").write_text("{}")
    (node / "lifecycle" / "qemu" / "u" / "note.json").write_text("{}")
    (node / "devices").mkdir()
    (node / "devices" / "records").write_text("x")
    copy = node.parent / name
    shutil.copytree(node, copy)
    return copy


def test_a_copy_is_refused_until_it_is_adopted_and_forgets_the_runs_of_the_original(node):
    copy, before = copied(node, "copy"), identity.read(node)
    with pytest.raises(ManorError, match=f"is a copy: this node was at {node}") as caught:
        identity.establish(copy)
    assert caught.value.kind is Kind.CONFLICT
    assert "--adopt-copy" in caught.value.hint
    assert "forgotten" in identity.establish(copy, adopt=True)[0]
    assert identity.establish(copy) == []
    assert identity.read(copy).id != before.id
    assert [path.name for path in copy.rglob("*") if path.is_file()] == ["node.json", "note.json"]
    assert identity.read(node) == before
    assert (node / "lifecycle" / "qemu" / "u" / "record.json").exists()


def test_a_backup_in_the_place_of_the_original_is_a_copy(node):
    copy = copied(node, "copy")
    node.rename(node.parent / "old")
    copy.rename(node)
    with pytest.raises(ManorError, match="is a copy"):
        identity.establish(node)


def test_what_is_no_copy_is_not_adopted(node, tmp_path):
    for directory in (node, tmp_path):
        with pytest.raises(ManorError, match="nothing to adopt"):
            identity.establish(directory, adopt=True)


@pytest.mark.parametrize("lost", ["", "{", "[]", '{"id": 5}'])
def test_a_lost_identity_is_that_of_the_guests_or_a_new_one(node, monkeypatch, lost):
    (node / "node.json").write_text(lost)
    guest = identity.present.Identity(7, 1, "")
    monkeypatch.setattr(identity.present, "guests", lambda _: [guest])
    monkeypatch.setattr(identity.processes, "environment", lambda _: {"MANOR_STATE_ID": "b" * 32})
    assert identity.establish(node) == [f"created identity {'b' * 32}"]
