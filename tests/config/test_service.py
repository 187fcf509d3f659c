from __future__ import annotations

import asyncio
import hashlib
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from manor_bus.peer.aio import Change, Synced
from manor_bus.settings import BusSettings
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import Done
from manor_bus.wire.messages import config as m
from manor_bus.wire.messages import documents as d
from manor_config import service
from manor_config.service import HISTORY_AGE_S, open_room
from manor_config.settings import Settings
from tests.config.desk import Desk, opened
from tests.config.examples import domain, full_domain, network, volume
from tests.testkit import virtual
from tests.testkit.house import House, house

PIECE = 100_000


@pytest.fixture(params=["memory", "sqlite"])
async def desk(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Desk]:
    async with opened(tmp_path, request.param) as made:
        yield made


async def refused(call: Awaitable[object]) -> ManorError:
    with pytest.raises(ManorError) as refusal:
        await call
    return refusal.value


async def apply(desk: Desk, *raws: Any, key: str = "", **more: Any) -> m.Applied:
    return await desk.ask(m.Apply(documents=tuple(raws), **more), m.Applied, key=key)


async def get(
    desk: Desk, name: str = "web", revision: int | None = None, kind: str = "Domain"
) -> d.AnyDocument:
    return (await desk.ask(m.Get(kind=kind, name=name, revision=revision), m.Got)).document


# --- documents


async def test_what_is_applied_is_got_listed_and_published(desk: Desk) -> None:
    applied = await apply(desk, domain(labels={"tier": "web"}), volume(), reason="first")
    assert applied.revision == 1
    assert [(c.kind, c.name, c.action, c.revision) for c in applied.changes] == [
        ("Domain", "web", "created", 1),
        ("Volume", "root", "created", 1),
    ]
    document = await get(desk)
    assert (document.metadata.modified_by, document.metadata.reason) == ("operator/me", "first")
    assert (document.metadata.uuid, document.metadata.revision) == (applied.changes[0].uuid, 1)
    listed = await desk.ask(m.List(), m.Listed)
    assert [one.metadata.name for one in listed.documents] == ["web", "root"]
    listed = await desk.ask(m.List(selector="tier=web"), m.Listed)
    assert listed.documents == (document,)
    assert [subject for subject, _ in desk.peer.published] == ["config.domain.web", "config.volume.root"]
    assert desk.peer.published[0][1] == m.DocumentChanged(document=document)


async def test_a_dry_run_tells_everything_and_does_nothing(desk: Desk) -> None:
    await apply(desk, domain())
    told = await apply(desk, domain(rng=False), volume(), dry_run=True)
    assert [(change.action, change.revision) for change in told.changes] == [("changed", 1), ("created", 0)]
    assert [(line.path, line.new) for line in told.changes[0].diff] == [("spec.rng", "false")]
    assert told.revision == 1
    assert (await desk.ask(m.List(), m.Listed)).revision == 1
    assert len(desk.peer.published) == 1
    told = await desk.ask(
        m.Delete(references=(m.Reference(kind="Domain", name="web"),), dry_run=True), m.Applied
    )
    assert told.changes[0].action == "deleted"
    assert (await get(desk)).metadata.name == "web"


async def test_one_bad_document_stops_them_all(desk: Desk) -> None:
    error = await refused(apply(desk, domain("good"), domain("bad", vcpus=1)))
    assert error.kind is Kind.BAD_REQUEST
    assert [problem.path for problem in error.problems] == ["documents[1].spec.vcpus"]
    assert (await desk.ask(m.List(), m.Listed)).documents == ()


async def test_a_stale_writer_is_told_and_writes_nothing(desk: Desk) -> None:
    await apply(desk, domain())
    mine = msgspec.to_builtins(await get(desk))
    await apply(desk, domain(rng=False))
    mine["spec"]["title"] = "mine"
    error = await refused(apply(desk, mine))
    assert error.kind is Kind.CONFLICT
    assert "at revision 2" in error.message


async def test_racing_writers_of_one_revision_have_one_winner(desk: Desk) -> None:
    await apply(desk, domain())
    raws = [{**domain(title=f"t{n}"), "metadata": {"name": "web", "revision": 1}} for n in range(12)]
    outcomes = await asyncio.gather(*(apply(desk, raw) for raw in raws), return_exceptions=True)
    assert [isinstance(outcome, m.Applied) for outcome in outcomes].count(True) == 1
    assert all(o.kind is Kind.CONFLICT for o in outcomes if isinstance(o, ManorError))


