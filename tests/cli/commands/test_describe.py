import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import config
from manor_bus.wire.messages.devices import DeviceList, DevicesListed, VolumeList, VolumesListed, VolumeStatus
from manor_bus.wire.messages.discovery import Find, Found
from manor_bus.wire.messages.documents import Domain, Metadata, Volume, VolumeSpec
from manor_bus.wire.messages.lifecycle import OperationList, OperationsListed, PendingChange
from tests.cli.fake import FakeClient, discovery, domain, operation, run

WEB = Domain(metadata=Metadata(name="web", revision=4))
NOBODY = config.Ranged(entries=(), revision=1)
ABSENT = ManorError(Kind.NOT_FOUND, "no such document")
ANSWERS = {
    config.Get: config.Got(document=WEB, revision=9),
    config.History: config.HistoryListed(
        entries=(config.HistoryEntry(revision=4, at=1.0, by="operator/a", reason="born", action="created"),)
    ),
    DeviceList: DevicesListed(devices=()),
    OperationList: OperationsListed(operations=(operation(),)),
}


def test_everything_about_a_domain_is_on_one_page():
    pending = (PendingChange(path="spec.machine", old="pc", new="q35"),)
    client = discovery(domain(reason="well", pending=pending, allowed=("pause", "destroy")), answers=ANSWERS)
    told = run("describe", "domain", "web", client=client).out
    for words in ("RUNNING", "pause,destroy", "spec.machine: pc -> q35", "asked for:", "op-1", "born"):
        assert words in told


def test_a_domain_that_was_never_described_is_not_found():
    client = discovery(answers={**ANSWERS, config.Get: ABSENT})
    assert run("describe", "domain", "db", client=client).code == 3


def test_a_service_that_is_not_there_leaves_out_only_its_part():
    gone = ManorError(Kind.UNAVAILABLE, "nobody serves devices.device.list now")
    ran = run("describe", "domain", "web", client=discovery(domain(), answers={**ANSWERS, DeviceList: gone}))
    assert ran.code == 0
    assert "nobody serves devices" in ran.err
    assert "op-1" in ran.out


def test_a_volume_is_described_by_document_and_state():
    volume = Volume(metadata=Metadata(name="root"), spec=VolumeSpec(size_mib=100))
    status = VolumeStatus(name="root", uuid="u", state="ready", path="/srv/root.qcow2")
    client = FakeClient(
        {
            **ANSWERS,
            config.Get: config.Got(document=volume, revision=1),
            VolumeList: VolumesListed(volumes=(status,)),
        }
    )
    told = run("describe", "volume", "root", client=client).out
    assert "/srv/root.qcow2" in told
    assert "size_mib: 100" in told


@pytest.mark.parametrize("kind", ["node", "service", "network"])
def test_what_is_neither_asked_for_nor_there_is_not_found(kind):
    client = FakeClient({**ANSWERS, config.Get: ABSENT, Find: Found(count=0), config.Range: NOBODY})
    ran = run("describe", kind, "x", client=client)
    assert ran.code == 3
    assert f"manor list {kind}" in ran.err
