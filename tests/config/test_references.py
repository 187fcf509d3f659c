from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from manor_config.references import Ref, circles, ref_of, renamed, uses
from tests.config.examples import document, domain, network, volume

USER = domain(
    disks=[{"id": "a", "source": "/a"}, {"id": "b", "volume": "root"}],
    nics=[{"id": "n"}, {"id": "m", "network": "lan"}],
    graphics={"type": "vnc", "password_ref": "vnc"},
    depends_on=["db", "root"],
)
PROVIDER = {"kind": "Provider", "metadata": {"name": "p"}, "spec": {"backend": "nbd", "domain": "db"}}


def test_a_domain_uses_what_it_names() -> None:
    assert {path: str(ref) for path, ref in uses(document(USER))} == {
        "spec.disks[1].volume": "Volume/root",
        "spec.nics[1].network": "Network/lan",
        "spec.graphics.password_ref": "Credential/vnc",
        "spec.depends_on[0]": "Domain/db",
        "spec.depends_on[1]": "Domain/root",
    }


def test_volumes_and_providers_use_others_too() -> None:
    assert list(uses(document(volume(clone_of="gold")))) == [("spec.clone_of", Ref("Volume", "gold"))]
    assert list(uses(document(PROVIDER))) == [("spec.domain", Ref("Domain", "db"))]
    assert list(uses(document(network()))) == []
    assert ref_of(document(PROVIDER)) == Ref("Provider", "p")


def test_a_rename_is_followed_wherever_the_name_is_used_and_only_for_its_kind() -> None:
    changed = renamed(document(USER), Ref("Volume", "root"), "boot")
    assert dict(uses(changed))["spec.disks[1].volume"] == Ref("Volume", "boot")
    assert dict(uses(changed))["spec.depends_on[1]"] == Ref("Domain", "root")
    for raw, old in ((volume(clone_of="gold"), Ref("Volume", "gold")), (PROVIDER, Ref("Domain", "db"))):
        [(_, used)] = uses(renamed(document(raw), old, "new"))
        assert used == Ref(old.kind, "new")
    for old in (Ref("Network", "lan"), Ref("Credential", "vnc"), Ref("Domain", "db")):
        names = [ref for _, ref in uses(renamed(document(USER), old, "new"))]
        assert Ref(old.kind, "new") in names
        assert old not in names
    assert renamed(document(network()), Ref("Network", "lan"), "x") == document(network())


EDGES = st.dictionaries(st.integers(0, 6), st.sets(st.integers(0, 6), max_size=3), max_size=7)


@given(EDGES)
def test_a_circle_is_found_exactly_when_there_is_one(edges: dict[int, set[int]]) -> None:
    refs = {number: Ref("Domain", str(number)) for number in range(7)}
    used = {refs[a]: [refs[b] for b in bs] for a, bs in edges.items()}
    found = list(circles(refs.values(), lambda ref: used.get(ref, [])))
    assert len({(way[-1], way[0]) for way in found}) == len(found)
    for way in found:
        for here, there in zip(way, (*way[1:], way[0]), strict=True):
            assert there in used[here]
    reachable = {a: set(bs) for a, bs in edges.items()}
    for _ in range(7):
        reachable = {a: bs | {c for b in bs for c in reachable.get(b, ())} for a, bs in reachable.items()}
    assert bool(found) == any(a in bs for a, bs in reachable.items())