async def test_a_document_is_read_as_it_was(desk: Desk) -> None:
    await apply(desk, volume())
    for title in ("one", "two"):
        await apply(desk, domain(title=title))
    await desk.ask(m.Delete(references=(m.Reference(kind="Domain", name="web"),)), m.Applied)
    old = await get(desk, revision=2)
    assert isinstance(old, d.Domain)
    assert (old.spec.title, old.metadata.revision) == ("one", 2)
    for revision, why in ((1, "no Domain 'web'"), (4, "deleted at revision 4")):
        error = await refused(get(desk, revision=revision))
        assert error.kind is Kind.NOT_FOUND
        assert why in error.message
    assert (await refused(get(desk, revision=99))).kind is Kind.STALE
    assert "created later" in (await refused(get(desk, "root", 0, "Volume"))).message


async def test_pages_of_a_list_join(desk: Desk) -> None:
    await apply(desk, *(domain(f"d{n:02}") for n in range(25)))
    seen: list[str] = []
    after, more = "", True
    while more:
        page = await desk.ask(m.List(limit=10, after=after), m.Listed)
        seen += [one.metadata.name for one in page.documents]
        after, more = f"Domain/{seen[-1]}", page.more
    assert seen == [f"d{n:02}" for n in range(25)]
    for request, path in (
        (m.List(limit=0), "limit"),
        (m.List(selector="="), "selector"),
        (m.List(kind="X"), "kind"),
    ):
        error = await refused(desk.ask(request, m.Listed))
        assert [problem.path for problem in error.problems] == [path]


async def test_large_documents_come_in_pages_that_fit_a_frame(desk: Desk) -> None:
    for number in range(6):
        await apply(desk, domain(f"d{number}", extra={"k": "x" * 240_000}))
    page = await desk.ask(m.List(), m.Listed)
    assert page.more
    assert 0 < len(page.documents) < 6
    feed = await desk.ask(m.Changes(since=0), m.ChangesListed)
    assert 0 < len(feed.changes) < 6


async def test_what_is_used_is_not_deleted_and_the_user_is_named(desk: Desk) -> None:
    await apply(desk, volume(), domain(disks=[{"id": "d", "volume": "root"}]))
    request = m.Delete(references=(m.Reference(kind="Volume", name="root"),))
    error = await refused(desk.ask(request, m.Applied))
    assert error.kind is Kind.DENIED_STATE
    assert "used by Domain/web" in error.message
    both = m.Delete(references=(*request.references, m.Reference(kind="Domain", name="web")))
    assert len((await desk.ask(both, m.Applied)).changes) == 2
    assert {subject for subject, body in desk.peer.published if body is None} == {
        "config.domain.web",
        "config.volume.root",
    }


async def test_history_tells_who_did_what_and_why(desk: Desk) -> None:
    await apply(desk, domain(), reason="made")
    await apply(desk, network())
    await apply(desk, domain(rng=False), reason="tuned")
    web = m.Reference(kind="Domain", name="web")
    await desk.ask(m.Delete(references=(web,), reason="over"), m.Applied, label="operator/her")
    listed = await desk.ask(m.History(kind="Domain", name="web"), m.HistoryListed)
    assert [(e.revision, e.action, e.by, e.reason) for e in listed.entries] == [
        (4, "deleted", "operator/her", "over"),
        (3, "changed", "operator/me", "tuned"),
        (1, "created", "operator/me", "made"),
    ]
    assert [line.path for line in listed.entries[1].diff] == ["spec.rng"]
    assert listed.entries[0].at > listed.entries[1].at > listed.entries[2].at
    one = await desk.ask(m.History(kind="Domain", name="web", limit=2), m.HistoryListed)
    assert one.entries == listed.entries[:2]
    assert (
        await refused(desk.ask(m.History(kind="Domain", name="x"), m.HistoryListed))
    ).kind is Kind.NOT_FOUND


async def test_a_rollback_writes_the_past_as_a_new_revision(desk: Desk) -> None:
    await apply(desk, domain(title="one"))
    await apply(desk, domain(title="two"))
    applied = await desk.ask(m.Rollback(kind="Domain", name="web", revision=1), m.Applied)
    assert (applied.revision, applied.changes[0].action) == (3, "changed")
    document = await get(desk)
    assert isinstance(document, d.Domain)
    assert document.spec.title == "one"
    assert document.metadata.reason == "rolled back to revision 1"


