import pytest

from manor_bus.wire.messages import config
from manor_bus.wire.messages.devices import VolumeList, VolumesListed, VolumeStatus
from manor_bus.wire.messages.documents import Metadata, Volume, VolumeSpec
from tests.cli.fake import FakeClient, run

GOLDEN = Volume(metadata=Metadata(name="golden", revision=6), spec=VolumeSpec(size_mib=2048, format="raw"))
APPLIED = config.Applied(revision=7, changes=())


def bus():
    return FakeClient(
        {config.Get: config.Got(document=GOLDEN, revision=6), config.Apply: APPLIED, config.Delete: APPLIED}
    )


def written(client):
    return client.asked[-1].documents[0]


def test_a_new_volume_must_not_exist_yet():
    client = bus()
    run(
        "volume",
        "create",
        "root",
        "--size",
        "10G",
        "--backing-file",
        "/srv/a",
        "--backing-format",
        "raw",
        client=client,
    )
    assert written(client) == {
        "kind": "Volume",
        "metadata": {"name": "root", "revision": 0},
        "spec": {"size_mib": 10_240, "backing_file": "/srv/a", "backing_format": "raw"},
    }


def test_growing_writes_the_new_size_if_nobody_else_changed_it():
    client = bus()
    run("volume", "resize", "golden", "--size", "3G", client=client)
    assert written(client)["metadata"]["revision"] == 6
    assert written(client)["spec"] == {"size_mib": 3072, "format": "raw"}


def test_a_clone_is_like_its_source():
    client = bus()
    run("volume", "clone", "golden", "web", client=client)
    assert written(client)["spec"] == {"size_mib": 2048, "format": "raw", "clone_of": "golden"}


def test_a_volume_gets_another_name_and_keeps_its_uuid():
    made = [
        config.Change(kind="Volume", name=name, uuid="u", action=action, revision=8)
        for name, action in (("golden", "deleted"), ("silver", "created"))
    ]
    client = FakeClient({config.Rename: config.Applied(revision=8, changes=tuple(made))})
    ran = run("volume", "rename", "volume/golden", "silver", "--reason", "r", "--no-wait", client=client)
    assert client.asked == [config.Rename(kind="Volume", name="golden", new_name="silver", reason="r")]
    assert ran.out == "volume/silver has a new name (revision 8), it was golden\n"


def test_deleting_names_the_document():
    client = bus()
    run("volume", "delete", "golden", "--reason", "old", client=client)
    assert client.asked == [
        config.Delete(references=(config.Reference(kind="Volume", name="golden"),), reason="old")
    ]


@pytest.mark.parametrize(
    ("word", "mib"), [("512M", 512), ("20G", 20_480), ("20GiB", 20_480), ("1T", 1_048_576)]
)
def test_sizes_are_written_as_people_do(word, mib):
    client = bus()
    run("volume", "create", "x", "--size", word, client=client)
    assert written(client)["spec"]["size_mib"] == mib


@pytest.mark.parametrize("word", ["", "512", "-1", "1.5G", "10X", "G", "1e3", "9999999999"])
def test_other_words_are_no_sizes(word):
    ran = run("volume", "create", "x", "--size", word, client=bus())
    assert ran.code == 2
    assert "is not a size" in ran.err


def test_volumes_are_listed_with_who_uses_them():
    status = VolumeStatus(name="root", uuid="u", state="ready", size_mib=2048, users=("web",))
    told = run("volume", "list", client=FakeClient({VolumeList: VolumesListed(volumes=(status,))})).out
    assert "2G" in told
    assert "web" in told


def test_several_volumes_are_deleted_in_one_transaction():
    client = bus()
    run("volume", "delete", "volume/a", "b", client=client)
    (request,) = [one for one in client.asked if isinstance(one, config.Delete)]
    assert [one.name for one in request.references] == ["a", "b"]
