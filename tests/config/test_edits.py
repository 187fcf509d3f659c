from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.config import Change, Reference
from manor_bus.wire.messages.documents import AnyDocument
from manor_config import edits
from manor_config.catalog import Catalog
from manor_config.edits import Edit, Stamp
from manor_config.references import Ref, ref_of
from manor_config.revision import Guard
from tests.config.examples import document, domain, network, volume

ME = Stamp("operator/me", 100.0, "because")
LATER = Stamp("operator/you", 200.0)
UUID = "0af51c48-5ba1-4b5c-8b44-d3b1c0b9a7e1"


def numbered() -> Callable[[], str]:
    numbers = count(1)
    return lambda: f"00000000-0000-0000-0000-{next(numbers):012}"


class World:
    """A catalog that takes edits as the service does, one revision each."""

    def __init__(self) -> None:
        self.catalog, self.revision, self.new_uuid = Catalog(), 0, numbered()

    def take(self, edit: Edit) -> Edit:
        self.revision += bool(edit.writes)
        for ref, after, size in edit.documents:
            if after is None:
                self.catalog.drop(ref)
            else:
                metadata = replace(after.metadata, revision=self.revision)
                self.catalog.put(replace(after, metadata=metadata), size)
        return edit

    def decide(self, *raws: Any, stamp: Stamp = ME) -> Edit:
        return edits.apply(self.catalog, edits.read(raws), stamp, self.new_uuid)

    def apply(self, *raws: Any, stamp: Stamp = ME) -> Edit:
        return self.take(self.decide(*raws, stamp=stamp))

    def get(self, kind: str, name: str) -> AnyDocument:
        return self.catalog.get(Ref(kind, name))


@pytest.fixture
def world() -> World:
    return World()


def refused(decide: Callable[[], object]) -> ManorError:
    with pytest.raises(ManorError) as refusal:
        decide()
    assert refusal.value.hint
    return refusal.value


def paths(error: ManorError) -> list[str]:
    return [problem.path for problem in error.problems]


# --- apply


def test_a_new_document_gets_a_uuid_and_is_stamped(world: World) -> None:
    edit = world.apply(domain())
    assert [(change.action, change.revision) for change in edit.changes] == [("created", 0)]
    metadata = world.get("Domain", "web").metadata
    assert metadata.uuid == "00000000-0000-0000-0000-000000000001"
    assert (metadata.created, metadata.modified, metadata.modified_by) == (100.0, 100.0, "operator/me")
    assert (metadata.reason, metadata.revision) == ("because", 1)
    assert edit.guards == (Guard("document/Domain/web", revision=0),)


def test_a_uuid_may_be_brought_along(world: World) -> None:
    raw = domain()
    raw["metadata"]["uuid"] = UUID
    world.apply(raw)
    assert world.get("Domain", "web").metadata.uuid == UUID


def test_a_change_keeps_what_identifies_and_shows_what_differs(world: World) -> None:
    world.apply(domain())
    before = world.get("Domain", "web").metadata
    edit = world.apply(domain(memory={"size_mib": 64}), stamp=LATER)
    after = world.get("Domain", "web").metadata
    assert (after.uuid, after.created) == (before.uuid, before.created)
    assert (after.modified, after.modified_by, after.reason) == (200.0, "operator/you", "")
    assert [(line.path, line.new) for line in edit.changes[0].diff] == [("spec.memory.size_mib", "64")]
    assert edit.guards == (Guard("document/Domain/web", revision=1),)


def test_the_same_again_changes_nothing(world: World) -> None:
    world.apply(domain(), volume())
    edit = world.apply(domain(), volume(), stamp=LATER)
    assert [change.action for change in edit.changes] == ["unchanged", "unchanged"]
    assert edit.writes == ()
    assert world.get("Domain", "web").metadata.modified == 100.0


def test_only_what_changed_is_written(world: World) -> None:
    world.apply(*(domain(f"d{n}") for n in range(5)))
    edit = world.apply(*(domain(f"d{n}", rng=n != 3) for n in range(5)))
    assert [write.key for write in edit.writes] == ["document/Domain/d3"]


@pytest.mark.parametrize(("revision", "ok"), [(0, False), (1, True), (2, False)])
def test_an_expected_revision_must_be_the_present_one(world: World, revision: int, ok: bool) -> None:
    world.apply(domain())
    raw = domain(rng=False)
    raw["metadata"]["revision"] = revision
    if ok:
        world.apply(raw)
    else:
        error = refused(lambda: world.decide(raw))
        assert error.kind is Kind.CONFLICT
        assert paths(error) == ["documents[0].metadata.revision"]
        assert error.problems[0].allowed == "1"


def test_expecting_absence_or_presence_of_what_is_not_there(world: World) -> None:
    raw = domain()
    raw["metadata"]["revision"] = 5
    assert "does not exist" in refused(lambda: world.decide(raw)).message
    raw["metadata"]["revision"] = 0
    world.apply(raw)