async def test_a_rollback_brings_a_deleted_document_back_with_its_uuid(desk: Desk) -> None:
    await apply(desk, domain())
    uuid = (await get(desk)).metadata.uuid
    await desk.ask(m.Delete(references=(m.Reference(kind="Domain", name="web"),)), m.Applied)
    error = await refused(desk.ask(m.Rollback(kind="Domain", name="web", revision=2), m.Applied))
    assert error.kind is Kind.NOT_FOUND
    applied = await desk.ask(m.Rollback(kind="Domain", name="web", revision=1), m.Applied)
    assert applied.changes[0].action == "created"
    assert (await get(desk)).metadata.uuid == uuid


async def test_a_rollback_is_checked_like_an_apply(desk: Desk) -> None:
    await apply(desk, volume(), domain(disks=[{"id": "d", "volume": "root"}]))
    await apply(desk, domain())
    await desk.ask(m.Delete(references=(m.Reference(kind="Volume", name="root"),)), m.Applied)
    error = await refused(desk.ask(m.Rollback(kind="Domain", name="web", revision=1), m.Applied))
    assert "no Volume 'root'" in error.problems[0].reason


async def test_a_renamed_document_is_one_event_each_and_followed_by_its_users(desk: Desk) -> None:
    await apply(desk, volume(), domain(disks=[{"id": "d", "volume": "root"}]))
    del desk.peer.published[:]
    await desk.ask(m.Rename(kind="Volume", name="root", new_name="boot"), m.Applied)
    assert [(s, body is None) for s, body in desk.peer.published] == [
        ("config.volume.boot", False),
        ("config.domain.web", False),
        ("config.volume.root", True),
    ]


# --- domains that run


def owned(desk: Desk, uuid: str, **fields: Any) -> Awaitable[m.TxnDone]:
    record = msgspec.json.encode(m.OwnerRecord(node="n1", **fields))
    return desk.ask(m.Txn(puts=(m.Put(key=m.OWNED + uuid, value=record),)), m.TxnDone)


def delete(desk: Desk, name: str = "web", **more: Any) -> Awaitable[m.Applied]:
    return desk.ask(m.Delete(references=(m.Reference(kind="Domain", name=name),), **more), m.Applied)


@pytest.mark.parametrize(("fields", "why"), [({"run": True}, "runs"), ({"saved": "/s"}, "has a saved state")])
async def test_the_document_of_a_living_run_is_deleted_by_force_or_by_its_owner(
    desk: Desk, fields: dict[str, Any], why: str
) -> None:
    await apply(desk, domain())
    uuid = (await get(desk)).metadata.uuid
    await owned(desk, uuid, **fields)
    for more in ({}, {"dry_run": True}, {"operation": "op"}):
        error = await refused(delete(desk, **more))
        assert (error.kind, error.message) == (Kind.DENIED_STATE, f"domain web {why}")
    await desk.ask(m.Rename(kind="Domain", name="web", new_name="shop"), m.Applied)  # it is the same document
    assert (await delete(desk, "shop", force=True)).changes[0].uuid == uuid
    await desk.ask(m.Rollback(kind="Domain", name="web", revision=1), m.Applied)
    await owned(desk, uuid, deleting="op", **fields)
    assert (await delete(desk, operation="op")).changes[0].uuid == uuid


async def test_a_record_that_cannot_be_read_may_stand_for_a_run(desk: Desk) -> None:
    await apply(desk, domain())
    uuid = (await get(desk)).metadata.uuid
    await desk.ask(m.Txn(puts=(m.Put(key=m.OWNED + uuid, value=b"?"),)), m.TxnDone)
    assert "runs" in (await refused(delete(desk))).message
    await desk.ask(m.Txn(removes=(m.Remove(key=m.OWNED + uuid),)), m.TxnDone)
    await delete(desk)


