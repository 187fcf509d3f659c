from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.documents import AnyDocument
from manor_config.catalog import Catalog, check_kind
from manor_config.references import Ref, ref_of, uses
from manor_config.selectors import parse
from tests.config.examples import document, domain, network, volume


def made(raw: object, uuid: str = "") -> AnyDocument:
    typed = document(raw)
    return replace(typed, metadata=replace(typed.metadata, uuid=uuid or f"uuid of {ref_of(typed)}"))


def catalog_of(*raws: object) -> Catalog:
    catalog = Catalog()
    for raw in raws:
        catalog.put(made(raw), 100)
    return catalog


def test_pages_are_in_order_of_kind_and_name_and_go_on_after_the_last_one() -> None:
    catalog = catalog_of(volume("b"), domain("b"), network("a"), domain("a"), domain("c", {"tier": "x"}))
    names = [str(ref) for ref, _ in catalog.everything()]
    assert names == ["Domain/a", "Domain/b", "Domain/c", "Network/a", "Volume/b"]
    seen: list[str] = []
    more = True
    while more:
        page, more = catalog.page("", (), seen[-1] if seen else "", 2)
        seen += [str(ref_of(one)) for one in page]
    assert seen == names
    assert [one.metadata.name for one in catalog.page("Domain", (), "Domain/a", 9)[0]] == ["b", "c"]
    assert [one.metadata.name for one in catalog.page("", parse("tier=x"), "", 9)[0]] == ["c"]
    assert catalog.page("Node", (), "", 9) == ([], False)


def test_a_page_fits_a_frame() -> None:
    catalog = Catalog()
    for number in range(5):
        catalog.put(made(domain(f"d{number}")), 300_000)
    page, more = catalog.page("", (), "", 9)
    assert (len(page), more) == (3, True)


def test_users_are_known_and_forgotten() -> None:
    catalog = catalog_of(volume("v"), domain("a", disks=[{"id": "d", "volume": "v"}]))
    catalog.put(made(domain("b", disks=[{"id": "d", "volume": "v"}])), 1)
    assert catalog.users_of(Ref("Volume", "v")) == [Ref("Domain", "a"), Ref("Domain", "b")]
    catalog.put(made(domain("a")), 1)
    assert catalog.users_of(Ref("Volume", "v")) == [Ref("Domain", "b")]
    catalog.drop(Ref("Domain", "b"))
    assert catalog.users_of(Ref("Volume", "v")) == []


def test_a_missing_document_is_not_found() -> None:
    with pytest.raises(ManorError, match="no Domain 'web'") as refusal:
        Catalog().get(Ref("Domain", "web"))
    assert refusal.value.kind is Kind.NOT_FOUND
    with pytest.raises(ManorError, match="no kind 'Domian'"):
        check_kind("Domian")


STEPS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sets(st.sampled_from("abc")) | st.none(), st.sampled_from("xyz")),
    max_size=20,
)


@given(STEPS)
def test_indexes_always_agree_with_the_documents(steps: list[tuple[str, set[str] | None, str]]) -> None:
    catalog = Catalog()
    for name, used, uuid in steps:
        if used is not None:
            catalog.put(made(domain(name, depends_on=sorted(used - {name})), uuid=name + uuid), 1)
        elif catalog.find(Ref("Domain", name)):
            catalog.drop(Ref("Domain", name))
        present = dict(catalog.everything())
        assert list(present) == sorted(present)
        assert len(catalog) == len(present)
        for other in "abc":
            ref = Ref("Domain", other)
            assert catalog.users_of(ref) == [
                user for user, one in present.items() if ref in dict(uses(one)).values()
            ]
            for each in "xyz":
                owner = [ref for ref, one in present.items() if one.metadata.uuid == other + each]
                assert catalog.owner_of(other + each) == (owner[0] if owner else None)
