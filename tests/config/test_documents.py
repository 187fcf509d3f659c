from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from manor_bus.wire.errors import Problem
from manor_bus.wire.messages import documents as d
from manor_config import documents
from manor_config.documents import KINDS, Parsed, parse
from manor_config.references import Ref
from manor_config.shapes import fields_of
from tests.config.examples import document, domain, full_domain, network, parsed, volume

XLCFG = Path(__file__).parents[2] / ".." / "shared" / "data" / "xlcfg" / "libvirt"


def problems(raw: Any) -> list[Problem]:
    outcome = parse(raw)
    assert isinstance(outcome, list), outcome
    return outcome


def test_a_domain_with_one_of_everything_is_taken() -> None:
    typed = document(full_domain())
    assert isinstance(typed, d.Domain)
    assert [disk.id for disk in typed.spec.disks] == ["root", "far", "near", "cd"]
    assert typed.spec.on_crash is d.OnEnd.COREDUMP_RESTART
    assert typed.spec.extra["xl"]["vnuma"] == [["pnode=0", 1, 1.5, None, True]]


def test_each_kind_is_taken() -> None:
    spec: dict[str, dict[str, Any]] = {
        "Volume": {"size_mib": 1},
        "Provider": {"backend": "nbd"},
        "Credential": {
            "principal": "operator/alice",
            "public_key": "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID",
        },
    }
    for kind in KINDS:
        name = "cluster" if kind == "ClusterSettings" else "n"
        raw = {"kind": kind, "metadata": {"name": name}, "spec": spec.get(kind, {})}
        assert type(document(raw)).__name__ == kind


def test_values_are_stored_in_one_spelling() -> None:
    raw = full_domain()
    raw["metadata"]["uuid"] = "0AF51C48-5BA1-4B5C-8B44-D3B1C0B9A7E1"
    typed = document(raw)
    assert isinstance(typed, d.Domain)
    assert typed.metadata.uuid == "0af51c48-5ba1-4b5c-8b44-d3b1c0b9a7e1"
    assert typed.spec.nics[0].mac == "00:16:3e:aa:bb:01"
    assert typed.spec.pci[0].address == "0000:03:00.0"
    assert typed.spec.cpu.affinity == "0-3,^2"


def test_many_problems_are_reported_at_once_each_with_its_place() -> None:
    raw = domain(
        vcpus=3,
        cpu={"count": 4, "max": 2},
        memory=512,
        disks=[{"id": "a", "source": "/x", "volume": "v"}, {"id": "b", "formt": "qcow2"}],
        nics=[{"id": "n0", "queues": 0}],
        run="allways",
        title=7,
    )
    raw["metadata"]["lables"] = {}
    found = {problem.path: problem for problem in problems(raw)}
    assert list(found) == [
        "metadata.lables",
        "spec.vcpus",
        "spec.cpu.max",
        "spec.memory",
        "spec.disks[0].volume",
        "spec.disks[1].formt",
        "spec.nics[0].queues",
        "spec.run",
        "spec.title",
    ]
    assert "did you mean labels?" in found["metadata.lables"].reason
    assert "did you mean cpu.count?" in found["spec.vcpus"].reason
    assert found["spec.cpu.max"].value == "2"
    assert "did you mean format?" in found["spec.disks[1].formt"].reason
    assert found["spec.nics[0].queues"].allowed == "1 to 256"
    assert "did you mean always?" in found["spec.run"].reason
    assert found["spec.run"].allowed == "always, on-boot, on-request, halted"
    assert "put it in quotes" in found["spec.title"].reason


@pytest.mark.parametrize(
    ("raw", "path", "reason"),
    [
        (None, "", "not a mapping"),
        ([], "", "not a mapping"),
        ({}, "kind", "missing"),
        ({"kind": "Domian"}, "kind", "did you mean Domain?"),
        ({"kind": 7}, "kind", "unknown kind"),
        ({"kind": "Domain"}, "metadata", "missing"),
        ({"kind": "Volume", "metadata": {"name": "v"}}, "spec", "missing"),
        ({"kind": "Volume", "metadata": {"name": "v"}, "spec": {}}, "spec.size_mib", "missing"),
        ({"kind": "Domain", "metadata": {"name": "a.b"}}, "metadata.name", "not allowed"),
        ({"kind": "Domain", "metadata": {"name": "w"}, "spec": None}, "spec", "leave the key out"),
        ({"kind": "Domain", "metadata": {"name": "w"}, "sepc": {}}, "sepc", "did you mean spec?"),
        (network(bridge="br0"), "spec.bridge", "only for type bridge"),
        (volume(clone_of="v", backing_file="/b", backing_format="raw"), "spec.backing_file", "is given too"),
        ({"kind": "ClusterSettings", "metadata": {"name": "x"}}, "metadata.name", "one such document"),
        (domain("w", depends_on=["w"]), "spec.depends_on", "wait for itself"),
    ],
)
def test_what_is_wrong_is_named_with_its_path(raw: Any, path: str, reason: str) -> None:
    [problem] = problems(raw)
    assert problem.path == path
    assert reason in problem.reason