def test_what_was_got_is_applied_back_as_it_is_and_edited(world: World) -> None:
    world.apply(domain())
    got = msgspec.to_builtins(world.get("Domain", "web"))
    assert world.apply(got, stamp=LATER).changes[0].action == "unchanged"
    got["spec"]["rng"] = False
    assert world.apply(got, stamp=LATER).changes[0].action == "changed"
    assert world.get("Domain", "web").metadata.reason == ""
    assert refused(lambda: world.decide(got)).kind is Kind.CONFLICT


def test_what_config_says_about_a_document_is_not_contradicted(world: World) -> None:
    world.apply(domain())
    raw = domain()
    raw["metadata"] |= {"uuid": UUID, "created": 1.0, "modified": 2.0, "modified_by": "me"}
    error = refused(lambda: world.decide(raw))
    assert paths(error) == [
        f"documents[0].metadata.{f}" for f in ("uuid", "created", "modified", "modified_by")
    ]


def test_uuids_belong_to_one_document(world: World) -> None:
    one, other = domain("one"), volume("other")
    one["metadata"]["uuid"] = other["metadata"]["uuid"] = UUID
    error = refused(lambda: world.decide(one, other))
    assert paths(error) == ["documents[0].metadata.uuid", "documents[1].metadata.uuid"]
    world.apply(one)
    assert "belongs to Domain/one" in refused(lambda: world.decide(other)).problems[0].reason


def test_references_lead_to_documents_that_are_there_or_come_along(world: World) -> None:
    user = domain(disks=[{"id": "d", "volume": "root"}], nics=[{"id": "n", "network": "lan"}])
    error = refused(lambda: world.decide(user))
    assert error.kind is Kind.BAD_REQUEST
    assert paths(error) == ["documents[0].spec.disks[0].volume", "documents[0].spec.nics[0].network"]
    world.apply(user, volume("root"), network("lan"))


def test_domains_do_not_wait_for_each_other_in_a_circle(world: World) -> None:
    world.apply(domain("a"), domain("b", depends_on=["a"]), domain("c", depends_on=["b"]))
    error = refused(lambda: world.decide(network(), domain("a", depends_on=["c"])))
    assert paths(error) == ["documents[1].spec"]
    assert "Domain/a -> Domain/c -> Domain/b -> Domain/a" in error.problems[0].reason


def test_all_problems_of_all_documents_come_at_once() -> None:
    error = refused(lambda: edits.read([domain(vcpus=1), {"kind": "X"}, domain("ok"), domain("ok"), 7]))
    assert paths(error) == [
        "documents[0].spec.vcpus",
        "documents[1].kind",
        "documents[3].metadata.name",
        "documents[4]",
    ]
    assert error.message == "4 problems in 5 documents"


def test_an_apply_has_limits() -> None:
    error = refused(lambda: edits.read([{"kind": "X"}] * 1_000))
    assert len(error.problems) == edits.PROBLEMS_MAX


def test_a_transaction_has_a_size(world: World) -> None:
    raws = [domain(f"d{n}", extra={"x": "y" * 200_000}) for n in range(5)]
    assert "too large" in refused(lambda: world.decide(*raws)).message
    world.apply(*raws[:4])


def test_differences_that_do_not_fit_a_reply_are_counted(world: World) -> None:
    count_ = 900
    world.apply(*(domain(f"d{n}", extra={"a": "x" * 600}) for n in range(count_)))
    edit = world.apply(*(domain(f"d{n}", extra={"a": "y" * 600}) for n in range(count_)))
    told = sum(len(line.old) + len(line.new) for change in edit.changes for line in change.diff)
    assert told < 300_000
    assert edit.changes[-1].diff[0].new == "1 more fields changed"


def test_a_clone_is_not_smaller_than_what_it_starts_from(world: World) -> None:
    base, small = volume(size_mib=2048), volume("copy", clone_of="root", size_mib=1024)
    assert paths(refused(lambda: world.apply(base, small))) == ["documents[1].spec.size_mib"]
    world.apply(base)
    error = refused(lambda: world.apply(small))
    assert (error.kind, error.message) == (
        Kind.BAD_REQUEST,
        "Volume/copy would be smaller than Volume/root, which it starts from",
    )
    assert len(world.catalog) == 1
    world.apply(volume("copy", clone_of="root", size_mib=2048))


def test_a_volume_only_grows_and_not_under_what_shares_its_clusters(world: World) -> None:
    world.apply(volume(size_mib=2048))
    assert refused(lambda: world.apply(volume(size_mib=1024))).message == "Volume/root cannot shrink"
    copy = volume("copy", clone_of="root", size_mib=4096)
    world.apply(volume("raw", clone_of="root", size_mib=4096, format="raw"), volume(size_mib=4096), copy)
    error = refused(lambda: world.apply(volume(size_mib=8192)))
    assert error.message == "Volume/root cannot grow: Volume/copy share its clusters"
    world.apply(volume("raw", clone_of="root", size_mib=8192, format="raw"))


# --- delete