async def test_what_is_being_deleted_is_changed_by_nobody_and_says_so(desk: Desk) -> None:
    await apply(desk, domain(), domain("other"))
    uuid = (await get(desk)).metadata.uuid
    await owned(desk, uuid, deleting="op-7")
    got = await desk.ask(m.Get(kind="Domain", name="web"), m.Got)
    assert got.deleting == "op-7"
    again = {"kind": "Domain", "metadata": {"name": "web"}}
    for call in (
        apply(desk, again),  # not even what is there already
        apply(desk, domain("other"), domain(title="new")),
        apply(desk, domain(title="new"), dry_run=True),
        desk.ask(m.Rename(kind="Domain", name="web", new_name="shop"), m.Applied),
        desk.ask(m.Rollback(kind="Domain", name="web", revision=1), m.Applied),
        delete(desk, operation="another"),
    ):
        error = await refused(call)
        assert (error.kind, "operation op-7" in error.message) == (Kind.DENIED_STATE, True)
    await owned(desk, uuid)
    assert (await apply(desk, domain(title="new"))).changes[0].action == "changed"


async def test_a_mark_set_at_the_same_moment_is_heeded_and_another_write_of_the_owner_is_no_conflict(
    desk: Desk,
) -> None:
    await apply(desk, domain())
    uuid = (await get(desk)).metadata.uuid
    applied, _ = await asyncio.gather(apply(desk, domain(title="1")), owned(desk, uuid, incarnation=1))
    assert applied.changes[0].action == "changed"
    marked, late = await asyncio.gather(
        owned(desk, uuid, deleting="op"), apply(desk, domain(title="2")), return_exceptions=True
    )
    assert isinstance(marked, m.TxnDone)
    assert isinstance(late, ManorError)
    assert "operation op" in late.message


async def test_who_a_service_acts_for_is_in_the_history(desk: Desk) -> None:
    alice = m.Apply(documents=(domain(),))
    await desk.ask(alice, m.Applied, label="service/x", on_behalf_of="operator/alice@n1/x")
    await desk.ask(
        m.Delete(references=(m.Reference(kind="Domain", name="web"),), reason="moved"),
        m.Applied,
        label="service/lifecycle",
        on_behalf_of="operator/bob@n1/y",
    )
    listed = await desk.ask(m.History(kind="Domain", name="web"), m.HistoryListed)
    assert [(e.by, e.reason) for e in listed.entries] == [("operator/bob", "moved"), ("operator/alice", "")]


# --- the past over renames


async def test_history_and_rollback_follow_a_document_over_its_names(desk: Desk) -> None:
    await apply(desk, domain("a", title="one"))
    for new in ("b", "a", "c"):
        [old] = (await desk.ask(m.List(kind="Domain"), m.Listed)).documents
        await desk.ask(m.Rename(kind="Domain", name=old.metadata.name, new_name=new), m.Applied)
    await apply(desk, domain("c", title="two"))
    told = [
        (1, "created", "a"),
        (2, "renamed", "b"),
        (3, "renamed", "a"),
        (4, "renamed", "c"),
        (5, "changed", "c"),
    ]
    for name in ("a", "b", "c"):  # whichever of its names is said
        listed = await desk.ask(m.History(kind="Domain", name=name), m.HistoryListed)
        assert [(e.revision, e.action, e.name) for e in reversed(listed.entries)] == told
    await desk.ask(m.Rollback(kind="Domain", name="c", revision=2), m.Applied)
    document = await get(desk, "c")
    assert isinstance(document, d.Domain)
    assert document.spec.title == "one"


async def test_two_documents_that_had_one_name_are_told_apart(desk: Desk) -> None:
    await apply(desk, domain(title="first"))
    first = (await get(desk)).metadata.uuid
    await delete(desk)
    await apply(desk, domain(title="second"))
    second = (await get(desk)).metadata.uuid
    listed = await desk.ask(m.History(kind="Domain", name="web"), m.HistoryListed)
    assert [(e.action, e.uuid) for e in listed.entries] == [
        ("created", second),
        ("deleted", first),
        ("created", first),
    ]
    one = await desk.ask(m.History(kind="Domain", name="web", uuid=first.upper()), m.HistoryListed)
    assert one.entries == listed.entries[1:]
    error = await refused(desk.ask(m.Rollback(kind="Domain", name="web", revision=1), m.Applied))
    assert (error.kind, f"another Domain, {first}" in error.message) == (Kind.DENIED_STATE, True)


# --- keys


