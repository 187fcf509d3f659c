from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from manor_bus.peer.aio import Context
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import config as m
from manor_config import edits
from manor_config.edits import Edit, Stamp
from manor_config.engines.sqlite import Engine, in_memory
from manor_config.references import Ref
from manor_config.revision import Transaction, Write
from manor_config.store import Store
from tests.config.desk import FakePeer
from tests.config.examples import domain


def context(key: str) -> Context:
    return Context("operator/me@n1/i", "operator/me", key, 1e9, "", lambda part: None)


ENGINES: list[Engine] = []


@pytest.fixture(autouse=True)
async def closed_at_the_end() -> AsyncIterator[None]:
    """A connection that is only forgotten is a warning from Python 3.13 on."""
    yield
    while ENGINES:
        await ENGINES.pop().close()


class Shelf:
    """A store over a memory engine, with an Apply of one domain."""

    def __init__(self) -> None:
        self.peer, self.engine = FakePeer(), in_memory()
        ENGINES.append(self.engine)
        self.store = Store(self.engine, self.peer.state, lambda: 7.0)

    async def apply(self, key: str = "", **spec: Any) -> m.Applied:
        request = m.Apply(documents=(domain(**spec),))
        parsed = edits.read(request.documents)

        def decide(stamp: Stamp) -> Edit:
            return edits.apply(self.store.catalog, parsed, stamp, lambda: "a-uuid")

        return await self.store.edit(request, context(key), "why", decide)


async def test_an_edit_is_in_the_engine_in_the_catalog_and_published() -> None:
    shelf = Shelf()
    applied = await shelf.apply()
    [row] = (await shelf.engine.range("")).rows
    document = shelf.store.catalog.get(Ref("Domain", "web"))
    assert (applied.revision, row.revision, document.metadata.revision) == (1, 1, 1)
    assert msgspec.json.decode(row.value)["metadata"]["reason"] == "why"
    assert shelf.peer.published == [("config.domain.web", m.DocumentChanged(document=document))]


async def test_what_changes_nothing_writes_and_publishes_nothing() -> None:
    shelf = Shelf()
    await shelf.apply()
    assert (await shelf.apply()).changes[0].action == "unchanged"
    assert shelf.engine.revision == 1
    assert len(shelf.peer.published) == 1


async def test_an_edit_decided_on_another_state_than_the_stored_one_is_a_conflict() -> None:
    shelf = Shelf()
    await shelf.apply()
    await shelf.engine.txn(Transaction(writes=(Write("document/Domain/web", b"by another writer"),)))
    with pytest.raises(ManorError, match="changed meanwhile") as refusal:
        await shelf.apply(title="mine")
    assert refusal.value.kind is Kind.CONFLICT
    assert len(shelf.peer.published) == 1


async def test_loading_again_drops_what_is_gone_and_keeps_what_is_the_same() -> None:
    shelf = Shelf()
    await shelf.apply()
    kept = (await shelf.engine.range("")).rows[0]
    later = kept.value.replace(b'"web"', b'"later"')
    await shelf.engine.txn(Transaction(writes=(Write("document/Domain/later", later),)))
    await shelf.store.load()
    assert [subject for subject, _ in shelf.peer.published] == ["config.domain.web", "config.domain.later"]
    await shelf.engine.txn(Transaction(writes=(Write("document/Domain/web", None),)))
    await shelf.store.load()
    assert shelf.peer.published[2:] == [("config.domain.web", None)]
    assert [str(ref) for ref, _ in shelf.store.catalog.everything()] == ["Domain/later"]


async def test_a_document_of_another_version_stops_the_start_instead_of_vanishing() -> None:
    shelf = Shelf()
    value = b'{"kind":"Domain","metadata":{"name":"web"},"spec":{"cpu":{"count":"many"}}}'
    await shelf.engine.txn(Transaction(writes=(Write("document/Domain/web", value),)))
    with pytest.raises(ManorError, match="cannot read document/Domain/web") as refusal:
        await shelf.store.load()
    assert refusal.value.hint


async def test_how_much_history_is_kept_is_a_document() -> None:
    shelf = Shelf()
    assert shelf.store.keep() == 10_000
    settings = b'{"kind":"ClusterSettings","metadata":{"name":"cluster"},"spec":{"history_keep":500}}'
    await shelf.engine.txn(Transaction(writes=(Write("document/ClusterSettings/cluster", settings),)))
    await shelf.store.load()
    assert shelf.store.keep() == 500
