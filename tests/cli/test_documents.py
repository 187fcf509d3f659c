import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor_bus.wire.errors import Kind, ManorError
from manor_cli import documents

WEB = """\
# a comment
kind: Domain
metadata:
  name: web
spec:
  cpu: {count: 2}
  disks:
    - id: root
      source: /srv/web.qcow2
---
kind: Network
metadata: {name: lan}
---
"""


def refused(text: str, source: str = "x.yaml") -> str:
    with pytest.raises(ManorError) as caught:
        documents.parse(text, source)
    assert caught.value.kind is Kind.BAD_REQUEST
    return f"{caught.value.problems[0].path} {caught.value.problems[0].reason}"


def test_a_file_holds_several_documents_and_empty_ones_are_nothing():
    web, lan = documents.parse(WEB, "web.yaml")
    assert (web.kind, web.name, web.line) == ("Domain", "web", 2)
    assert (lan.kind, lan.name, lan.line) == ("Network", "lan", 11)
    assert web.content["spec"] == {"cpu": {"count": 2}, "disks": [{"id": "root", "source": "/srv/web.qcow2"}]}


def test_yaml_in_the_style_of_json_is_yaml():
    (lan,) = documents.parse("{kind: Network, metadata: {name: lan}}", "x")
    assert lan.name == "lan"


def test_every_field_knows_its_line():
    web, _ = documents.parse(WEB, "web.yaml")
    assert web.place("spec.disks[0].source") == "web.yaml:9"
    assert web.place("spec.cpu.count") == "web.yaml:6"
    assert web.place("spec.disks[0].format") == "web.yaml:8"
    assert web.place("spec.memory.size_mib") == "web.yaml:5"
    assert web.place("") == "web.yaml:2"