async def test_a_transaction_is_done_or_shows_what_is_there(desk: Desk) -> None:
    put = m.Put(key="owner/domain/u", value=b"n1")
    free = m.Compare(key="owner/domain/u", revision=0)
    done = await desk.ask(m.Txn(compares=(free,), puts=(put,)), m.TxnDone)
    assert (done.succeeded, done.revision) == (True, 1)
    done = await desk.ask(m.Txn(compares=(free,), puts=(put,)), m.TxnDone)
    assert not done.succeeded
    assert done.found == (m.KeyValue(key="owner/domain/u", value=b"n1", revision=1, created=1),)
    mine = m.Compare(key="owner/domain/u", value=b"n1")
    done = await desk.ask(m.Txn(compares=(mine,), removes=(m.Remove(key="owner/domain/u"),)), m.TxnDone)
    assert done.succeeded
    assert (await desk.ask(m.Range(prefix="owner/"), m.Ranged)).entries == ()


async def test_a_range_comes_in_pages(desk: Desk) -> None:
    puts = tuple(m.Put(key=f"owner/{n}", value=b"") for n in range(5))
    await desk.ask(m.Txn(puts=(*puts, m.Put(key="other", value=b""))), m.TxnDone)
    page = await desk.ask(m.Range(prefix="owner/", limit=3), m.Ranged)
    assert ([e.key for e in page.entries], page.more, page.revision) == (
        ["owner/0", "owner/1", "owner/2"],
        True,
        1,
    )
    page = await desk.ask(m.Range(prefix="owner/", after="owner/2"), m.Ranged)
    assert ([e.key for e in page.entries], page.more) == (["owner/3", "owner/4"], False)


@pytest.mark.parametrize(
    "request_",
    [
        m.Txn(puts=(m.Put(key="document/Domain/web", value=b""),)),
        m.Txn(removes=(m.Remove(key="document/Domain/web"),)),
        m.Txn(puts=(m.Put(key="a b", value=b""),)),
        m.Txn(puts=(m.Put(key="a", value=bytes(300_000)),)),
        m.Txn(compares=(m.Compare(key="a"),)),
        m.Txn(puts=(m.Put(key="a", value=b""),), removes=(m.Remove(key="a"),)),
        m.Range(prefix="a b"),
        m.Range(prefix="a", limit=0),
        m.Changes(since=0, prefix="\n"),
        m.Changes(since=0, limit=-1),
        m.Apply(documents=()),
        m.Get(kind="domain", name="web"),
        m.History(kind="Domain", name="web", limit=0),
        m.Rename(kind="X", name="a", new_name="b"),
        m.Restore(upload="", offset=0, content=b""),
    ],
)
async def test_what_cannot_be_meant_is_refused_with_field_and_reason(desk: Desk, request_: Any) -> None:
    error = await refused(desk.ask(request_, m.Applied))
    assert error.kind is Kind.BAD_REQUEST
    assert error.problems
    assert all(problem.path and problem.reason for problem in error.problems)


async def test_changes_are_told_in_order_and_waited_for(desk: Desk) -> None:
    await apply(desk, domain())
    await desk.ask(m.Txn(puts=(m.Put(key="owner/x", value=b"1"),)), m.TxnDone)
    feed = await desk.ask(m.Changes(since=0), m.ChangesListed)
    assert [(c.key, c.revision) for c in feed.changes] == [("document/Domain/web", 1)]
    assert msgspec.json.decode(feed.changes[0].value or b"")["kind"] == "Domain"
    assert feed.revision == 2
    waiting = asyncio.ensure_future(desk.ask(m.Changes(since=2, wait_ms=20_000), m.ChangesListed))
    await desk.ask(m.Txn(puts=(m.Put(key="owner/x", value=b"2"),)), m.TxnDone)
    await desk.ask(m.Delete(references=(m.Reference(kind="Domain", name="web"),)), m.Applied)
    feed = await asyncio.wait_for(waiting, 10)
    assert feed.changes == (m.KeyChange(key="document/Domain/web", revision=4, value=None),)
    assert (await desk.ask(m.Changes(since=4, wait_ms=1), m.ChangesListed)).changes == ()
    assert (await refused(desk.ask(m.Changes(since=9), m.ChangesListed))).kind is Kind.STALE


# --- idempotence


