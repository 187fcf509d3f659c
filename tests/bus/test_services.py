"""The broker says which services are attached, and nobody else can."""

from manor_bus.wire import codec
from manor_bus.wire.envelope import Envelope
from manor_bus.wire.envelope import Kind as Frame
from manor_bus.wire.messages import bus as words
from manor_bus.wire.messages.node import Snapshot, SnapshotDone, SnapshotPart
from tests.testkit.bench import Bench, body


def told(watcher):
    """Return (instance, ready) of the services in what came; None when one is gone."""
    wires = [item.envelope for down in watcher.batches() for item in down.items]
    return [
        (
            wire.subject.rpartition(".")[2],
            None if wire.data == codec.NIL else codec.decode(wire.data, words.ServiceStatus).ready,
        )
        for wire in wires
        if wire.subject.startswith("service.")
    ]


def test_a_service_is_ready_when_it_serves_and_not_when_it_leaves():
    bench = Bench()
    watcher = bench.join()
    watcher.subscribe("service.>")
    idle = bench.join("service/config")
    working = bench.join("service/devices", serves=("devices.>",))
    bench.flush()
    working.say(Envelope(k=Frame.DRAIN))
    bench.flush()
    bench.gone(idle, "crash")
    bench.flush()
    assert told(watcher) == [("i2", False), ("i3", True), ("i3", False), ("i2", None)]


def test_people_are_no_services():
    bench = Bench()
    watcher = bench.join()
    watcher.subscribe("service.>")
    bench.join("operator/alice")
    bench.flush()
    assert told(watcher) == []


def test_whoever_subscribes_is_told_that_the_broker_owns_it_and_may_ask_for_a_snapshot():
    bench = Bench()
    bench.join("service/devices", serves=("devices.>",))
    bench.join("service/config", serves=("config.>",))
    watcher = bench.join()
    done = codec.decode(watcher.subscribe("service.devices.*").data, words.Subscribed)
    (owner,) = done.owners
    assert owner == words.Owner(address=bench.switch.address, owns=("service.>",))
    watcher.ask("srv.snapshot@n1/ep", data=body(Snapshot(pattern="service.devices.*")))
    part, last = [down.items[0].envelope for down in watcher.downs if down.sid == 0][-2:]
    (item,) = codec.decode(part.data, SnapshotPart).items
    assert item.subject == "service.devices.i1"
    status = codec.decode(item.value, words.ServiceStatus)
    assert (status.service, status.node, status.ready) == ("devices", "n1", True)
    assert codec.decode(last.data, SnapshotDone) == SnapshotDone(epoch="ep", rev=2)
