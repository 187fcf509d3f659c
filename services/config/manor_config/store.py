"""The engine with the catalog above it: edits one after another, everything else at once.

Documents change only through here, so the catalog is what the engine holds, and what is published.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec

from manor_bus.peer.aio import Context
from manor_bus.peer.state import State
from manor_bus.wire.errors import Kind, ManorError, conflict
from manor_bus.wire.messages import Message
from manor_bus.wire.messages.config import Applied, DocumentChanged
from manor_config import notes
from manor_config.catalog import Catalog
from manor_config.documents import PREFIX, loaded, subject_of
from manor_config.edits import Edit, Stamp, told
from manor_config.engines import Engine
from manor_config.references import Ref
from manor_config.revision import Transaction, check_transaction

Decide = Callable[[Stamp], Edit]


class Store:
    """What the service's coroutines share."""

    def __init__(self, engine: Engine, state: State, now: Callable[[], float]) -> None:
        self.engine = engine
        self.catalog = Catalog()
        self._state = state
        self._now = now
        self._editing = asyncio.Lock()

    async def load(self) -> None:
        """Read all documents and publish them; what is published and not there (any more) is dropped."""
        catalog, after, more = Catalog(), "", True
        while more:
            page = await self.engine.range(PREFIX, after=after)
            for row in page.rows:
                try:
                    catalog.put(loaded(row.value, row.revision), len(row.value))
                except msgspec.MsgspecError as error:
                    # To go on without it would look as if somebody had deleted it.
                    message = f"this version cannot read {row.key}: {error}"
                    hint = "Start the version of Manor that wrote it, or restore a backup."
                    raise ManorError(Kind.INTERNAL, message, hint=hint) from error
                after = row.key
            more = page.more
        self.catalog = catalog
        present = {subject_of(ref): document for ref, document in catalog.everything()}
        for subject in self._state.subjects():
            if subject not in present:
                self._state.drop(subject)
        for subject, document in present.items():
            self._state.put(subject, DocumentChanged(document=document))

    async def edit(self, request: Message, context: Context, reason: str, decide: Decide) -> Applied:
        """Decide on the present documents and write, once for each idempotency key."""
        op_id = notes.op_id(context.label, request, context.key)
        async with self._editing:
            first = await self.engine.recall(op_id)
            if first is not None:
                return notes.repeated(first, request)
            stamp = Stamp(context.label, self._now(), reason)
            edit = decide(stamp)
            if not edit.writes:
                return told(edit.changes, self.engine.revision, done=True)
            note = notes.Note(
                by=stamp.by, at=stamp.at, reason=reason, digest=notes.digest(request), changes=edit.changes
            )
            transaction = Transaction(edit.guards, edit.writes, op_id, notes.encode(note), stamp.at)
            check_transaction(transaction)
            outcome = await self.engine.txn(transaction)
            if not outcome.succeeded:
                raise conflict("a document changed meanwhile", hint="Read it again and repeat.")
            self._take(edit, outcome.revision)
            return told(edit.changes, outcome.revision, done=True)

    def _take(self, edit: Edit, revision: int) -> None:
        """Let the catalog and the watchers know what was written."""
        for ref, document, size in edit.documents:
            if document is None:
                self.catalog.drop(ref)
                self._state.drop(subject_of(ref))
            else:
                metadata = msgspec.structs.replace(document.metadata, revision=revision)
                document = msgspec.structs.replace(document, metadata=metadata)
                self.catalog.put(document, size)
                self._state.put(subject_of(ref), DocumentChanged(document=document))

    async def restore(self, path: Path, upload: str) -> int:
        """Replace everything by a checked backup."""
        async with self._editing:
            revision = await self.engine.restore(path, upload)
            await self.load()
        return revision

    def keep(self) -> int:
        """Return how many revisions of history the settings want to be kept."""
        found = self.catalog.find(Ref("ClusterSettings", "cluster"))
        keep: int = getattr(found.spec if found else None, "history_keep", 10_000)
        return keep