@pytest.mark.parametrize("engine", ["memory", "sqlite"])
async def test_a_key_has_one_effect_and_the_same_reply_across_a_restart(tmp_path: Path, engine: Any) -> None:
    requests: list[tuple[Any, type[Any]]] = [
        (m.Apply(documents=(domain(), volume())), m.Applied),
        (m.Apply(documents=(domain(rng=False), volume())), m.Applied),
        (m.Rollback(kind="Domain", name="web", revision=1), m.Applied),
        (m.Rename(kind="Domain", name="web", new_name="shop"), m.Applied),
        (m.Delete(references=(m.Reference(kind="Volume", name="root"),)), m.Applied),
        (m.Txn(compares=(m.Compare(key="o", revision=0),), puts=(m.Put(key="o", value=b"1"),)), m.TxnDone),
    ]
    async with opened(tmp_path, engine) as desk:
        first = [await desk.ask(r, t, key=f"k{n}") for n, (r, t) in enumerate(requests)]
        again = [await desk.ask(r, t, key=f"k{n}") for n, (r, t) in enumerate(requests)]
        assert again == first
    if engine == "memory":
        return
    async with opened(tmp_path, engine) as desk:
        again = [await desk.ask(r, t, key=f"k{n}") for n, (r, t) in enumerate(requests)]
        assert again == first
        revision = (await desk.ask(m.List(), m.Listed)).revision
        assert revision == len(requests)


async def test_a_key_belongs_to_its_caller_and_to_one_request(desk: Desk) -> None:
    await apply(desk, domain(title="mine"), key="k")
    request = m.Apply(documents=(domain(title="hers"),))
    assert (await desk.ask(request, m.Applied, key="k", label="operator/her")).revision == 2
    error = await refused(apply(desk, domain(title="other"), key="k"))
    assert error.kind is Kind.BAD_REQUEST
    assert "another request" in error.message
    put = m.Txn(puts=(m.Put(key="a", value=b"1"),))
    await desk.ask(put, m.TxnDone, key="k")
    error = await refused(desk.ask(m.Txn(puts=(m.Put(key="a", value=b"2"),)), m.TxnDone, key="k"))
    assert "another request" in error.message


async def test_the_same_request_twice_at_once_is_done_once(desk: Desk) -> None:
    first, second = await asyncio.gather(apply(desk, domain(), key="k"), apply(desk, domain(), key="k"))
    assert first == second
    assert first.changes[0].action == "created"


# --- storage


async def backup(desk: Desk) -> bytes:
    del desk.parts[:]
    done = await desk.ask(m.Backup(), m.BackupDone)
    content = b"".join(part.content for part in desk.parts if isinstance(part, m.BackupChunk))
    assert (len(content), hashlib.sha256(content).hexdigest()) == (done.size, done.sha256)
    return content


async def restore(
    desk: Desk, content: bytes, upload: str = "u1", sha256: str = "", *, force: bool = False
) -> m.Restored:
    digest = sha256 or hashlib.sha256(content).hexdigest()
    offset = 0
    while True:
        piece = content[offset : offset + PIECE]
        last = offset + PIECE >= len(content)
        request = m.Restore(
            upload=upload, offset=offset, content=piece, last=last, sha256=digest if last else "", force=force
        )
        restored = await desk.ask(request, m.Restored)
        offset += len(piece)
        assert restored.size == offset
        if last:
            return restored


async def test_who_owns_what_is_no_part_of_a_backup_and_stays_as_it_is_in_a_restore(desk: Desk) -> None:
    await apply(desk, domain())
    uuid = (await get(desk)).metadata.uuid
    await owned(desk, "old", incarnation=1)
    content = await backup(desk)
    assert b"incarnation" not in content
    await desk.ask(m.Txn(removes=(m.Remove(key=m.OWNED + "old"),)), m.TxnDone)
    await owned(desk, uuid, run=True, incarnation=3)
    before = await desk.ask(m.Range(prefix="owner/"), m.Ranged)
    for upload in ("u1", "u2"):  # once more over what the first left
        await restore(desk, content, upload)
        assert (await desk.ask(m.Range(prefix="owner/"), m.Ranged)).entries == before.entries
    guard = m.Compare(key=m.OWNED + uuid, revision=before.entries[0].revision)
    put = m.Put(key=m.OWNED + uuid, value=b"next")
    done = await desk.ask(m.Txn(compares=(guard,), puts=(put,)), m.TxnDone)
    assert done.succeeded


