import runpy
from collections import Counter
from pathlib import Path

import pytest

from manor_bus.wire import asyncapi, errors
from manor_bus.wire.messages import Call, Event, bus, config, devices, discovery, documents, lifecycle, node
from manor_bus.wire.messages.catalogue import CALLS, EVENTS
from manor_bus.wire.schema import parts_of

MAKER = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "makers" / "messages.py"))
messages_page, shapes = MAKER["page"], MAKER["shapes"]
MODULES = (bus, node, config, discovery, lifecycle, devices, documents, errors)

ENTRIES: tuple[Call | Event, ...] = (*CALLS, *EVENTS)


def test_the_page_has_every_call_every_event_and_every_struct_they_carry():
    page = messages_page()
    for entry in ENTRIES:
        assert f"\n| `{entry.type_name.removesuffix('.v1')}` | " in page
        for body in parts_of(entry).values():
            assert f"\n### {body.__name__}\n" in page


def test_no_two_structs_share_a_heading():
    headings = Counter(line for line in messages_page().splitlines() if line.startswith("### "))
    assert [heading for heading, count in headings.items() if count > 1] == []


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_struct_says_what_it_is(module):
    assert [shape.name for shape in shapes(module) if not shape.doc] == []


def test_a_shape_has_types_defaults_and_the_comments_behind_fields():
    shape = next(one for one in shapes(bus) if one.name == "Subscribe")
    window = next(one for one in shape.fields if one.name == "window")
    assert window == MAKER["Field"](
        "window", "int", "256", "messages the subscriber is ready to hold unacknowledged"
    )
    kinds = next(one for one in shapes(errors) if one.name == "Kind")
    assert kinds.fields[0].name == "bad_request"
    assert kinds.fields[0].type == ""


def test_a_bar_in_a_type_does_not_break_the_table():
    page = messages_page()
    row = next(line for line in page.splitlines() if line.startswith("| `delivered` |"))
    assert row.replace("\\|", "").count("|") == 5


def test_asyncapi_names_one_operation_for_each_call_and_each_pattern_of_an_event():
    document = asyncapi.asyncapi()
    calls = {call.subject for call in CALLS}
    patterns = {f"{event.name}/{pattern}" for event in EVENTS for pattern in event.patterns}
    assert set(document["operations"]) == calls | patterns
    assert document["channels"]["device.*.*"]["address"] == "device.{name1}.{name2}"


def test_asyncapi_has_no_reference_that_leads_nowhere():
    document = asyncapi.asyncapi()
    for reference in references(document):
        target: object = document
        for token in reference.removeprefix("#/").split("/"):
            assert isinstance(target, dict)
            target = target[token.replace("~1", "/").replace("~0", "~")]


def references(part: object) -> list[str]:
    if isinstance(part, dict):
        own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        return own + [one for value in part.values() for one in references(value)]
    if isinstance(part, list):
        return [one for value in part for one in references(value)]
    return []


def test_the_shapes_of_a_module_come_in_the_order_of_its_source():
    assert [shape.name for shape in shapes(node)][:3] == ["Ping", "Info", "InfoAnswer"]
