import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from manor_bus.wire.messages.documents import Domain, Metadata
from manor_bus.wire.messages.lifecycle import DomainStatus
from manor_cli import render
from manor_cli.render import Column, View
from tests.cli.fake import domain, fact

UNSAFE = [chr(code) for code in [*range(32), *range(127, 160), 0x202E, 0x2066, 0x200F, 0x2028]]


@given(st.text())
def test_no_text_reaches_a_terminal_with_a_control_character(text):
    assert not any(one in render.clean(text) for one in UNSAFE)


@given(st.text(alphabet=st.sampled_from([*UNSAFE, "a", "ü", "\U0001f600"])))
def test_json_is_safe_for_a_terminal_and_means_the_same(text):
    told = render.as_json({"text": text})
    assert not any(one in told for one in UNSAFE if one != "\n")
    assert json.loads(told) == {"text": text}


@given(st.text(alphabet=st.sampled_from([*UNSAFE, "a", "ü", ":", "-", "#"])))
def test_yaml_is_safe_for_a_terminal_and_means_the_same(text):
    told = render.as_yaml({"text": text})
    assert not any(one in told for one in UNSAFE if one != "\n")
    assert yaml.safe_load(told) == {"text": text}


def test_ordinary_letters_of_any_script_stay_readable():
    assert render.clean("Küche 厨房") == "Küche 厨房"
    assert "Küche" in render.as_json({"a": "Küche"})
    assert "Küche" in render.as_yaml({"a": "Küche"})


def test_an_escape_sequence_of_a_guest_is_shown_and_not_obeyed():
    assert render.clean("\x1b[2Jowned\n") == "\\x1b[2Jowned\\x0a"


def test_a_whole_value_has_every_field_also_those_with_defaults():
    told = render.whole(fact(domain()))
    assert told["stale"] is False
    assert told["fact"]["kind"] == "domain"
    assert told["fact"]["pending"] == []
    assert set(told["fact"]) == {"kind", *DomainStatus.__struct_fields__}
    assert render.whole(b"\x00") == "AA=="


def test_a_document_in_yaml_says_only_what_was_said():
    document = Domain(metadata=Metadata(name="web"))
    assert yaml.safe_load(render.as_yaml(document)) == {"kind": "Domain", "metadata": {"name": "web"}}


def test_several_documents_are_a_stream():
    documents = [Domain(metadata=Metadata(name=name)) for name in ("a", "b")]
    told = render.as_yaml(documents, many=True)
    assert [one["metadata"]["name"] for one in yaml.safe_load_all(told)] == ["a", "b"]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0.0s"), (-1, "0.0s"), (0.84, "0.8s"), (59, "59s"), (60, "1m"), (725, "12m5s"), (3600, "1h"),
     (3661, "1h1m"), (273_600, "3d4h")],
)  # fmt: skip
def test_a_length_of_time_is_told_in_its_two_largest_units(seconds, told):
    assert render.duration(seconds) == told


@pytest.mark.parametrize(
    ("count", "told"), [(0, "-"), (512, "512M"), (1024, "1G"), (1536, "1.5G"), (1100, "1100M")]
)
def test_memory_is_told_in_the_unit_that_is_short(count, told):
    assert render.mebibytes(count) == told


@pytest.mark.parametrize(
    ("value", "told"),
    [(None, "-"), ("", "-"), ((), "-"), ({}, "-"), (0, "0"), (True, "yes"), (False, "no"),
     (("a", "b"), "a,b"), ({"a": 1}, "a=1"), ("x", "x")],
)  # fmt: skip
def test_plain_values_are_told_plainly(value, told):
    assert render.text(value) == told


def test_times_are_told_in_utc():
    assert render.moment(0) == "-"
    assert render.moment(1_800_000_000) == "2027-01-15 08:00:00Z"


def test_a_plain_table_is_aligned_and_has_no_trailing_spaces():
    lines = list(render.plain(("NAME", "STATE"), [["web", "RUNNING"], ["database", ""]]))
    assert lines == ["NAME      STATE", "web       RUNNING", "database"]


def test_wide_columns_come_only_when_asked_for():
    view = View((Column("NAME", "name"), Column("UUID", "uuid", wide=True)))
    assert view.cells([{"name": "a", "uuid": "u"}], wide=False) == [["a"]]
    assert view.cells([{"name": "a\x1b", "uuid": "u"}], wide=True) == [["a\\x1b", "u"]]


def test_names_carry_the_prefix_of_their_kind():
    assert list(render.names(View((), prefix="domain/"), [{"name": "web"}])) == ["domain/web"]


def test_one_line_json_has_no_line_breaks():
    assert "\n" not in render.as_json({"a": [1, {"b": "c"}]}, indent=0)