def test_a_document_has_a_size() -> None:
    [problem] = problems(domain(extra={str(n): "x" * 60_000 for n in range(5)}))
    assert "too large" in problem.reason


def test_an_expected_revision_is_what_stands_there_even_zero() -> None:
    raw = domain()
    assert parsed(raw).expected is None
    raw["metadata"]["revision"] = 0
    assert parsed(raw).expected == 0


def test_stored_bytes_are_json_without_the_revision_and_come_back() -> None:
    typed = document(full_domain())
    value = documents.stored(typed)
    assert b"revision" not in value
    assert msgspec.json.decode(value)["kind"] == "Domain"
    again = documents.loaded(value, 7)
    assert again.metadata.revision == 7
    assert documents.stored(again) == value
    assert documents.same(typed, again)


def test_what_is_got_can_be_applied_again() -> None:
    got = msgspec.to_builtins(document(full_domain()))
    assert document(got) == document(full_domain())


def test_keys_and_subjects_of_a_document() -> None:
    assert documents.key_of(Ref("Domain", "web")) == "document/Domain/web"
    assert documents.subject_of(Ref("ClusterSettings", "cluster")) == "config.clustersettings.cluster"


def test_the_keys_of_real_xl_configurations_can_be_carried() -> None:
    if not XLCFG.exists():
        pytest.skip("the third-party configurations are not here")
    for file in sorted(XLCFG.glob("*.cfg")):
        pairs = re.findall(r"^\s*([a-zA-Z_0-9]+)\s*=\s*(.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
        typed = document(domain(extra={"xl": dict(pairs)}))
        again = documents.loaded(documents.stored(typed), 1)
        assert isinstance(again, d.Domain)
        assert again.spec.extra["xl"] == dict(pairs)


# --- whatever comes in

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.binary(max_size=4)
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6) | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


def _near(struct: type) -> st.SearchStrategy[Any]:
    """Mappings that nearly are this struct: right and wrong keys with right and wrong values."""

    def of(wanted: Any) -> st.SearchStrategy[Any]:
        match wanted:
            case msgspec.inspect.StructType(cls=inner):
                return _near(inner)
            case msgspec.inspect.VarTupleType(item_type=item):
                return st.lists(of(item), max_size=2)
            case msgspec.inspect.UnionType(types=types):
                return st.one_of(*map(of, types))
            case msgspec.inspect.LiteralType(values=values):
                return st.sampled_from(list(values))
            case msgspec.inspect.EnumType(cls=cls):
                return st.sampled_from([str(one.value) for one in cls])
            case msgspec.inspect.IntType():
                return st.integers(-2, 70_000)
            case msgspec.inspect.BoolType():
                return st.booleans()
            case msgspec.inspect.StrType():
                return st.sampled_from(
                    ["", "a", "/a/b", "00:16:3e:00:00:01", "10.0.0.1/8", "nbd://h/x", "0-3"]
                )
            case _:
                return ANYTHING

    known = {name: of(field.type) | ANYTHING for name, field in fields_of(struct).items()}
    right = st.fixed_dictionaries({}, optional={name: of(f.type) for name, f in fields_of(struct).items()})
    return right | st.fixed_dictionaries({}, optional=known) | ANYTHING


NEARLY = st.sampled_from(sorted(KINDS)).flatmap(
    lambda kind: st.fixed_dictionaries(
        {
            "kind": st.just(kind),
            "metadata": _near(d.Metadata) | st.just({"name": "w"}),
            "spec": _near(getattr(d, f"{kind}Spec")),
        }
    )
)


@settings(max_examples=400, deadline=None)
@given(NEARLY | ANYTHING)
def test_whatever_comes_in_is_a_document_or_has_problems_with_path_and_reason(raw: Any) -> None:
    outcome = parse(raw)
    if isinstance(outcome, Parsed):
        value = documents.stored(outcome.document)
        again = documents.loaded(value, outcome.document.metadata.revision)
        assert again == outcome.document
        assert document(msgspec.to_builtins(again)) == again
        return
    assert outcome
    for problem in outcome:
        assert problem.reason
        assert problem.path or not isinstance(raw, dict)
        assert len(msgspec.json.encode(problem)) < 4_000
        assert problem.value.isprintable()


def test_yaml_as_a_person_writes_it_is_taken() -> None:
    text = """
    kind: Domain
    metadata: {name: web, labels: {tier: front}}
    spec:
      cpu: {count: 2}
      disks:
        - {id: root, source: /srv/web.qcow2, format: qcow2}
    """
    assert isinstance(parse(yaml.safe_load(text)), Parsed)
