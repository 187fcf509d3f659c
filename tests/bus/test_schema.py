import copy

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


def test_all_schemas_together_are_those_of_the_catalogue():
    assert set(schema.schemas()) == {entry.type_name for entry in ENTRIES}


def test_an_unknown_type_is_a_key_error():
    with pytest.raises(KeyError):
        schema.schema("no.such.type.v1")


def test_digests_tell_types_apart_and_are_stable():
    digests = {entry.type_name: schema.schema_hash(entry.type_name) for entry in CALLS}
    assert len(set(digests.values())) == len(digests)
    assert all(len(one) == 16 for one in digests.values())


def test_a_digest_ignores_wording_and_sees_a_field(monkeypatch):
    original = schema.schema("bus.kick.v1")
    before = schema.schema_hash.__wrapped__("bus.kick.v1")

    reworded = copy.deepcopy(original)
    reworded["$defs"]["Kick"]["description"] = "other words"
    monkeypatch.setattr(schema, "schema", lambda _: reworded)
    assert schema.schema_hash.__wrapped__("bus.kick.v1") == before

    extended = copy.deepcopy(original)
    extended["$defs"]["Kick"]["properties"]["description"] = {"type": "string", "default": ""}
    monkeypatch.setattr(schema, "schema", lambda _: extended)
    assert schema.schema_hash.__wrapped__("bus.kick.v1") != before
