import pytest
import yaml

from manor_bus.wire.messages.catalogue import CALLS, EVENTS
from tests.cli.fake import run


def test_every_message_is_listed():
    rows = run("schema", "-o", "json").json
    assert len(rows) == len(CALLS) + len(EVENTS)
    start = next(row for row in rows if row["type"] == "lifecycle.domain.start.v1")
    assert (start["request"], start["reply"], start["changes"]) == ("DomainStart", "Operation", True)


@pytest.mark.parametrize("name", ["lifecycle.domain.start", "lifecycle.domain.start.v1"])
def test_a_message_has_a_json_schema_by_subject_or_type(name):
    told = run("schema", name).json
    assert told["request"] == {"$ref": "#/$defs/DomainStart"}
    assert "paused" in told["$defs"]["DomainStart"]["properties"]


def test_a_kind_of_document_has_one_too():
    told = run("schema", "domain")
    assert "DomainSpec" in told.out
    assert "\\n  " not in told.out, "descriptions are without the indentation of their docstrings"


def test_the_whole_bus_is_an_asyncapi_document():
    assert yaml.safe_load(run("schema", "--asyncapi").out)["asyncapi"].startswith("3.")


def test_an_unknown_message_is_not_found():
    ran = run("schema", "lifecycle.domain.fly")
    assert ran.code == 3
    assert "manor schema -o name" in ran.err
