from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manor_bus.wire.messages import documents as d
from manor_config.shapes import choices_of, fields_of, problems_of, shown


def told(value: Any, struct: type = d.DomainSpec) -> list[tuple[str, str]]:
    return [(problem.path, problem.reason) for problem in problems_of(value, struct, "spec")]


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        ("text", "spec", "a text where a mapping with type"),
        ([], "spec", "a list where a mapping"),
        ({1: 2}, "spec.1", "unknown key"),
        ({"cpu": {"count": "2"}}, "spec.cpu.count", "a text where a whole number belongs"),
        ({"cpu": {"count": True}}, "spec.cpu.count", "yes or no where a whole number belongs"),
        ({"cpu": {"count": 2.0}}, "spec.cpu.count", "a number where a whole number belongs"),
        ({"cpu": {"count": 2**60}}, "spec.cpu.count", "a number where a whole number"),
        ({"cpu": {"nested": 1}}, "spec.cpu.nested", "a number where true or false belongs"),
        ({"shutdown_timeout_s": float("nan")}, "spec.shutdown_timeout_s", "a number where a number"),
        ({"rng": None}, "spec.rng", "leave the key out"),
        ({"disks": {"id": "a"}}, "spec.disks", "a mapping where a list belongs"),
        ({"disks": [3]}, "spec.disks[0]", "a number where a mapping"),
        ({"disks": [{}]}, "spec.disks[0].id", "missing"),
        ({"depends_on": ["ok", 3]}, "spec.depends_on[1]", "put it in quotes"),
        ({"depends_on": ["n"] * 65}, "spec.depends_on", "too many"),
        ({"smbios": {"version": 2}}, "spec.smbios.version", "put it in quotes"),
        ({"smbios": {"Bad Key": "v"}}, "spec.smbios.Bad Key", "not allowed here"),
        ({"smbios": []}, "spec.smbios", "a list where a mapping of texts"),
        ({"smbios": {f"k{n}": "" for n in range(65)}}, "spec.smbios", "too many"),
        ({"title": "a\x1b[31m"}, "spec.title", "not allowed here"),
        ({"title": "x" * 257}, "spec.title", "not allowed here"),
        ({"extra": []}, "spec.extra", "a list where a mapping"),
        ({"extra": {"k": object()}}, "spec.extra.k", "cannot be kept"),
        ({"extra": {"k": b""}}, "spec.extra.k", "cannot be kept"),
        ({"extra": {"k": [float("inf")]}}, "spec.extra.k[0]", "cannot be kept"),
        ({"extra": {"k": "\ud800"}}, "spec.extra.k", "cannot be kept"),
        ({"extra": {"k": {3: 1}}}, "spec.extra.k.3", "not a key"),
        ({"type": "HVM"}, "spec.type", "not one of them"),
        ({"on_crash": "restrt"}, "spec.on_crash", "did you mean restart?"),
    ],
)
def test_one_wrong_thing_is_one_problem(value: Any, path: str, reason: str) -> None:
    [(found, why)] = told(value)
    assert found == path
    assert reason in why


def test_extra_ends_somewhere() -> None:
    deep: Any = 1
    for _ in range(20):
        deep = {"k": deep}
    [(path, reason)] = told({"extra": deep})
    assert reason == "nested too deep"
    assert path.count(".k") == 8


def test_relations_are_judged_where_the_struct_is_sound_in_itself() -> None:
    value = {"cpu": {"count": 4, "max": 2}, "memory": {"size_mib": 64, "max_mib": 32, "bogus": 1}}
    assert [path for path, _ in told(value)] == ["spec.cpu.max", "spec.memory.bogus"]


def test_a_default_is_allowed_even_where_a_rule_would_not_like_it() -> None:
    assert told({"cpu": {"affinity": "", "model": ""}, "machine": "", "nics": [{"id": "a", "mac": ""}]}) == []


def test_values_are_shown_short_and_printable() -> None:
    assert shown("a\nb\x1b") == "a\\x0ab\\x1b"
    assert len(shown("x" * 500)) <= 80
    assert len(shown({"k" * 100: ["v" * 100] * 50})) <= 80


def test_choices_are_those_of_enumerations_only() -> None:
    fields = fields_of(d.DomainSpec)
    assert choices_of(fields["run"].type) == ("always", "on-boot", "on-request", "halted")
    assert choices_of(fields["title"].type) is None


STRUCTS = [d.Cpu, d.Memory, d.Disk, d.Nic, d.Graphics, d.Usb, d.VolumeSpec, d.NetworkSpec, d.NodeSpec]
VALUES = (
    st.none() | st.booleans() | st.integers(-3, 3000) | st.floats() | st.text(max_size=5) | st.just("virtio")
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(STRUCTS), st.data())
def test_what_has_no_problems_can_be_converted(struct: type, data: st.DataObject) -> None:
    keys = st.sampled_from(sorted(fields_of(struct)))
    value = data.draw(st.dictionaries(keys, VALUES, max_size=4))
    if not problems_of(value, struct, ""):
        msgspec.convert(value, struct)
