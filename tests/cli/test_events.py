import msgspec
import pytest

from manor_bus.peer.events import Change
from manor_bus.wire import codec
from manor_bus.wire.envelope import Envelope, Kind
from manor_bus.wire.errors import ErrorBody
from manor_bus.wire.errors import Kind as ErrorKind
from manor_bus.wire.messages import documents
from manor_bus.wire.messages.bus import ServiceStatus
from manor_bus.wire.messages.config import DocumentChanged
from manor_bus.wire.messages.consoles import ConsoleOutput
from manor_bus.wire.messages.devices import ConnectionState, DeviceKey, DeviceStatus, VolumeStatus
from manor_bus.wire.messages.lifecycle import DomainStart, NodeStatus, OperationState
from manor_cli import events
from tests.cli.fake import NOW, domain, operation

WEB = Change("domain.u1", domain(reason="fine"), "service/lifecycle@n1/1", "e1", 4)


def raw(message):
    return msgspec.Raw(codec.encode(message))


def test_a_change_has_cloudevents_names():
    told = events.cloud(WEB, NOW)
    assert told["specversion"] == "1.0"
    assert told["id"] == "e1/4"
    assert told["source"] == "service/lifecycle@n1/1"
    assert told["type"] == "lifecycle.domain.v1"
    assert told["subject"] == "domain.u1"
    assert told["time"] == "2027-01-15T08:00:00.000+00:00"
    assert (told["k"], told["epoch"], told["rev"]) == ("PUB", "e1", 4)
    assert told["data"]["state"] == "RUNNING"


def test_an_object_that_is_gone_has_null_data():
    told = events.cloud(Change("domain.web", None, "s", "e", 5), NOW)
    assert told["data"] is None
    assert events.line(Change("domain.web", None)) == "domain.web gone"


def test_a_call_as_it_passed_has_the_bus_s_own_fields_too():
    wire = Envelope(
        k=Kind.REQ,
        id="a1",
        to="lifecycle.domain.start",
        type="lifecycle.domain.start.v1",
        timeout=5000,
        idempotencykey="op-1",
        data=raw(DomainStart(name="web")),
    )
    told = events.cloud_of("operator/admin@n1/2", wire, NOW)
    assert (told["k"], told["to"], told["idempotencykey"]) == ("REQ", "lifecycle.domain.start", "op-1")
    assert told["data"] == {"name": "web", "paused": False, "dry_run": False, "reason": ""}
    assert "epoch" not in told
    assert events.line_of("operator/admin@n1/2", wire).startswith(
        "REQ    operator/admin@n1/2 -> lifecycle.domain.start {"
    )


def test_an_error_as_it_passed_is_told():
    err = ErrorBody(kind=ErrorKind.CONFLICT, message="taken\x1b")
    wire = Envelope(k=Kind.REP, re="a1", to="operator/admin@n1/2", err=err)
    assert events.cloud_of("s", wire, NOW)["err"]["kind"] == "conflict"
    assert events.line_of("s", wire) == "REP    s -> operator/admin@n1/2 conflict: taken\\x1b"


def test_a_message_of_unknown_type_is_shown_as_it_is():
    wire = Envelope(k=Kind.PUB, subject="operator.admin.note", type="note.v1", data=raw({"a": [1]}))
    assert events.body(wire) == {"a": [1]}
    assert events.body(Envelope(k=Kind.PING)) is None


VOLUME = VolumeStatus(name="v", uuid="u", state="failed", reason="no space")
DEVICE = DeviceStatus(
    key=DeviceKey(uuid="u", incarnation=1, id="root"),
    domain="web",
    type="disk",
    state=ConnectionState.ORPHANED,
    generation=3,
    reason="provider gone",
)
DOCUMENT = documents.Network(metadata=documents.Metadata(name="lan", revision=4, modified_by="operator/a"))
NODE = NodeStatus(name="n1", cpus=2, memory_mib=4096, memory_free_mib=1024)
SERVICE = ServiceStatus(name="config.1", service="config", instance="1", node="n1", pid=7, version="1")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (WEB.value, "web RUNNING generation 7 on n1 (fine)"),
        (NODE, "2 cpus, 1024 of 4096 MiB free"),
        (SERVICE, "ready pid 7 on n1"),
        (operation(OperationState.RUNNING, step="plug", progress=0.5), "start web running 50% plug"),
        (operation(error=ErrorBody(kind=ErrorKind.STALE, message="old")), "start web done 0% stale: old"),
        (VOLUME, "failed no space"),
        (DEVICE, "disk ORPHANED generation 3 provider gone"),
        (DocumentChanged(document=DOCUMENT), "revision 4 by operator/a"),
        (ConsoleOutput(name="web", incarnation=1, offset=9, content=b"abc"), "3 bytes at 9"),
        ({"any": "thing"}, '{"any":"thing"}'),
    ],
)
def test_each_kind_of_event_is_told_by_what_matters(value, told):
    assert events.summary(value) == told


def test_what_a_guest_says_cannot_write_to_the_terminal():
    change = Change("domain.u1", domain(reason="\x1b[2J"))
    assert "\x1b" not in events.line(change)
