"""The config service on the bus: one coroutine per message."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import Final

from manor_bus.peer.aio import Answer, Context, Peer
from manor_bus.peer.serving import Room
from manor_bus.wire.errors import ManorError, Problem, bad_request, denied_state
from manor_bus.wire.messages import Message
from manor_bus.wire.messages import config as m
from manor_bus.wire.messages.documents import AnyDocument
from manor_config import edits, notes
from manor_config.catalog import absent, check_kind, named, not_then
from manor_config.credentials import pass_on
from manor_config.documents import PREFIX, key_of, loaded, uuid_of
from manor_config.engines import tables
from manor_config.engines.place import Place
from manor_config.engines.sqlite import Engine, in_memory, open_engine
from manor_config.history import entries_of, state_at
from manor_config.references import Ref
from manor_config.revision import (
    PAGE_ROWS_MAX,
    Guard,
    Row,
    Transaction,
    Write,
    check_transaction,
    compactable,
)
from manor_config.selectors import parse
from manor_config.settings import Settings
from manor_config.store import Store, actor
from manor_config.uploads import Copies

OWNS: Final = ("config.>",)
WAIT_MS_MAX: Final = 60_000
HISTORY_MAX: Final = 500
LIST_MAX: Final = 2_000
REPLY_MARGIN_S: Final = 0.25  # an answer is on its way before the caller's budget ends
COMPACT_EVERY_S: Final = 60.0
LAST_WORDS_S: Final = 0.1  # for the answers to those who were told of a failure
HISTORY_AGE_S: Final = 3_600.0  # history and op ids live at least so long
log = logging.getLogger(__name__)


class Config:
    """The answers. Without a store (`damage` says why) only a restore is served."""

    def __init__(
        self, peer: Peer, settings: Settings, now: Callable[[], float], new_uuid: Callable[[], str]
    ) -> None:
        self._peer, self._settings, self._now, self._new_uuid = peer, settings, now, new_uuid
        self._clock = asyncio.get_running_loop().time
        self.copies = Copies(settings.directory, lambda: self._store, self.open)
        self._store: Store | None = None
        self._damage = ""
        self.opened = asyncio.Event()

    async def open(self) -> None:
        """Open the store; the documents are shown once they are complete."""
        self._peer.state.hold()
        try:
            engine = self._engine()
        except tables.Damaged as damage:
            self._damage = str(damage)
            self._peer.dispatcher.detail["trouble"] = self._damage
            log.critical("%s", damage)
            return
        store = Store(engine, self._peer.state, self._now)
        await store.load()
        self._store = store
        self._peer.dispatcher.detail.pop("trouble", None)
        self._peer.state.release()
        self.opened.set()

    def _engine(self) -> Engine:
        if self._settings.engine == "memory":
            return in_memory()
        return open_engine(Place(self._settings.directory))

    @property
    def store(self) -> Store:
        """The open store; `denied_state` says what happened to it and what is possible now."""
        if self._store is None:
            hint = "Running domains are not touched. `manor config restore` says what is possible."
            raise denied_state(self._damage, hint=hint)
        return self._store

    async def apply(self, request: m.Apply, context: Context) -> m.Applied:
        """Create or change documents."""
        parsed = edits.read(request.documents)

        def decide(stamp: edits.Stamp) -> edits.Edit:
            return edits.apply(self.store.catalog, parsed, stamp, self._new_uuid)

        return await self.store.edit(request, context, request.reason, decide)

    async def delete(self, request: m.Delete, context: Context) -> m.Applied:
        """Delete documents."""

        def decide(stamp: edits.Stamp) -> edits.Edit:
            return edits.delete(self.store.catalog, request.references, request.revision)

        return await self.store.edit(request, context, request.reason, decide)

    async def rename(self, request: m.Rename, context: Context) -> m.Applied:
        """Rename a document."""
        ref = named(request.kind, request.name)

        def decide(stamp: edits.Stamp) -> edits.Edit:
            return edits.rename(self.store.catalog, ref, request.new_name, request.revision, stamp)

        return await self.store.edit(request, context, request.reason, decide)

    async def rollback(self, request: m.Rollback, context: Context) -> m.Applied:
        """Write a past state of a document as a new revision."""
        ref = named(request.kind, request.name)
        said = await self._as_of(self.store, ref, request.revision)

        def decide(stamp: edits.Stamp) -> edits.Edit:
            return edits.rollback(self.store.catalog, ref, said, request.revision, stamp)

        reason = request.reason or f"rolled back to revision {request.revision}"
        return await self.store.edit(request, context, reason, decide)

    async def get(self, request: m.Get, context: Context) -> m.Got:
        """Answer with one document."""
        store, ref = self.store, named(request.kind, request.name)
        if request.revision is None:
            document = store.catalog.get(ref)
            owned = store.owners.get(document.metadata.uuid) if ref.kind == "Domain" else None
            deleting = owned.record.deleting if owned else ""
            return m.Got(document=document, revision=store.engine.revision, deleting=deleting)
        document = await self._as_of(store, ref, request.revision)
        return m.Got(document=document, revision=store.engine.revision)

    async def _as_of(self, store: Store, ref: Ref, revision: int) -> AnyDocument:
        """Return what had the name then, or what has it now and had another name then."""
        entry = await store.engine.at(key_of(ref), revision)
        present = store.catalog.find(ref)
        if present is not None and (entry is None or entry.value is None):
            past = await store.engine.past(key_of(ref), PAGE_ROWS_MAX, uuid_of)
            found = state_at(past, present.metadata.uuid, revision)
            if found is not None:
                return found
        if entry is None:
            raise (
                absent(ref) if store.catalog.find(ref) is None else not_then(ref, revision, "created later")
            )
        if entry.value is None:
            raise not_then(ref, revision, f"deleted at revision {entry.revision}")
        return loaded(entry.value, entry.revision)

    async def list(self, request: m.List, context: Context) -> m.Listed:
        """Answer with a page of documents."""
        store = self.store
        if request.kind:
            check_kind(request.kind)
        limit = min(request.limit, LIST_MAX)
        documents, more = store.catalog.page(request.kind, parse(request.selector), request.after, limit)
        return m.Listed(documents=tuple(documents), revision=store.engine.revision, more=more)

    async def history(self, request: m.History, context: Context) -> m.HistoryListed:
        """Answer with the past of a document."""
        engine, ref = self.store.engine, named(request.kind, request.name)
        limit = min(request.limit, HISTORY_MAX)
        known = self.store.catalog.owner_of(request.uuid.lower())
        ref = known if known is not None and known.kind == ref.kind else ref
        past = await engine.past(key_of(ref), limit + 1, uuid_of)
        if request.uuid:
            past = tuple(one for one in past if one.uuid == request.uuid.lower())
        if not past:
            raise absent(ref)
        return m.HistoryListed(entries=entries_of(past, limit), compacted=await engine.compacted())

    async def changes(self, request: m.Changes, context: Context) -> m.ChangesListed:
        """Answer with what changed, waiting for it if wanted."""
        engine = self.store.engine
        limit = min(request.limit, PAGE_ROWS_MAX)
        wait_s = min(request.wait_ms, WAIT_MS_MAX) / 1000
        until = min(self._clock() + wait_s, context.deadline - REPLY_MARGIN_S)
        since = request.since
        while True:
            feed = await engine.changes(request.prefix, since, limit)
            since = feed.revision
            left = until - self._clock()
            if feed.entries or left <= 0:
                break
            if not feed.more:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(engine.moved(since), left)
        entries = (m.KeyChange(key=e.key, revision=e.revision, value=e.value) for e in feed.entries)
        return m.ChangesListed(changes=tuple(entries), revision=since)

    async def txn(self, request: m.Txn, context: Context) -> m.TxnDone:
        """Do a guarded transaction on keys that are no documents."""
        guards = tuple(Guard(one.key, one.revision, one.value) for one in request.compares)
        puts = (Write(one.key, one.value) for one in request.puts)
        writes = (*puts, *(Write(one.key, None) for one in request.removes))
        at, asked = self._now(), notes.digest(request)
        note = notes.encode(notes.Note(by=actor(context), at=at, digest=asked))
        op_id = notes.op_id(context.label, request, context.key)
        transaction = Transaction(guards, writes, op_id, note, at)
        check_transaction(transaction)
        if any(write.key.startswith(PREFIX) for write in writes):
            problem = Problem(path="key", reason="is a document", allowed=f"keys outside {PREFIX}")
            raise bad_request("documents change through Apply, which checks them", problem)
        outcome = await self.store.txn(transaction)
        if outcome.repeated:
            notes.repeated(outcome, request)
        found = tuple(map(_wire, outcome.found))
        return m.TxnDone(succeeded=outcome.succeeded, revision=outcome.revision, found=found)

    async def range(self, request: m.Range, context: Context) -> m.Ranged:
        """Answer with a page of keys."""
        limit = min(request.limit, PAGE_ROWS_MAX)
        page = await self.store.engine.range(request.prefix, after=request.after, limit=limit)
        return m.Ranged(entries=tuple(map(_wire, page.rows)), revision=page.revision, more=page.more)

    async def compact(self) -> None:
        """Forget old history, for ever."""
        await self.opened.wait()
        samples: deque[tuple[float, int]] = deque()
        done = 0
        while True:
            engine, now = self.store.engine, self._clock()
            samples.append((now, engine.revision))
            while len(samples) > 1 and samples[1][0] <= now - HISTORY_AGE_S:
                samples.popleft()
            upto = compactable(samples, now, HISTORY_AGE_S, engine.revision, self.store.keep())
            if upto > done:
                try:
                    await engine.compact(upto)
                except ManorError as error:  # a full disk: history is forgotten later
                    log.warning("history was not compacted: %s", error)
                else:
                    done = upto
            await asyncio.sleep(COMPACT_EVERY_S)

    async def pass_credentials_on(self) -> None:
        """Let the broker know whose keys the documents grant, for ever."""
        await self.opened.wait()
        await pass_on(self._peer, lambda: self.store.catalog.everything())

    async def end_with_storage(self) -> None:
        """End the process when the storage failed; the next one looks at what is on the disk."""
        await self.opened.wait()
        await self.store.engine.failed.wait()
        log.critical("the store failed; config ends so that its next process looks at the disk anew")
        await asyncio.sleep(LAST_WORDS_S)
        raise SystemExit(1)

    async def close(self) -> None:
        """Close the store."""
        self.copies.upload.drop()
        if self._store is not None:
            await self._store.engine.close()


def _mourn(task: asyncio.Task[None]) -> None:
    """Log the bug that ended a task which should run for ever."""
    if not task.cancelled() and isinstance(task.exception(), Exception):
        log.critical("a part of config died; restart the service", exc_info=task.exception())


def _wire(row: Row) -> m.KeyValue:
    return m.KeyValue(key=row.key, value=row.value, revision=row.revision, created=row.created)


async def open_room(
    peer: Peer,
    settings: Settings,
    now: Callable[[], float] = time.time,
    new_uuid: Callable[[], str] = lambda: str(uuid.uuid4()),
) -> Room:
    """Open the service on a connected peer."""
    config = Config(peer, settings, now, new_uuid)
    await config.open()
    work = (config.compact(), config.end_with_storage(), config.pass_credentials_on())
    tasks = [asyncio.create_task(one) for one in work]
    for task in tasks:
        task.add_done_callback(_mourn)

    async def close() -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await config.close()

    answers: dict[type[Message], Answer] = {
        m.Apply: config.apply,
        m.Get: config.get,
        m.List: config.list,
        m.Delete: config.delete,
        m.History: config.history,
        m.Rollback: config.rollback,
        m.Rename: config.rename,
        m.Changes: config.changes,
        m.Txn: config.txn,
        m.Range: config.range,
        m.Backup: config.copies.backup,
        m.Restore: config.copies.restore,
    }
    return Room(answers=answers, owns=OWNS, close=close)
