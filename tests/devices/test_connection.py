"""A connection is stored as it is, and shows what others may see."""

import msgspec

from manor_bus.wire.errors import ErrorBody, Kind
from manor_bus.wire.messages.devices import Connect, ConnectionState, Descriptor, DeviceKey
from manor_bus.wire.messages.documents import Disk, NetworkSpec
from manor_devices.backends import Claim, Target
from manor_devices.connection import Connection

WHOLE = Connection(
    request=Connect(
        key=DeviceKey(uuid="u", incarnation=4, id="vda"),
        domain="web",
        type="disk",
        disk=Disk(id="vda", source="/x"),
    ),
    target=Target("nbd", path="/x", format="qcow2", network=NetworkSpec()),
    state=ConnectionState.CONNECTED,
    generation=3,
    epoch=2,
    attached=True,
    reason="why",
    error=ErrorBody(kind=Kind.TIMEOUT, message="m"),
    descriptor=Descriptor(type="nbd", args={"path": "/s", "reconnect_s": 5, "readonly": True}),
    notes={"paths": "/x"},
    claims=(Claim("1:2", "/x", write=True),),
)


def test_what_is_stored_is_read_back_whole():
    assert msgspec.json.decode(msgspec.json.encode(WHOLE), type=Connection) == WHOLE


def test_the_status_shows_what_concerns_others():
    status = WHOLE.status()
    assert (status.domain, status.state, status.generation) == ("web", ConnectionState.CONNECTED, 3)
    assert (status.provider, status.provider_epoch, status.reason) == ("nbd", 2, "why")
    assert status.descriptor == WHOLE.descriptor


def test_the_order_carries_what_the_back_end_noted():
    order = WHOLE.order()
    assert (order.key, order.generation, order.epoch) == (WHOLE.request.key, 3, 2)
    assert (order.target, order.notes) == (WHOLE.target, {"paths": "/x"})
