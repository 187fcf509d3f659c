"""The ledger of operations and of the runs that are expected to be there. Pure.

It is what the journal says when it is read from its beginning: `Ledger.apply(record)` is the only way to
change it, so what a restart finds is what was there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from manor_bus.wire.errors import ErrorBody, conflict
from manor_bus.wire.messages import Message
from manor_bus.wire.messages.lifecycle import ENDED, Operation, OperationState, State
from manor_lifecycle.plan import Arguments


class Begun(Message, frozen=True, kw_only=True, tag_field="r", tag="begun"):
    """The intent, written before the first side effect. Written again at every further attempt."""

    id: str
    kind: str
    target: str
    uuid: str
    created: float
    arguments: Arguments = Arguments()
    who: str = ""
    reason: str = ""
    deadline: float = 0.0
    before: State = State.DEFINED  # the domain's state when it began
    attempt: int = 1
    generation: int = 0  # of the domain's status, at that time
    caller: str = ""  # the address of who asked for it; empty when this service did


class Stepped(Message, frozen=True, kw_only=True, tag_field="r", tag="stepped"):
    """Step number `index` is done; `incarnation` is the run it was about."""

    id: str
    index: int
    incarnation: int = 0


class Turned(Message, frozen=True, kw_only=True, tag_field="r", tag="turned"):
    """The operation is being undone, because of the error or because somebody cancelled it."""

    id: str
    error: ErrorBody


class Closed(Message, frozen=True, kw_only=True, tag_field="r", tag="closed"):
    """The outcome."""

    id: str
    state: OperationState
    at: float
    error: ErrorBody | None = None
    result: dict[str, str] = msgspec.field(default_factory=dict)
    steps: tuple[str, ...] = ()
    step: str = ""  # the last one begun
    progress: float = 1.0
    generation: int = 0


class Lived(Message, frozen=True, kw_only=True, tag_field="r", tag="lived"):
    """A run of a domain began, changed or ended: what a restart expects to find. `live` False: it is over.

    `born` is the incarnation it was created with; a reset changes `incarnation` but not its devices' keys.
    """

    uuid: str
    name: str = ""
    incarnation: int = 0
    born: int = 0
    live: bool = True
    paused: bool = False
    crashed: bool = False  # its remains are kept on purpose
    started: float = 0.0
    boot_id: str = ""


class Kept(Message, frozen=True, kw_only=True, tag_field="r", tag="kept"):
    """An ended operation, as compaction writes it."""

    operation: Operation


class Numbered(Message, frozen=True, kw_only=True, tag_field="r", tag="numbered"):
    """The last generation of a domain's status, as compaction writes it."""

    uuid: str
    generation: int


class Booted(Message, frozen=True, kw_only=True, tag_field="r", tag="booted"):
    """What was to start with this boot of the node has been begun."""

    boot_id: str


Record = Booted | Begun | Stepped | Turned | Closed | Lived | Kept | Numbered


@dataclass(slots=True)
class Open:
    """An operation that has not ended. `steps` counts those done; `view` is what others see of it."""

    begun: Begun
    view: Operation
    steps: int = 0
    incarnation: int = 0
    turned: ErrorBody | None = None


@dataclass
class Ledger:
    """All operations, and which runs are expected to be there."""

    keep: int = 10_000
    active: dict[str, Open] = field(default_factory=dict)
    ended: OrderedDict[str, Operation] = field(default_factory=OrderedDict)
    live: dict[str, Lived] = field(default_factory=dict)
    generations: dict[str, int] = field(default_factory=dict)
    boot_id: str = ""

    def apply(self, record: Record) -> None:
        """Take one record. Records about unknown operations are of no use any more and change nothing."""
        match record:
            case Begun():
                self.active[record.id] = Open(begun=record, view=_view(record))
                self._number(record.uuid, record.generation)
            case Stepped() | Turned():
                self._go_on(record)
            case Closed():
                self._close(record)
            case Lived(live=True):
                self.live[record.uuid] = record
            case Lived():
                self.live.pop(record.uuid, None)
            case Kept():
                self._keep(record.operation)
            case Booted():
                self.boot_id = record.boot_id
            case Numbered():
                self._number(record.uuid, record.generation)

    def get(self, id: str) -> Operation | None:  # noqa: A002 - the word of the message
        """Return an operation, open or ended."""
        found = self.active.get(id)
        return found.view if found is not None else self.ended.get(id)

    def change(self, id: str, **fields: object) -> Operation:  # noqa: A002
        """Change what others see of an open operation: its step, progress or state."""
        found = self.active[id]
        found.view = msgspec.structs.replace(found.view, **fields)
        return found.view

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
        for operation in self._newest_first(active):
            if target in ("", operation.target, operation.uuid):
                chosen.append(operation)
            if len(chosen) >= limit:
                break
        return tuple(chosen)

    def records(self) -> Iterator[Record]:
        """Yield the shortest journal that leads to this ledger."""
        yield Booted(boot_id=self.boot_id)
        for uuid, generation in self.generations.items():
            yield Numbered(uuid=uuid, generation=generation)
        for operation in self.ended.values():
            yield Kept(operation=operation)
        yield from self.live.values()
        for found in self.active.values():
            yield found.begun
            if found.steps:
                yield Stepped(id=found.begun.id, index=found.steps - 1, incarnation=found.incarnation)
            if found.turned is not None:
                yield Turned(id=found.begun.id, error=found.turned)

    def forget(self, uuid: str) -> None:
        """A domain was deleted: its generation is of no use any more."""
        self.generations.pop(uuid, None)
        self.live.pop(uuid, None)

    def _newest_first(self, active: bool) -> Iterator[Operation]:
        for found in reversed(self.active.values()):
            yield found.view
        if not active:
            yield from reversed(self.ended.values())

    def _go_on(self, record: Stepped | Turned) -> None:
        found = self.active.get(record.id)
        if found is None:
            return
        if isinstance(record, Turned):
            found.turned = record.error
        else:
            found.steps = record.index + 1
            found.incarnation = record.incarnation or found.incarnation

    def _close(self, record: Closed) -> None:
        found = self.active.pop(record.id, None)
        if found is None:
            return
        self._number(found.begun.uuid, record.generation)
        self._keep(
            msgspec.structs.replace(
                found.view,
                state=record.state,
                ended=record.at,
                error=record.error,
                result=record.result,
                steps=record.steps,
                step=record.step,
                progress=record.progress,
                cancellable=False,
            )
        )

    def _keep(self, operation: Operation) -> None:
        self.ended[operation.id] = operation
        while len(self.ended) > self.keep:
            self.ended.popitem(last=False)

    def _number(self, uuid: str, generation: int) -> None:
        if generation > self.generations.get(uuid, 0):
            self.generations[uuid] = generation


def replay(records: Iterable[Record], keep: int) -> Ledger:
    """Return the ledger that a journal leads to."""
    ledger = Ledger(keep=keep)
    for record in records:
        ledger.apply(record)
    return ledger


def has_ended(operation: Operation) -> bool:
    """Say whether this is the last value of the operation."""
    return operation.state in ENDED


def _view(begun: Begun) -> Operation:
    return Operation(
        id=begun.id,
        kind=begun.kind,
        target=begun.target,
        uuid=begun.uuid,
        state=OperationState.PENDING,
        who=begun.who,
        reason=begun.reason,
        created=begun.created,
        deadline=begun.deadline,
    )
