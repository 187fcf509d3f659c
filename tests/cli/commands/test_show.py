import yaml

from manor_bus.wire.messages import config
from manor_bus.wire.messages.devices import (
    BackendList,
    BackendsListed,
    DeviceList,
    DevicesListed,
    VolumeList,
    VolumesListed,
)
from manor_bus.wire.messages.discovery import Entry, Find, Found, FoundPart, NodeStatus
from manor_bus.wire.messages.documents import Domain, Metadata, Network
from manor_bus.wire.messages.lifecycle import PendingChange
from tests.cli.fake import FakeClient, discovery, domain, run

CONTRACT = {
    "name",
    "uuid",
    "state",
    "generation",
    "node",
    "hypervisor",
    "cpus",
    "memory_mib",
    "uptime_s",
    "pending",
}
WEB = Domain(metadata=Metadata(name="web", revision=4, labels={"tier": "web"}))
LAN = Network(metadata=Metadata(name="lan", revision=2))


def test_the_list_of_domains_has_the_fields_that_programs_rely_on():
    ran = run("list", "-o", "json", client=discovery(domain(), domain("db")))
    assert [row["name"] for row in ran.json] == ["db", "web"]
    assert all(row.keys() >= CONTRACT for row in ran.json)


def test_nodes_and_other_facts_are_asked_of_discovery():
    node = NodeStatus(name="n1", cpus=8, memory_mib=4096, hypervisors={"fake": "1"})
    part = FoundPart(entries=(Entry(fact=node, owner="x", since=1.0),))
    owned = config.Ranged(entries=(), revision=1)
    client = FakeClient({Find: Found(count=1), config.Range: owned}, {Find: [part]})
    assert "fake=1" in run("list", "nodes", client=client).out
    for kind in ("services", "providers", "resources"):
        assert run("list", kind, client=FakeClient({Find: Found(count=0)})).code == 0


def test_what_the_devices_service_knows_is_asked_of_it():
    client = FakeClient(
        {
            VolumeList: VolumesListed(volumes=()),
            DeviceList: DevicesListed(devices=()),
            BackendList: BackendsListed(backends=()),
        }
    )
    for kind in ("volumes", "devices", "backends"):
        assert run("list", kind, "-o", "json", client=client).json == []


def test_documents_can_be_listed_by_kind_too():
    client = FakeClient({config.List: config.Listed(documents=(LAN,), revision=2)})
    assert "lan" in run("list", "networks", client=client).out


def test_a_word_that_is_no_kind_is_refused():
    ran = run("list", "things", client=FakeClient())
    assert ran.code == 2
    assert "provider" in ran.err


def test_one_document_in_yaml_is_what_apply_takes():
    client = FakeClient({config.Get: config.Got(document=WEB, revision=9)})
    ran = run("get", "domain", "web", "-o", "yaml", client=client)
    assert yaml.safe_load(ran.out)["metadata"] == {"name": "web", "revision": 4, "labels": {"tier": "web"}}
    assert client.asked == [config.Get(kind="Domain", name="web")]


def test_one_document_in_json_has_every_field():
    client = FakeClient({config.Get: config.Got(document=WEB, revision=9)})
    assert run("get", "domain", "web", "-o", "json", client=client).json["spec"]["cpu"]["count"] == 1


def test_a_document_can_be_had_as_it_was():
    client = FakeClient({config.Get: config.Got(document=WEB, revision=9)})
    run("get", "domain", "web", "--revision", "2", client=client)
    assert client.asked == [config.Get(kind="Domain", name="web", revision=2)]
    assert run("get", "domain", "--revision", "2", client=client).code == 2


def test_all_pages_of_a_listing_are_read():
    pages = {
        "": config.Listed(documents=(WEB,), revision=9, more=True),
        "Domain/web": config.Listed(documents=(LAN,), revision=9),
    }
    client = FakeClient({config.List: lambda request: pages[request.after]})
    assert run("get", "-o", "name", client=client).out == "domain/web\nnetwork/lan\n"


def test_several_documents_in_yaml_are_a_stream():
    client = FakeClient({config.List: config.Listed(documents=(WEB, LAN), revision=9)})
    told = run("get", "-o", "yaml", "-l", "tier=web", client=client).out
    assert [one["kind"] for one in yaml.safe_load_all(told)] == ["Domain", "Network"]
    assert client.asked == [config.List(selector="tier=web")]


def test_the_wide_form_shows_what_waits_for_the_next_start():
    change = PendingChange(path="spec.machine", old="pc", new="q35")
    client = discovery(domain(pending=(change,)), answers={config.Get: config.Got(document=WEB, revision=9)})
    told = run("get", "domain", "web", "-o", "wide", client=client).out
    assert "RUNNING" in told
    assert "spec.machine: pc -> q35" in told


def test_documents_without_domains_do_not_ask_discovery():
    client = FakeClient({config.List: config.Listed(documents=(LAN,), revision=9)})
    assert run("get", "network", "-o", "wide", client=client).code == 0
