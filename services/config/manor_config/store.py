"""The engine with the catalog above it: edits one after another, everything else at once.

Documents change only through here, so the catalog is what the engine holds, and what is published.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import Final

import msgspec

from manor_bus.peer.aio import Context
from manor_bus.peer.state import State
from manor_bus.wire.errors import Kind, ManorError, conflict
from manor_bus.wire.messages.config import OWNED, Applied, Apply, Delete, DocumentChanged, Rename, Rollback
from manor_config import notes, owners
from manor_config.catalog import Catalog
from manor_config.documents import PREFIX, loaded, subject_of
from manor_config.edits import Edit, Stamp, told
from manor_config.engines.sqlite import Engine
from manor_config.owners import Owned
from manor_config.references import Ref
from manor_config.revision import Outcome, Row, Transaction, check_transaction

TRIES: Final = 5  # while an owner writes at the same time
Decide = Callable[[Stamp], Edit]
Edits = Apply | Delete | Rename | Rollback


def actor(context: Context) -> str:
    """Return the principal who wants something: the caller, or whom a service acts for."""
    return context.actor.partition("@")[0]


class Store:
    """What the service's coroutines share."""

    def __init__(self, engine: Engine, state: State, now: Callable[[], float]) -> None:
        self.engine = engine
        self.catalog = Catalog()
        self.owners: dict[str, Owned] = {}
        self._state = state
        self._now = now
        self._editing = asyncio.Lock()

    async def load(self) -> None:
        """Read all documents and publish them; what is published and not there (any more) is dropped."""
        self.catalog = await self._catalog()
        self.owners = dict([owners.read(row) async for row in self._rows(OWNED)])
        catalog = self.catalog
        present = {subject_of(ref): document for ref, document in catalog.everything()}
        for subject in self._state.subjects():
            if subject not in present:
                self._state.drop(subject)
        for subject, document in present.items():
            self._state.put(subject, DocumentChanged(document=document))

    async def _catalog(self) -> Catalog:
        catalog = Catalog()
        async for row in self._rows(PREFIX):
            try:
                catalog.put(loaded(row.value, row.revision), len(row.value))
            except msgspec.MsgspecError as error:
                # To go on without it would look as if somebody had deleted it.
                message = f"this version cannot read {row.key}: {error}"
                hint = "Start the version of Manor that wrote it, or restore a backup."
                raise ManorError(Kind.INTERNAL, message, hint=hint) from error
        return catalog

    async def _rows(self, prefix: str) -> AsyncIterator[Row]:
        after, more = "", True
        while more:
            page = await self.engine.range(prefix, after=after)
            for row in page.rows:
                yield row
                after = row.key
            more = page.more

    async def edit(self, request: Edits, context: Context, reason: str, decide: Decide) -> Applied:
        """Decide on the present documents and write, once for each idempotency key; in a dry run only say
        what would be."""
        operation, force = (request.operation, request.force) if isinstance(request, Delete) else ("", False)
        stamp = Stamp(actor(context), self._now(), reason)
        op_id = notes.op_id(context.label, request, context.key)
        dry = getattr(request, "dry_run", False)
        async with self._editing:
            first = await self.engine.recall("" if dry else op_id)
            if first is not None:
                return notes.repeated(first, request)
            for _ in range(TRIES):
                edit = decide(stamp)
                guards = owners.permit(edit.changes, self.owners, operation=operation, force=force)
                if dry or not edit.writes:
                    return told(edit.changes, self.engine.revision, done=not dry)
                digest = notes.digest(request)
                note = notes.Note(
                    by=stamp.by, at=stamp.at, reason=reason, digest=digest, changes=edit.changes
                )
                guarded = (*edit.guards, *guards)
                transaction = Transaction(guarded, edit.writes, op_id, notes.encode(note), stamp.at)
                check_transaction(transaction)
                outcome = await self.engine.txn(transaction)
                if outcome.succeeded:
                    self._take(edit, outcome.revision)
                    return told(edit.changes, outcome.revision, done=True)
                present = {row.key: row.revision for row in outcome.found}
                if any(present.get(guard.key, 0) != guard.revision for guard in edit.guards):
                    raise conflict("a document changed meanwhile", hint="Read it again and repeat.")
                await asyncio.sleep(0)  # an owner wrote its record meanwhile: decide on what it says now
        raise conflict("the owner of a domain writes all the time", hint="Repeat it.")

    async def txn(self, transaction: Transaction) -> Outcome:
        """Do a transaction on keys that are no documents."""
        outcome = await self.engine.txn(transaction)
        for write in transaction.writes if outcome.succeeded and not outcome.repeated else ():
            uuid = write.key.removeprefix(OWNED)
            if uuid == write.key:
                continue
            self.owners.pop(uuid, None)
            if write.value is not None:
                self.owners.update([owners.read(Row(write.key, write.value, outcome.revision, 0, 0))])
        return outcome

    def _take(self, edit: Edit, revision: int) -> None:
        """Let the catalog and the watchers know what was written; what has a new name is never gone."""
        for ref, document, size in sorted(edit.documents, key=lambda one: one[1] is None):
            if document is None:
                self.catalog.drop(ref)
                self._state.drop(subject_of(ref))
            else:
                metadata = msgspec.structs.replace(document.metadata, revision=revision)
                document = msgspec.structs.replace(document, metadata=metadata)
                self.catalog.put(document, size)
                self._state.put(subject_of(ref), DocumentChanged(document=document))

    async def restore(self, path: Path, upload: str, after: Collection[str], *, force: bool) -> int:
        """Replace all documents by a checked backup that holds those of domains with the uuids `after`."""
        async with self._editing:
            owners.permit_restore(self._domains(), after, self.owners, force=force)
            revision = await self.engine.restore(path, upload)
            await self.load()
        return revision

    def left(self) -> tuple[str, ...]:
        """Return the uuids of domains that run or are saved and have no document."""
        return owners.without(self._domains(), self.owners)

    def _domains(self) -> dict[str, str]:
        everything = self.catalog.everything()
        return {one.metadata.uuid: ref.name for ref, one in everything if ref.kind == "Domain"}

    def keep(self) -> int:
        """Return how many revisions of history the settings want to be kept."""
        found = self.catalog.find(Ref("ClusterSettings", "cluster"))
        keep: int = getattr(found.spec if found else None, "history_keep", 10_000)
        return keep
