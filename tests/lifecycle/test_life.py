from __future__ import annotations

from typing import Any

import pytest

from manor_bus.wire.messages.config import DocumentChanged
from manor_bus.wire.messages.devices import ConnectionState, DeviceKey, DeviceStatus
from manor_bus.wire.messages.documents import Domain, Metadata, Node, NodeSpec
from manor_bus.wire.messages.lifecycle import State
from manor_lifecycle.hypervisors import Feature, GuestState, Run
from manor_lifecycle.life import HAS_TIMES, Connection, Life, Work, document_of, lived, observed, status
from manor_lifecycle.machine import verbs
from manor_lifecycle.plan import Arguments, devices_of
from tests.lifecycle.scene import disk, spec_of


def document(revision: int = 4, **spec: Any) -> Domain:
    return Domain(metadata=Metadata(name="web", uuid="u1", revision=revision), spec=spec_of(**spec))


def life(state: State = State.DEFINED, **more: Any) -> Life:
    return Life("u1", "web", state=state, **more)


def connected(made: Life, generation: int = 2) -> Life:
    made.connections = {device.id: Connection(device, generation) for device in devices_of(made.spec)}
    return made


def device_states(made: Life) -> list[tuple[str, str, str]]:
    return [(device.id, device.type, device.state) for device in status(made, "n1").devices]


def test_what_is_wanted_is_the_documents_and_without_one_what_runs() -> None:
    running = spec_of(memory={"size_mib": 64})
    assert life(document=document(), running=running).spec.memory.size_mib == 256
    assert life(running=running).spec.memory.size_mib == 64
    assert life().spec.memory.size_mib == 256
    assert (life(document=document(7)).revision, life().revision) == (7, 0)
    assert life(incarnation=3).run == Run("u1", 3)


def test_a_device_is_shown_as_it_was_connected_and_otherwise_as_it_is_wanted() -> None:
    made = connected(life(document=document(disks=[disk("root")])))
    made.document = document(disks=[disk("root", readonly=True), disk("extra")])
    assert getattr(made.device("root"), "readonly", None) is False
    assert getattr(made.device("extra"), "id", None) == "extra"
    assert made.device("other") is None


def test_a_plan_sees_the_wanted_devices_and_the_connected_ones() -> None:
    made = connected(life(document=document(disks=[disk("root")])))
    made.document = document(disks=[disk("extra")])
    made.guest, made.saved, made.features = GuestState.RUNNING, True, frozenset({Feature.RENAME})
    seen = observed(made, keeps_running=True, expected=True)
    assert [device.id for device in seen.devices] == ["extra"]
    assert seen.connected == {"root"}
    assert (seen.guest, seen.saved, seen.documented, seen.renames_runs) == (
        GuestState.RUNNING,
        True,
        True,
        True,
    )
    assert (seen.keeps_running, seen.expected, seen.renewed) == (True, True, False)
    assert not observed(life(), keeps_running=False).documented


def test_a_run_is_recorded_with_what_a_restart_must_know_of_it() -> None:
    made = life(State.PAUSED, guest=GuestState.PAUSED, incarnation=3, born=2, paused=True, started=5.0)
    record = lived(made, "b1")
    assert (record.live, record.name, record.incarnation, record.born) == (True, "web", 3, 2)
    assert (record.paused, record.crashed, record.started, record.boot_id) == (True, False, 5.0, "b1")


def test_without_a_guest_there_is_no_run_unless_its_remains_are_kept() -> None:
    assert not lived(life(), "b1").live
    kept = lived(life(State.CRASHED, incarnation=3), "b1")
    assert (kept.live, kept.crashed, kept.incarnation) == (True, True, 3)


@pytest.mark.parametrize("state", State)
def test_every_state_says_what_is_allowed_and_only_runs_have_a_start(state: State) -> None:
    seen = status(life(state, started=5.0), "n1")
    assert seen.allowed == verbs(state)
    assert seen.started == (5.0 if state in HAS_TIMES else 0.0)


def test_sizes_are_those_of_the_run_and_otherwise_the_wanted_ones() -> None:
    made = life(document=document(cpu={"count": 4}, memory={"size_mib": 512}))
    assert (status(made, "n1").cpus, status(made, "n1").memory_mib) == (4, 512)
    made.cpus, made.memory_mib = 2, 300
    assert (status(made, "n1").cpus, status(made, "n1").memory_mib) == (2, 300)


def test_the_first_operation_is_the_one_shown_and_all_are_waited_for() -> None:
    works = [Work("op-1", "reboot", Arguments()), Work("op-2", "pause", Arguments())]
    made = life(State.RUNNING, works=works, generation=9)
    seen = status(made, "n1")
    assert (seen.operation, seen.generation, seen.node) == ("op-1", 9, "n1")
    assert [waiting.kind for waiting in made.waiting()] == ["reboot", "pause"]
    assert status(life(), "n1").operation == ""


def test_a_silent_device_model_is_the_reason_that_counts() -> None:
    made = life(State.RUNNING, reason="restarted", silent="does not answer")
    assert status(made, "n1").reason == "does not answer"
    made.silent = ""
    assert status(made, "n1").reason == "restarted"


def test_devices_are_shown_as_the_devices_service_says() -> None:
    made = connected(life(document=document(disks=[disk("root"), disk("extra")], nics=[{"id": "net"}])))
    del made.connections["extra"]
    made.views["net"] = DeviceStatus(
        key=DeviceKey(uuid="u1", incarnation=1, id="net"),
        domain="web",
        type="nic",
        state=ConnectionState.BROKEN,
        generation=3,
        provider="bridge",
        reason="the provider is gone",
    )
    assert device_states(made) == [
        ("root", "disk", "CONNECTED"),
        ("extra", "disk", "ABSENT"),
        ("net", "nic", "BROKEN"),
    ]
    root, _, net = status(made, "n1").devices
    assert root.generation == 2
    assert (net.generation, net.provider, net.reason) == (3, "bridge", "the provider is gone")


def test_a_device_that_is_not_in_the_document_any_more_is_shown_while_it_is_connected() -> None:
    made = connected(life(document=document(nics=[{"id": "net"}])))
    made.document = document()
    assert device_states(made) == [("net", "nic", "CONNECTED")]
    made.connections.clear()
    assert device_states(made) == []


def test_devices_passed_through_are_there_while_the_guest_is() -> None:
    passed: dict[str, Any] = {"pci": [{"id": "gpu", "address": "0000:01:00.0"}], "usb": [{"id": "key"}]}
    made = life(document=document(**passed))
    assert device_states(made) == [("gpu", "pci", "ABSENT"), ("key", "usb", "ABSENT")]
    made.guest = GuestState.RUNNING
    assert device_states(made) == [("gpu", "pci", "CONNECTED"), ("key", "usb", "CONNECTED")]


def test_only_domain_documents_are_taken_from_a_watch() -> None:
    assert document_of(DocumentChanged(document=document())) == document()
    node = Node(metadata=Metadata(name="n1"), spec=NodeSpec())
    assert document_of(DocumentChanged(document=node)) is None
    assert document_of(None) is None
