import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import config
from manor_bus.wire.messages.devices import DeviceList, DevicesListed
from manor_bus.wire.messages.documents import Disk, Domain, DomainSpec, Metadata, Nic
from manor_bus.wire.messages.lifecycle import DomainUnplug
from manor_cli.commands import device
from tests.cli.fake import FakeClient, operation, run

WEB = Domain(
    metadata=Metadata(name="web", revision=4),
    spec=DomainSpec(disks=(Disk(id="root", source="/srv/a"),), nics=(Nic(id="lan"),)),
)
APPLIED = config.Applied(
    revision=5, changes=(config.Change(kind="Domain", name="web", uuid="u", action="changed", revision=5),)
)


def bus():
    return FakeClient({config.Get: config.Got(document=WEB, revision=4), config.Apply: APPLIED})


def written(client):
    (apply,) = (one for one in client.asked if isinstance(one, config.Apply))
    return apply.documents[0]


def test_attaching_writes_the_device_into_the_document_if_nobody_else_changed_it():
    client = bus()
    ran = run(
        "device",
        "attach",
        "web",
        "disk",
        "id=more",
        "volume=v",
        "boot=2",
        "readonly=true",
        "--no-wait",
        client=client,
    )
    assert ran.code == 0, ran.err
    document = written(client)
    assert document["metadata"]["revision"] == 4
    assert list(document["spec"]["disks"]) == [
        {"id": "root", "source": "/srv/a"},
        {"id": "more", "volume": "v", "boot": 2, "readonly": True},
    ]


def test_a_second_device_of_the_same_id_is_refused():
    ran = run("device", "attach", "web", "nic", "id=root", client=bus())
    assert ran.code == 4
    assert "has a device root already" in ran.err


@pytest.mark.parametrize(
    "words", [["id=a", "colour=red"], ["id"], ["id=a", "format=vhd"], ["id=a", "iops=many"], ["source=x"]]
)
def test_words_that_do_not_describe_a_disk_are_refused(words):
    ran = run("device", "attach", "web", "disk", *words, client=bus())
    assert ran.code == 2


def test_addresses_of_a_network_card_are_a_list():
    assert device.described("nic", ["id=a", "ip=10.0.0.1,10.0.0.2"]).ip == ("10.0.0.1", "10.0.0.2")


def test_detaching_takes_it_out_of_the_document():
    client = bus()
    run("device", "detach", "web", "lan", "--no-wait", client=client)
    assert "nics" not in written(client)["spec"]
    assert written(client)["spec"]["disks"]


def test_a_device_that_the_guest_did_not_let_go_is_asked_for_again():
    client = FakeClient(
        {config.Get: config.Got(document=WEB, revision=4), DomainUnplug: operation(kind="unplug")}
    )
    run("device", "detach", "web", "old", client=client)
    assert client.asked[-1] == DomainUnplug(name="web", device="old")


def test_force_takes_it_out_and_does_not_ask_the_guest():
    client = FakeClient(
        {
            config.Get: config.Got(document=WEB, revision=4),
            config.Apply: APPLIED,
            DomainUnplug: operation(kind="unplug"),
        }
    )
    assert run("device", "detach", "web", "lan", "--force", client=client).code == 0
    assert client.asked[-1] == DomainUnplug(name="web", device="lan", force=True)


def test_somebody_who_was_faster_is_told_of():
    client = bus()
    client.answers = {**client.answers, config.Apply: ManorError(Kind.CONFLICT, "revision is 5")}
    ran = run("device", "detach", "web", "lan", client=client)
    assert ran.code == 4
    assert "repeat the command" in ran.err


def test_connections_are_listed():
    client = FakeClient({DeviceList: DevicesListed(devices=())})
    assert run("device", "list", "web", "-o", "json", client=client).json == []
    assert client.asked == [DeviceList(domain="web")]
