import pytest

from manor_bus.wire.errors import ErrorBody, Kind
from manor_bus.wire.messages.devices import ConnectionState as Connection
from manor_bus.wire.messages.devices import Descriptor, DeviceKey, DeviceStatus
from manor_bus.wire.messages.documents import Metadata, Network
from manor_bus.wire.messages.lifecycle import OperationState, PendingChange, State
from manor_cli import views
from manor_cli.render import View, whole
from tests.cli.fake import NOW, domain, operation

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


def test_a_domain_has_every_field_of_the_contract():
    row = views.domain_row(domain(began_s=10.0), 100.0)
    assert row.keys() >= CONTRACT
    assert row["state"] == "RUNNING"
    assert row["uptime_s"] == 90.0
    assert row["pending"] == []


@pytest.mark.parametrize("state", [State.DEFINED, State.SUSPENDED, State.FAILED, State.LOST])
def test_a_domain_that_does_not_run_has_no_uptime(state):
    assert views.domain_row(domain(state=state, began_s=10.0), 100.0)["uptime_s"] == 0.0


def test_a_clock_that_people_set_says_nothing_of_uptime():
    row = views.domain_row(domain(began_s=10.0, started=NOW), 100.0)
    assert (row["uptime_s"], "began_s" in row) == (90.0, False)


def test_from_another_machine_the_uptime_is_not_known():
    assert views.domain_row(domain(began_s=10.0), None)["uptime_s"] is None


def test_a_service_has_every_field_of_the_contract():
    row = views.service_row("config", "3f2a", "n1", pid=7, ready=True, version="1")
    assert set(row) == {"name", "instance", "pid", "ready", "version", "node"}


def test_an_operation_has_every_field_of_the_contract():
    error = ErrorBody(kind=Kind.TIMEOUT, message="late")
    row = whole(operation(OperationState.FAILED, error=error))
    assert row.keys() >= {"id", "kind", "target", "state", "step", "progress", "error"}
    assert row["error"]["kind"] == "timeout"
    assert whole(operation())["error"] is None


def test_pending_changes_are_told_with_both_sides():
    change = PendingChange(path="spec.cpu.count", old="1", new="2")
    assert views.pending(whole((change,))) == "spec.cpu.count: 1 -> 2 (next-start)"
    row = views.domain_row(domain(pending=(change,)), NOW)
    assert views.pending(row["pending"]) == "spec.cpu.count: 1 -> 2 (next-start)"
    assert views.pending([]) == "-"


def test_a_document_is_shown_by_its_metadata():
    row = views.document_row(Network(metadata=Metadata(name="lan", revision=3)))
    assert (row["kind"], row["name"], row["path"], row["revision"]) == ("Network", "lan", "network/lan", 3)


def test_a_device_is_named_by_domain_and_id():
    status = DeviceStatus(
        key=DeviceKey(uuid="u", incarnation=1, id="root"),
        domain="web",
        type="disk",
        state=Connection.CONNECTED,
        generation=2,
        descriptor=Descriptor(type="nbd"),
    )
    row = views.device_row(status)
    assert (row["path"], row["id"], row["backend"], row["state"]) == ("web/root", "root", "nbd", "CONNECTED")


@pytest.mark.parametrize("name", [name for name, view in vars(views).items() if isinstance(view, View)])
def test_every_view_shows_an_empty_row_without_failing(name):
    view = getattr(views, name)
    (cells,) = view.cells(
        [
            {
                "age_ms": 0,
                "left_ms": 0,
                "connected_s": 0,
                "progress": 0,
                "memory_mib": 0,
                "memory_free_mib": 0,
                "size_mib": 0,
                "used_mib": 0,
            }
        ],
        wide=True,
    )
    assert len(cells) == len(view.columns)
    titles = [column.title for column in view.columns]
    assert len(set(titles)) == len(titles)