def test_a_document_in_use_is_not_deleted_and_its_users_are_named(world: World) -> None:
    world.apply(volume("v"), *(domain(f"d{n}", disks=[{"id": "d", "volume": "v"}]) for n in range(10)))
    error = refused(lambda: edits.delete(world.catalog, [Reference(kind="Volume", name="v")]))
    assert error.kind is Kind.DENIED_STATE
    assert "Volume/v is used by Domain/d0, Domain/d1" in error.message
    assert error.message.endswith("and 2 more")
    users = [Reference(kind="Domain", name=f"d{n}") for n in range(10)]
    edit = world.take(edits.delete(world.catalog, [Reference(kind="Volume", name="v"), *users]))
    assert {change.action for change in edit.changes} == {"deleted"}
    assert len(world.catalog) == 0


def test_a_delete_may_expect_a_revision(world: World) -> None:
    world.apply(domain())
    web = Reference(kind="Domain", name="web")
    assert refused(lambda: edits.delete(world.catalog, [replace(web, revision=2)])).kind is Kind.CONFLICT
    assert refused(lambda: edits.delete(world.catalog, [web], 2)).kind is Kind.CONFLICT
    assert edits.delete(world.catalog, [replace(web, revision=1)]).writes[0].value is None
    assert edits.delete(world.catalog, [web], 1).writes[0].value is None


def test_a_delete_by_uuid_finds_the_document_under_its_present_name_and_no_other(world: World) -> None:
    world.apply(domain())
    uuid = world.get("Domain", "web").metadata.uuid
    by_uuid = Reference(kind="Domain", uuid=uuid.upper())
    world.take(edits.rename(world.catalog, Ref("Domain", "web"), "new", None, LATER))
    world.apply(domain())  # another one under the old name
    assert [change.name for change in edits.delete(world.catalog, [by_uuid]).changes] == ["new"]
    error = refused(lambda: edits.delete(world.catalog, [replace(by_uuid, name="web")]))
    assert (error.kind, "is 'new', not 'web'" in error.message) == (Kind.CONFLICT, True)
    for gone in (replace(by_uuid, kind="Volume"), replace(by_uuid, uuid="x"), Reference(kind="Domain")):
        assert refused(lambda gone=gone: edits.delete(world.catalog, [gone])).kind is Kind.NOT_FOUND  # type: ignore[misc]


def test_what_a_delete_cannot_mean_is_refused(world: World) -> None:
    world.apply(domain(), volume())
    web = Reference(kind="Domain", name="web")
    assert refused(lambda: edits.delete(world.catalog, [web, web])).kind is Kind.BAD_REQUEST
    unknown = Reference(kind="Domain", name="x")
    assert refused(lambda: edits.delete(world.catalog, [unknown])).kind is Kind.NOT_FOUND


# --- rename


def test_a_rename_keeps_the_identity_and_its_users_follow(world: World) -> None:
    world.apply(volume("v"), domain("a", disks=[{"id": "d", "volume": "v"}]), volume("c", clone_of="v"))
    uuid = world.get("Volume", "v").metadata.uuid
    edit = world.take(edits.rename(world.catalog, Ref("Volume", "v"), "w", 1, LATER))
    assert [(change.name, change.action) for change in edit.changes] == [
        ("v", "deleted"),
        ("w", "created"),
        ("a", "changed"),
        ("c", "changed"),
    ]
    assert world.get("Volume", "w").metadata.uuid == uuid
    assert world.catalog.owner_of(uuid) == Ref("Volume", "w")
    assert world.catalog.users_of(Ref("Volume", "w")) == [Ref("Domain", "a"), Ref("Volume", "c")]
    assert "renamed to w" in world.get("Domain", "a").metadata.reason


@pytest.mark.parametrize(
    ("ref", "name", "expected", "kind"),
    [
        (Ref("Domain", "a"), "b", None, Kind.CONFLICT),
        (Ref("Domain", "a"), "c", 9, Kind.CONFLICT),
        (Ref("Domain", "a"), "x y", None, Kind.BAD_REQUEST),
        (Ref("Domain", "x"), "y", None, Kind.NOT_FOUND),
        (Ref("ClusterSettings", "cluster"), "y", None, Kind.DENIED_STATE),
    ],
)
def test_a_rename_that_cannot_be_is_refused(
    world: World, ref: Ref, name: str, expected: int | None, kind: Kind
) -> None:
    world.apply(domain("a"), domain("b"), {"kind": "ClusterSettings", "metadata": {"name": "cluster"}})
    assert refused(lambda: edits.rename(world.catalog, ref, name, expected, ME)).kind is kind


def test_a_rename_to_its_own_name_changes_nothing(world: World) -> None:
    world.apply(domain("a"))
    assert edits.rename(world.catalog, Ref("Domain", "a"), "a", None, ME).writes == ()


def test_the_reply_shows_the_revision_of_what_was_written() -> None:
    def change(action: Any, revision: int) -> Change:
        return Change(kind="Domain", name="w", uuid="", action=action, revision=revision)

    applied = edits.told([change("created", 0), change("unchanged", 3), change("deleted", 4)], 7, done=True)
    assert [one.revision for one in applied.changes] == [7, 3, 7]
    assert edits.told([change("changed", 4)], 6, done=False).changes[0].revision == 4


def test_a_document_is_named_by_kind_and_name() -> None:
    assert str(ref_of(document(domain()))) == "Domain/web"