def test_json_may_be_one_object_several_or_a_list():
    one = '{"kind": "Network", "metadata": {"name": "a"}}'
    assert len(documents.parse(one, "a.json")) == 1
    assert len(documents.parse(f"{one}\n{one}", "a.json")) == 2
    assert len(documents.parse(f"[{one}, {one}, {one}]", "a.json")) == 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kind: Domain\nkind: Network\n", "x.yaml:2 the key 'kind' stands twice"),
        ("kind: Domain\nmetadata:\n  name: web\n  name: db\n", "x.yaml:4 the key 'name' stands twice"),
        ("a: [1,\nb: 2", "x.yaml:3 not YAML"),
        ("a: \t- b\n\tc", "x.yaml:"),
        ("- kind: Domain", "x.yaml:1 a document is a mapping"),
        ("just text", "x.yaml:1 a document is a mapping"),
        ("kind: Domain", "x.yaml:1 the document has no `metadata.name`"),
        ("metadata: {name: a}", "x.yaml:1 the document has no `kind`"),
        ("kind: D\nwhen: 2020-01-01", "x.yaml:2 '2020-01-01' would be read as a timestamp"),
        ("kind: Domain\nmetadata: {name: a}\non: x", "x.yaml:3 the key 'on' is not text"),
        ("kind: Domain\nmetadata: {name: a}\n? [a]\n: b", "x.yaml:3 the key 'a structure' is not text"),
        ("kind: !!python/object:os.system {}", "x.yaml:1"),
        ("kind: D\nn: .inf", "x.yaml:2 '.inf' is not a finite number"),
        ("kind: D\nn: 99999999999999999999", "x.yaml:2 '99999999999999999999' is too large"),
        ("kind: D\nn: !!int x", "x.yaml:2 'x' is not a number"),
        ("a: *nobody", "x.yaml:1 the alias *nobody stands for nothing"),
        ("a: \x00", "x.yaml:1 not YAML"),
        ('{"kind": "Domain", "kind": "Network"}', "x.yaml:1 the key 'kind' stands twice"),
        ('{"kind": }', "x.yaml:1 not JSON"),
        ('{"kind": "D", "n": NaN}', "x.yaml:1 NaN is not a number"),
        ("n: 1\nkind: D\nmem: 01024", "x.yaml:3 '01024' is not the same in YAML 1.1 and YAML 1.2"),
        ("n: 010", "x.yaml:1 '010' is not the same"),
        ("n: 089", "x.yaml:1 '089' is not the same"),
        ("n: 2:30", "x.yaml:1 '2:30' is not the same"),
        ("mac: 52:54:00:12:34:56", "x.yaml:1 '52:54:00:12:34:56' is not the same"),
        ("n: 1_024", "x.yaml:1 '1_024' is not the same"),
        ("n: 0b11", "x.yaml:1 '0b11' is not the same"),
        ("n: 0o17", "x.yaml:1 '0o17' is not the same"),
        ("n: 1e3", "x.yaml:1 '1e3' is not the same"),
        ("n: yes", "x.yaml:1 'yes' is not the same"),
        ("n: Off", "x.yaml:1 'Off' is not the same"),
        ("n: 1e999", "x.yaml:1 '1e999' is not the same"),
        ("n: 1.0e+999", "x.yaml:1 '1.0e+999' is not a finite number"),
        ("a: &x {b: 1}\nc:\n  <<: *x", "x.yaml:3 merge keys (<<) are not read"),
        ("kind: List\nitems: []", "x.yaml:1 `kind: List` is no document"),
        ('a: "\\ud800"', "x.yaml:1 not YAML"),
        ('{"kind": "D",\n"n": 1e999}', "x.yaml:2 '1e999' is not a finite number"),
        ('{"kind": "D",\n"n": 99999999999999999999}', "x.yaml:2 '99999999999999999999' is too large"),
        ('{"kind": "D",\n"n": "\\ud800"}', "x.yaml:2 not JSON: found invalid Unicode character"),
        ('{"kind": "D",\n"a": {\n"b": 1, "b": 2}}', "x.yaml:3 the key 'b' stands twice"),
        ('{"kind": "D", "metadata": {"name": "a"}}\n\n{"kind": "D"}', "x.yaml:3 the document has no"),
        ('[\n{"kind": "D", "metadata": {"name": "a"}},\n{"kind": "D"}]', "x.yaml:3 the document has no"),
        ('{"kind": "List", "items": []}', "x.yaml:1 `kind: List` is no document"),
        ("[[]]", "x.yaml:1 a document is a mapping"),
        ("[" * 5000, "x.yaml:1"),
        ("{a: " * 5000 + "1" + "}" * 5000, "x.yaml:1"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_its_line(text, told):
    assert refused(text).startswith(told)


def test_numbers_that_every_reader_takes_for_the_same_are_read():
    text = (
        "kind: D\nmetadata: {name: a}\nspec: [12, -7, +3, 0, 0x1F, 1.5, 1.5e+3, true, False, ~, '010', 'yes']"
    )
    (parsed,) = documents.parse(text, "x")
    assert parsed.content["spec"] == [12, -7, 3, 0, 31, 1.5, 1500.0, True, False, None, "010", "yes"]
    assert parsed.written["spec[4]"] == "0x1F"
    assert "spec[0]" not in parsed.written


def test_every_field_of_json_knows_its_line():
    text = '{"kind": "D",\n "metadata": {"name": "a"},\n "spec": {\n\t"disks": [\n  {"id": "root"}]}}'
    first, second = documents.parse(f"\n{text}\n{text}", "a.json")
    assert first.place("spec.disks[0].id") == "a.json:6"
    assert second.place("spec.disks[0].id") == "a.json:11"
    (listed,) = documents.parse(f"[\n{text}]", "a.json")
    assert listed.place("metadata.name") == "a.json:3"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(-1e200, 1e200)
    | st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cn", "Co")), max_size=9),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text("abc\"/\\😀", max_size=3), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(JSON, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_json_means_what_it_means_to_every_other_reader(value, ascii_, indent):
    content = {"kind": "D", "metadata": {"name": "x"}, "spec": value}
    text = json.dumps(content, ensure_ascii=ascii_, indent=indent)
    (parsed,) = documents.parse(text, "x.json")
    assert parsed.content == content


def test_an_alias_stands_for_its_value():
    (parsed,) = documents.parse("kind: D\nmetadata: {name: &n web}\nspec: {a: &x [1, 2], b: *x, c: *n}", "x")
    assert parsed.content["spec"] == {"a": [1, 2], "b": [1, 2], "c": "web"}


def test_aliases_that_grow_into_millions_are_refused():
    levels = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9))
    assert "elements in one document" in refused(f"kind: D\na0: &a0 x\n{levels}")


def test_an_alias_that_holds_itself_is_refused():
    assert "stands for nothing before it" in refused("kind: D\na: &a [*a]")


def test_json_with_too_many_elements_or_levels_is_refused():
    many = ",".join("0" for _ in range(documents.ELEMENTS_MAX + 1))
    assert "elements in one document" in refused(f'{{"kind": "D", "n": [{many}]}}')
    deep = "[" * 20 + "]" * 20
    assert "nested deeper" in refused(f'{{"kind": "D", "n": {deep}}}')


def test_a_text_that_is_too_large_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr(documents, "TEXT_BYTES_MAX", 100)
    assert "larger than" in refused(WEB)


def test_too_many_documents_are_refused(monkeypatch):
    monkeypatch.setattr(documents, "DOCUMENTS_MAX", 1)
    assert "more than 1 documents" in refused(WEB)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text):
    try:
        documents.parse(text, "x")
    except ManorError as caught:
        refusal = caught
    else:
        return
    assert refusal.kind is Kind.BAD_REQUEST
    assert refusal.problems[0].path.startswith("x:")


LEAVES = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_what_is_written_as_yaml_is_read_back_the_same(value):
    from manor_cli.render import as_yaml

    content = {"kind": "Domain", "metadata": {"name": "x"}, "spec": value}
    (parsed,) = documents.parse(as_yaml(content), "x.yaml")
    assert parsed.content == content