async def test_a_restore_that_would_take_a_runs_document_names_it_and_needs_to_be_told(desk: Desk) -> None:
    await apply(desk, domain("kept"))
    content = await backup(desk)
    await apply(desk, domain())
    uuid = (await get(desk)).metadata.uuid
    await owned(desk, uuid, run=True)
    await owned(desk, (await get(desk, "kept")).metadata.uuid, run=True)
    error = await refused(restore(desk, content))
    assert (error.kind, error.message.endswith(": web")) == (Kind.DENIED_STATE, True)
    assert (await get(desk)).metadata.uuid == uuid
    forced = await restore(desk, content, "u2", force=True)
    assert forced.left == (uuid,)
    assert await restore(desk, content, "u2", force=True) == forced
    await owned(desk, (await get(desk, "kept")).metadata.uuid, deleting="op")
    assert "being deleted: kept" in (await refused(restore(desk, content, "u3", force=True))).message


async def test_a_backup_brings_everything_back_and_watchers_see_it(desk: Desk) -> None:
    await apply(desk, full_domain(), volume())
    before = await get(desk, "everything")
    content = await backup(desk)
    await apply(desk, domain("later"))
    await desk.ask(m.Delete(references=(m.Reference(kind="Domain", name="everything"),)), m.Applied)
    del desk.peer.published[:]
    restored = await restore(desk, content)
    assert restored.revision == 4
    assert await get(desk, "everything") == before
    assert sorted((subject, body is None) for subject, body in desk.peer.published) == [
        ("config.domain.everything", False),
        ("config.domain.later", True),
    ]
    assert (await refused(desk.ask(m.Changes(since=3), m.ChangesListed))).kind is Kind.STALE
    assert await restore(desk, content) == restored  # the last piece again: its first answer
    assert (await apply(desk, domain("after"))).revision == 5


async def test_what_is_no_backup_changes_nothing(desk: Desk) -> None:
    await apply(desk, domain())
    content = await backup(desk)
    for bad, digest in ((b"nonsense" * 1000, ""), (content[:-9000], ""), (content, "0" * 64)):
        error = await refused(restore(desk, bad, upload=f"u{len(bad)}{digest[:1]}", sha256=digest))
        assert error.kind is Kind.BAD_REQUEST
        assert error.problems
    assert (await get(desk)).metadata.name == "web"


async def test_a_restarted_service_publishes_what_is_stored(tmp_path: Path) -> None:
    async with opened(tmp_path) as desk:
        await apply(desk, *(domain(f"d{n}") for n in range(700)))
        before = await get(desk, "d77")
    async with opened(tmp_path) as desk:
        assert await get(desk, "d77") == before
        assert len(desk.peer.published) == 700
        await asyncio.wait_for(desk.peer.state.complete(), 1)


async def test_a_damaged_store_is_not_an_empty_one(tmp_path: Path) -> None:
    async with opened(tmp_path) as desk:
        await apply(desk, domain())
        content = await backup(desk)
    (tmp_path / "config.db").write_bytes(b"garbage" * 2000)
    async with opened(tmp_path) as desk:
        error = await refused(get(desk))
        assert error.kind is Kind.DENIED_STATE
        assert "config.db.damaged-1" in error.message
        assert "manor config restore" in error.hint
        assert desk.peer.dispatcher.detail == {"trouble": error.message}
        for request in (m.List(), m.Range(prefix="owner/"), m.Changes(since=0), m.Txn(), m.Backup()):
            assert (await refused(desk.ask(request, Done))).kind is Kind.DENIED_STATE
        # Watchers are not told that everything is gone: they wait.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(desk.peer.state.complete(), 0.01)
        await restore(desk, content)
        assert (await get(desk)).metadata.name == "web"
        await asyncio.wait_for(desk.peer.state.complete(), 1)
        assert desk.peer.dispatcher.detail == {}
    async with opened(tmp_path) as desk:
        assert (await get(desk)).metadata.name == "web"


async def test_a_store_that_is_gone_is_no_empty_one_and_the_loss_can_be_accepted(tmp_path: Path) -> None:
    async with opened(tmp_path) as desk:
        await apply(desk, domain())
        await owned(desk, "u", run=True)
    (tmp_path / "config.db").unlink()
    async with opened(tmp_path) as desk:
        error = await refused(get(desk))
        assert (error.kind, "revision 2 was acknowledged" in error.message) == (Kind.DENIED_STATE, True)
        accept = m.Restore(upload="", offset=0, content=b"", accept_loss=True)
        for _ in range(2):
            assert (await desk.ask(accept, m.Restored)).revision == 2
        assert (await apply(desk, domain())).revision == 3


