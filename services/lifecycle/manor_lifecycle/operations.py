"""All operations, under way and ended, and what of them a restart must find: one durable log.

`Operations.apply(record)` is the only way to change what a restart reads again. What is not on the disk yet
is waited for before the first side effect of an operation, and before anybody hears of its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from manor_bus.wire.errors import ErrorBody, Kind, ManorError, conflict
from manor_bus.wire.messages import Message
from manor_bus.wire.messages.lifecycle import ENDED, Operation, OperationState, State
from manor_host.durable import Log
from manor_lifecycle.domain.status import operation
from manor_lifecycle.domain.values import Arguments, Doing

FILE: Final = "journal"
log = logging.getLogger(__name__)


class Open(Message, frozen=True, kw_only=True, tag_field="r", tag="open"):
    """Where an operation stands: written before its first side effect, when it turns back, and before each
    guarded write."""

    id: str
    kind: str
    target: str
    uuid: str
    created: float
    arguments: Arguments = Arguments()
    who: str = ""
    actor: str = ""
    reason: str = ""
    internal: bool = False
    begun: bool = False
    incarnation: int = 0
    before: State = State.DEFINED
    back: ErrorBody | None = None
    cancelled: bool = False
    unsettled: int = -1
    attempts: int = 0
    past: tuple[str, ...] = ()


class Ended(Message, frozen=True, kw_only=True, tag_field="r", tag="kept"):
    """An operation that has ended."""

    operation: Operation


class Numbered(Message, frozen=True, kw_only=True, tag_field="r", tag="numbered"):
    """No generation of a domain's status up to this one is used again."""

    uuid: str
    generation: int


class Booted(Message, frozen=True, kw_only=True, tag_field="r", tag="booted"):
    """The node was started, and these domains are to start with it."""

    boot_id: str  # empty: the next start of the service is one of the node
    uuids: tuple[str, ...] = ()
    number: int = 0  # of this start of the node


Record = Open | Ended | Numbered | Booted
_decode: Final = msgspec.json.Decoder(Record).decode
_FIELDS: Final = tuple(name for name in Open.__struct_fields__ if name not in ("target", "uuid", "past"))
KEPT_PAST: Final = frozenset({"heard"})


