import msgspec
import pytest

from manor_bus.wire import schema
from manor_bus.wire.messages import Call, Event
from manor_bus.wire.messages.catalogue import CALLS, EVENTS

ENTRIES: tuple[Call | Event, ...] = (*CALLS, *EVENTS)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.type_name)
def test_every_type_has_a_schema_for_each_of_its_parts(entry):
    found = schema.schema(entry.type_name)
    assert set(found) == {*schema.parts_of(entry), "$defs"}
    for role, body in schema.parts_of(entry).items():
        assert found[role] == {"$ref": f"#/$defs/{body.__name__}"}
        assert body.__name__ in found["$defs"]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.type_name)
def test_every_type_can_be_decoded_at_all(entry):
    for body in schema.parts_of(entry).values():
        msgspec.msgpack.Decoder(body)


def test_an_unknown_type_is_a_key_error():
    with pytest.raises(KeyError):
        schema.schema("no.such.type.v1")