async def test_no_part_of_the_service_dies_unnoticed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    noticed = asyncio.Event()

    def critical(text: str, **_: object) -> None:
        assert "died" in text
        noticed.set()

    monkeypatch.setattr(service.log, "critical", critical)
    del desk.peer.session.greeted  # a bug in what runs for ever
    await asyncio.wait_for(noticed.wait(), 10)


async def test_a_store_that_fails_ends_the_process_and_the_next_one_finds_the_damage(tmp_path: Path) -> None:
    script = Path(__file__).with_name("read_damage.py")
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(tmp_path), stdout=PIPE, stderr=PIPE, cwd=script.parents[2]
    )
    said, log = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1, log.decode()
    assert said.decode().splitlines() == ["unavailable"]
    async with opened(tmp_path) as desk:
        assert (await refused(desk.ask(m.List(), m.Listed))).kind is Kind.DENIED_STATE


# --- on the bus, in virtual time

MEMORY = Settings(bus=BusSettings("n1", "", Path(), Path()), directory=Path(), engine="memory")


def at_home(scenario: Callable[[House], Awaitable[None]]) -> None:
    async def run() -> None:
        async with house(config=(open_room, MEMORY)) as home:
            await scenario(home)

    virtual.run(run())


def test_a_watcher_sees_documents_come_change_and_go() -> None:
    async def scenario(home: House) -> None:
        peer = home.peer()
        await peer.ready()
        await peer.call(m.Apply(documents=(domain(),)), m.Applied, timeout=5)
        seen: list[Any] = []
        watching = peer.watch("config.domain.*")
        async for change in watching:
            if isinstance(change, Synced):
                break
            seen.append(change)
        await peer.call(m.Apply(documents=(domain(rng=False),)), m.Applied, timeout=5)
        request = m.Delete(references=(m.Reference(kind="Domain", name="web"),))
        await peer.call(request, m.Applied, timeout=5)
        async for change in watching:
            seen.append(change)
            if isinstance(change, Change) and change.value is None:
                break
        assert {change.subject for change in seen} == {"config.domain.web"}
        assert seen[0].value.document.metadata.revision == 1

    at_home(scenario)


def test_a_long_poll_is_answered_within_the_budget() -> None:
    async def scenario(home: House) -> None:
        peer = home.peer()
        await peer.ready()
        loop = asyncio.get_running_loop()
        began = loop.time()
        feed = await peer.call(m.Changes(since=0, wait_ms=60_000), m.ChangesListed, timeout=5)
        assert feed.changes == ()
        assert 4 < loop.time() - began < 5
        waiting = asyncio.ensure_future(
            peer.call(m.Changes(since=0, wait_ms=60_000), m.ChangesListed, timeout=50)
        )
        await asyncio.sleep(3)
        await peer.call(m.Apply(documents=(domain(),)), m.Applied, timeout=5)
        assert (await waiting).revision == 1

    at_home(scenario)


def test_old_history_is_forgotten_by_itself() -> None:
    async def scenario(home: House) -> None:
        peer = home.peer()
        await peer.ready()
        keep = {"kind": "ClusterSettings", "metadata": {"name": "cluster"}, "spec": {"history_keep": 100}}
        await peer.call(m.Apply(documents=(keep,)), m.Applied, timeout=5)
        for n in range(150):
            await peer.call(m.Apply(documents=(domain(title=str(n)),)), m.Applied, timeout=5)
        await asyncio.sleep(HISTORY_AGE_S / 2)
        first = await peer.call(m.Changes(since=0, limit=1), m.ChangesListed, timeout=5)
        assert first.changes
        await asyncio.sleep(HISTORY_AGE_S)
        with pytest.raises(ManorError, match="up to revision 51 was compacted"):
            await peer.call(m.Changes(since=50), m.ChangesListed, timeout=5)
        history = await peer.call(m.History(kind="Domain", name="web", limit=500), m.HistoryListed, timeout=5)
        assert (len(history.entries), history.compacted) == (101, 51)

    at_home(scenario)
