from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from manor_bus.wire.messages.config import DiffLine
from manor_config.diff import VALUE_CHARACTERS_MAX, bounded, differences
from tests.config.examples import document, domain, full_domain


def lines(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(line.path, line.old, line.new) for line in differences(document(old), document(new))]


def test_another_order_is_a_difference() -> None:
    disks = [{"id": name, "source": f"/{name}"} for name in ("a", "b", "c")]
    old, new = domain(disks=disks), domain(disks=[disks[1], disks[0], {**disks[2], "source": "/d"}])
    lines = differences(document(old), document(new))
    assert [(line.path, line.old, line.new) for line in lines] == [
        ("spec.disks", '["a","b","c"]', '["b","a","c"]'),
        ("spec.disks[c].source", '"/c"', '"/d"'),
    ]


def test_a_document_does_not_differ_from_itself() -> None:
    assert lines(full_domain(), full_domain()) == []


def test_a_changed_field_is_named_with_both_values() -> None:
    old, new = domain(memory={"size_mib": 512}), domain(memory={"size_mib": 1024}, run="always")
    assert lines(old, new) == [("spec.memory.size_mib", "512", "1024"), ("spec.run", "", '"always"')]


def test_labels_and_annotations_are_part_of_what_is_asked_for() -> None:
    assert lines(domain(labels={"a": "1"}), domain(labels={"a": "2", "b": "3"})) == [
        ("metadata.labels.a", '"1"', '"2"'),
        ("metadata.labels.b", "", '"3"'),
    ]


def test_devices_are_told_apart_by_their_ids() -> None:
    root, extra = {"id": "root", "source": "/a"}, {"id": "extra", "source": "/b"}
    assert lines(domain(disks=[root]), domain(disks=[extra, root])) == [
        ("spec.disks[extra].id", "", '"extra"'),
        ("spec.disks[extra].source", "", '"/b"'),
    ]
    assert lines(domain(disks=[root, extra]), domain(disks=[{**root, "readonly": True}])) == [
        ("spec.disks[root].readonly", "", "true"),
        ("spec.disks[extra].id", '"extra"', ""),
        ("spec.disks[extra].source", '"/b"', ""),
    ]


def test_elements_without_ids_are_told_apart_by_their_place() -> None:
    assert lines(domain(depends_on=["a", "b"]), domain(depends_on=["a", "c"])) == [
        ("spec.depends_on[1]", '"b"', '"c"')
    ]


def test_what_cannot_be_taken_apart_is_shown_whole_and_short() -> None:
    old, new = domain(extra={"k": 1}), domain(extra={"k": {"deep": "x" * 1000}})
    [(path, before, after)] = lines(old, new)
    assert (path, before) == ("spec.extra.k", "1")
    assert len(after) == VALUE_CHARACTERS_MAX


def test_too_many_differences_are_counted() -> None:
    diff = (DiffLine(path="spec.a", new="x" * 100), DiffLine(path="spec.b"))
    assert bounded(diff, 1000) == (diff, 1000 - 2 * 24 - 12 - 100)
    assert bounded(diff, 100) == ((DiffLine(path="spec", new="2 more fields changed"),), 100)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("aé ", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=8,
)
EXTRAS = st.dictionaries(st.text("abc", min_size=1, max_size=2), VALUES, max_size=3)


@given(EXTRAS, EXTRAS)
def test_differences_are_empty_exactly_when_nothing_differs(old: dict[str, Any], new: dict[str, Any]) -> None:
    before, after = document(domain(extra=old)), document(domain(extra=new))
    assert bool(differences(before, after)) == (before.spec != after.spec)
