import json
import time

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
    ("count", "told"),
    [(0, "-"), (512, "512MiB"), (1024, "1GiB"), (1536, "1.5GiB"), (1100, "1100MiB"), (1_048_576, "1TiB")],
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


@pytest.fixture
def zone(monkeypatch):
    def choose(name):
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield choose
    monkeypatch.undo()
    time.tzset()


def test_times_are_told_in_the_zone_of_the_machine_and_say_which(zone):
    assert render.moment(0) == "-"
    zone("CET-1")
    assert render.moment(1_800_000_000) == "2027-01-15 09:00:00+0100"
    zone("UTC")
    assert render.moment(1_800_000_000) == "2027-01-15 08:00:00+0000"


def test_the_cells_of_a_plain_table_are_aligned():
    told = list(render.plain([["NAME", "STATE"], ["web", "RUNNING"], ["database", ""]]))
    assert told == [["NAME    ", "STATE  "], ["web     ", "RUNNING"], ["database", "       "]]


NARROW = View.of("name state! node- memory_mib since reason~? note?~")
ROW = {"name": "web", "state": "RUNNING", "node": "n1", "memory_mib": 1536, "since": 0, "reason": "a" * 60}


def test_a_field_says_how_it_is_shown_and_what_becomes_of_it():
    told = {column.title: column for column in NARROW.columns}
    assert list(told) == ["NAME", "STATE", "NODE", "MEMORY", "SINCE", "REASON", "NOTE"]
    assert told["MEMORY"].show(1536) == "1.5GiB"
    assert told["SINCE"].show(0) == "-"


def test_a_column_that_no_row_needs_is_shown_only_in_the_wide_form():
    assert "NOTE" not in NARROW.table([ROW], wide=False)[0]
    assert "NOTE" in NARROW.table([ROW], wide=True)[0]


@pytest.mark.parametrize("width", range(1, 120))
def test_a_table_keeps_to_its_width_and_folds_nothing(width):
    table = NARROW.table([ROW, ROW], wide=False, width=width)
    (line,) = {"  ".join(row).rstrip() for row in render.plain(table[1:])}
    assert len(line) <= max(width, len("web"))
    assert line.startswith("web")
    if width >= len("web  RUNNING  aaaaaaaaaaa…"):
        assert "RUNNING" in line
        assert "1.5G" not in line or "1.5GiB" in line


def test_free_text_is_cut_before_a_column_is_dropped_and_the_least_important_goes_first():
    titles = {width: NARROW.table([ROW], wide=False, width=width)[0] for width in (100, 60, 47, 40, 30)}
    assert titles[100][-1] == titles[60][-1] == "REASON"
    assert "NODE" in titles[60]
    assert "NODE" not in titles[40]
    assert "STATE" in titles[30]


def test_wide_columns_come_only_when_asked_for():
    view = View((Column("NAME", "name"), Column("UUID", "uuid", wide=True)))
    assert view.cells([{"name": "a", "uuid": "u"}], wide=False) == [["a"]]
    assert view.cells([{"name": "a\x1b", "uuid": "u"}], wide=True) == [["a\\x1b", "u"]]


def test_names_carry_the_prefix_of_their_kind():
    assert list(render.names(View((), prefix="domain/"), [{"name": "web"}])) == ["domain/web"]


def test_one_line_json_has_no_line_breaks():
    assert "\n" not in render.as_json({"a": [1, {"b": "c"}]}, indent=0)