class Operations:
    """See the module. `tell` is told of every change that others see."""

    def __init__(self, directory: Path, tell: Callable[[Operation], None], *, durable: bool) -> None:
        self._log = Log(directory / FILE, self._useful, durable=durable)
        self._tell = tell
        self.keep = 10_000
        self.open: dict[str, Open] = {}
        self._views: dict[str, Operation] = {}
        self._ended: OrderedDict[str, Operation] = OrderedDict()
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}
        self.generations: dict[str, int] = {}
        self.booted = Booted(boot_id="")

    def load(self) -> None:
        """Read the log. Damaged records, and those of an older kind, are left out and told."""
        loaded = self._log.load()
        strange = 0
        for body in loaded.records:
            try:
                self.apply(_decode(body))
            except msgspec.MsgspecError:
                strange += 1
        if strange or loaded.damaged or loaded.torn:
            lines = f"{len(loaded.damaged)} damaged lines, {strange} of another version"
            log.warning("the journal: %s left out, %d torn bytes cut off", lines, loaded.torn)

    def apply(self, record: Record) -> None:
        """Take one record."""
        match record:
            case Open():
                self.open[record.id] = record
            case Ended():
                self.open.pop(record.operation.id, None)
                self._views.pop(record.operation.id, None)
                self._ended[record.operation.id] = record.operation
                while len(self._ended) > self.keep:
                    self._ended.popitem(last=False)
            case Numbered():
                self.generations[record.uuid] = max(record.generation, self.generations.get(record.uuid, 0))
            case Booted():
                self.booted = record

    def note(self, record: Record) -> None:
        """Write a record down; it is on disk soon, and surely after `commit`."""
        self.apply(record)
        with contextlib.suppress(OSError):  # it stays in the log's memory, and `commit` says so
            self._log.append(msgspec.json.encode(record))

    async def commit(self) -> None:
        """Wait until everything noted is on disk; `no_capacity` when the disk refuses."""
        try:
            await self._log.commit()
        except OSError as error:
            message = f"the journal of the lifecycle service cannot be written: {error}"
            raise ManorError(Kind.NO_CAPACITY, message, hint="Free space on the disk, then retry.") from None

    async def close(self) -> None:
        """Write what is left, and close."""
        try:
            await self._log.close()
        except OSError as error:
            log.error("the journal cannot be written: %s", error)  # noqa: TRY400 - the disk is the cause

    # --- what happens to an operation ----------------------------------------------------------------------

    def opened(self, uuid: str, name: str, doing: Doing) -> None:
        """Write down where an operation stands."""
        fields = {field: getattr(doing, field) for field in _FIELDS}
        past = tuple(sorted(doing.past & KEPT_PAST))
        self.note(Open(target=name, uuid=uuid, past=past, **fields))

    def changed(self, uuid: str, name: str, doing: Doing, *, cancellable: bool) -> None:
        """Tell how an operation looks now."""
        if doing.id in self._ended:
            return
        found = operation(name, uuid, doing, cancellable, self._views.get(doing.id))
        self._views[doing.id] = found
        self._say(found)

    async def closed(
        self, uuid: str, name: str, doing: Doing, ended: OperationState, error: ErrorBody | None, at: float
    ) -> None:
        """Write the end of an operation down; then everybody hears of it, if the disk takes it or not."""
        seen = operation(name, uuid, doing, False, self._views.get(doing.id))
        progress = 1.0 if error is None else seen.progress
        final = msgspec.structs.replace(seen, state=ended, ended=at, error=error, progress=progress)
        self.note(Ended(operation=final))
        if not doing.internal:
            with contextlib.suppress(ManorError):
                await self.commit()
        self._say(final)

    async def withdrawn(self, doing: Doing, error: ErrorBody, at: float) -> None:
        """An operation was refused after all: it does not run later."""
        record = self.open.pop(doing.id, None)
        if record is not None:
            await self.closed(record.uuid, record.target, doing, OperationState.FAILED, error, at)

    async def next_change(self, id: str) -> None:  # noqa: A002 - the word of the message
        """Return at the next change of an operation."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(id, []).append(future)
        await future

    def _say(self, found: Operation) -> None:
        self._tell(found)
        for future in self._waiters.pop(found.id, ()):
            if not future.done():
                future.set_result(None)

    def get(self, id: str) -> Operation | None:  # noqa: A002 - the word of the message
        """Return an operation, open or ended."""
        return self._views.get(id) or self._ended.get(id)

    def repeated(self, id: str, kind: str, uuid: str) -> Operation | None:  # noqa: A002
        """Return the operation that was asked for before under this id; `conflict` when it was another."""
        found = self.get(id)
        if found is not None and (found.kind, found.uuid) != (kind, uuid):
            message = f"operation {id} is a {found.kind} of {found.target}"
            raise conflict(message, hint="Use a new idempotency key for a new request.")
        return found

    def listed(self, target: str, active: bool, limit: int) -> tuple[Operation, ...]:
        """Return operations, newest first, of one domain or all."""
        chosen: list[Operation] = []
        for found in self._newest_first(active):
            if len(chosen) >= limit:
                break
            if target in ("", found.target, found.uuid):
                chosen.append(found)
        return tuple(chosen)

    def _newest_first(self, active: bool) -> Iterator[Operation]:
        yield from reversed(self._views.values())
        if not active:
            yield from reversed(self._ended.values())

    def forget(self, uuid: str) -> None:
        """A domain is no more: its generation is of no use any more."""
        self.generations.pop(uuid, None)

    def _useful(self) -> Iterator[bytes]:
        records: list[Record] = [self.booted]
        records += [Numbered(uuid=uuid, generation=last) for uuid, last in self.generations.items()]
        records += [Ended(operation=found) for found in self._ended.values()]
        records += self.open.values()
        return map(msgspec.json.encode, records)


def doing_of(record: Open) -> Doing:
    """Return the operation that a restart finds."""
    fields = {field: getattr(record, field) for field in _FIELDS}
    return Doing(past=frozenset(record.past), **fields)


def has_ended(found: Operation) -> bool:
    """Say whether this is the last value of the operation."""
    return found.state in ENDED
