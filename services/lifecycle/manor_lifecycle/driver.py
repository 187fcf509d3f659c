"""Executes operations: one task and one queue per domain, nobody else touches its run.

A task exists only while there is something to do. It takes what is due in this order: an operation that a
restart interrupted, a run that ended by itself, the queue, and what the document asks for. Each operation is
journaled before its first side effect and after each step; on failure or cancellation the done steps since
the last commit are undone in reverse. What the domain then is, is observed, never assumed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from manor_bus.wire.errors import ErrorBody, Kind, ManorError, not_found
from manor_bus.wire.messages.lifecycle import Operation, OperationState, State
from manor_lifecycle import looking, machine, plan
from manor_lifecycle.deeds import DEEDS
from manor_lifecycle.hypervisors import GuestState
from manor_lifecycle.ledger import Begun, Closed, Stepped, Turned
from manor_lifecycle.life import Life, Work, lived, observed
from manor_lifecycle.machine import Trigger
from manor_lifecycle.means import Means
from manor_lifecycle.operations import trigger_of
from manor_lifecycle.outcome import say, too_late
from manor_lifecycle.plan import Act, Step

LOOK_AGAIN_S: Final = 2.0  # after the hypervisor could not say what is there
UNDO_TIMEOUT_S: Final = 60.0
UNDO_TRIES: Final = 3
UNDO_PAUSE_S: Final = 1.0
LOOKED_AT: Final = frozenset(
    {"start", "pause", "resume", "reset", "destroy", "shutdown", "save", "restore", "reboot"}
)
SO_ALREADY: Final = frozenset({(Act.PAUSE, GuestState.PAUSED), (Act.RESUME, GuestState.RUNNING)})
TAKES_A_TURN: Final = frozenset({Act.CREATE, Act.RESTORE})  # what waits for a provider holds none
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listeners:
    """Who is told: that a domain changed, that an operation did, and what is due next for an idle domain."""

    changed: Callable[[Life], None]
    told: Callable[[Operation], None]
    next: Callable[[Life], Work | None]
    idle: Callable[[Life], None]


class Driver:
    """All operations of all domains of this service."""

    def __init__(self, means: Means, listeners: Listeners) -> None:
        self._means = means
        self._listeners = listeners
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._works: dict[str, tuple[Life, Work]] = {}
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}
        self._telling: set[asyncio.Task[None]] = set()
        self._closed = False

    # --- begin ----------------------------------------------------------------------------------------

    def begin(
        self, life: Life, work: Work, *, who: str = "", caller: str = "", reason: str = "",
        deadline: float = 0.0, first: bool = False,
    ) -> None:  # fmt: skip
        """Journal the intent and queue the work. Its first side effect waits for the journal."""
        self._means.note(
            Begun(
                id=work.id,
                kind=work.kind,
                target=life.name,
                uuid=life.uuid,
                created=self._means.wall(),
                arguments=work.arguments,
                who=who,
                reason=reason,
                deadline=deadline,
                before=life.state,
                generation=life.generation,
                caller=caller,
            )
        )
        self.adopt(life, work, first=first)

    def adopt(self, life: Life, work: Work, *, first: bool = False) -> None:
        """Queue work whose intent is in the journal already."""
        life.works.insert(0 if first else len(life.works), work)
        self._works[work.id] = life, work
        self._listeners.changed(life)
        if not work.internal:
            self._tell(self._means.ledger.active[work.id].view)

    def wake(self, life: Life) -> None:
        """See to it that what is due for a domain is done."""
        if life.uuid not in self._tasks and not self._closed:
            task = asyncio.get_running_loop().create_task(self._live(life))
            self._tasks[life.uuid] = task

    @property
    def busy(self) -> int:
        """How many domains have something under way."""
        return len(self._tasks)

    # --- follow and cancel ----------------------------------------------------------------------------

    async def changed(self, id: str) -> None:  # noqa: A002 - the word of the message
        """Return at the next change of an operation."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(id, []).append(future)
        await future

    def cancel(self, id: str, why: str) -> None:  # noqa: A002
        """Ask an operation to end. Raises `not_found`, or `denied_state` when it is past its last chance."""
        if id not in self._works:
            if self._means.ledger.get(id) is None:
                raise not_found(f"there is no operation {id}", hint="List them: manor ops list")
            return
        life, work = self._works[id]
        error = ErrorBody(kind=Kind.DENIED_STATE, message=why, hint="Ask for it again if you want it.")
        if not work.steps and not (life.works[0] is work and life.uuid in self._tasks):
            life.works.remove(work)
            self._close(life, work, error, cancelled=True)
            self._listeners.changed(life)
            return
        done = self._means.ledger.active[id].steps
        if work.steps and not any(step.cancellable for step in work.steps[done:]):
            message = f"operation {id} cannot be cancelled any more: {work.steps[done].text}"
            raise ManorError(Kind.DENIED_STATE, message, hint="Wait for its end.")
        if work.cancel is None:
            work.cancel = error
            self._view(work, state=OperationState.CANCELLING)
            if work.interruptible:
                self._tasks[life.uuid].cancel()

    async def close(self) -> None:
        """End all tasks where they are: the next start finds out what is to be done."""
        self._closed = True
        tasks = [*self._tasks.values(), *self._telling]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- the task of one domain -----------------------------------------------------------------------

    async def _live(self, life: Life) -> None:
        try:
            if life.look or life.unknown:
                await looking.look(self._means, life)
                looking.settle(life)
                self._listeners.changed(life)
            life.due = False
            self._listeners.changed(life)
            while (work := self._listeners.next(life)) is not None:
                try:
                    await self._perform(life, work)
                except Exception:
                    log.exception("a bug during %s of %s, operation %s", work.kind, life.name, work.id)
                    bug = ErrorBody(kind=Kind.INTERNAL, message="a bug; its details are in the service's log")
                    self._end(life, work, bug)
        finally:
            del self._tasks[life.uuid]
            if life.unknown and not self._closed:
                asyncio.get_running_loop().call_later(LOOK_AGAIN_S, self.wake, life)
            else:
                self._listeners.idle(life)

    async def _perform(self, life: Life, work: Work) -> None:
        try:
            await self._means.commit(work.kind)
        except ManorError as full:
            self._end(life, work, full.body())
            return
        error = await self._undo(life, work, work.undo_first)
        if work.close_with is not None:
            error = error or work.close_with
        elif error is None:
            error = await looking.at_saved(self._means, life, work.kind) or self._enter(life, work)
            error = error or await self._execute(life, work)
        if error is not None or work.kind in LOOKED_AT:
            await looking.look(self._means, life)
        self._end(life, work, error or looking.contradicted(life, work.kind, work.arguments))

    def _end(self, life: Life, work: Work, error: ErrorBody | None) -> None:
        if work.turn:
            work.turn = False
            self._means.starts.give_back()
        self._observe(life, work, error)
        life.works.remove(work)
        self._close(life, work, error, cancelled=error is not None and error is work.cancel)
        self._listeners.changed(life)

    def _enter(self, life: Life, work: Work) -> ErrorBody | None:
        """Go to the transient state and make the plan; the error when that is not possible any more."""
        if work.cancel is not None:
            return work.cancel
        if work.enter:
            if life.state is not self._means.ledger.active[work.id].begun.before:
                self.attempt(life, work, life.state)
            try:
                target, _ = machine.step(life.state, trigger_of(work.kind, work.arguments))
            except ManorError as denied:
                return denied.body()
            if target is not life.state and not work.internal:
                life.reason = ""
            life.state = target
        keeps_running = life.document is not None and life.spec.run == "always"
        expected = life.uuid in self._means.ledger.live
        there = observed(life, keeps_running=keeps_running, expected=expected, renewed=work.renewed)
        work.steps = plan.make(work.kind, work.arguments, there)
        work.progress = lambda within: self._progress(work, within)
        self._view(work, state=OperationState.RUNNING, steps=plan.describe(work.steps))
        self._listeners.changed(life)
        return None

    def attempt(self, life: Life, work: Work, before: State) -> None:
        """Journal that an operation begins in another state than when it was asked for, or once more."""
        found = self._means.ledger.active[work.id]
        view, changes = found.view, {"attempt": work.attempt, "generation": life.generation}
        self._means.note(msgspec.structs.replace(found.begun, before=before, **changes))
        self._means.ledger.active[work.id].view = view

    async def _execute(self, life: Life, work: Work) -> ErrorBody | None:
        """Do the steps. On error undo those since the last commit, and return it."""
        since = 0
        for index, step in enumerate(work.steps):
            if work.cancel is not None and step.cancellable:
                error: ErrorBody | None = work.cancel
            else:
                since = index + 1 if step.commit else since
                error = await self._step(life, work, index, step)
            if error is None:
                continue
            await looking.look(self._means, life)
            if step.act is Act.DESTROY:
                work.stuck = True
            begun = [s for at, s in enumerate(work.steps[: index + 1]) if at >= since or s.always]
            if begun:
                self._means.note(Turned(id=work.id, error=error))
                undo = [s for s in reversed(begun) if s.undo is not None]
                await self._undo(life, work, [s.undo for s in undo if s.undo], [s.device for s in undo])
            return error
        return None

    async def _step(self, life: Life, work: Work, index: int, step: Step) -> ErrorBody | None:
        if not work.internal or index:
            left = any(later.cancellable for later in work.steps[index:])
            done = plan.progress(work.steps, index)
            self._view(work, step=step.text, progress=done, cancellable=left)
        try:
            if not step.cancellable:  # there may be no way back: what was done so far is on disk first
                await self._means.commit(work.kind)
            work.interruptible = step.cancellable
            await self._do(life, work, step)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if work.cancel is None or not work.interruptible or self._closed or task is None:
                raise
            task.uncancel()
            return work.cancel
        except ManorError as error:
            if not step.optional:
                return error.body()
            work.result[f"note {len(work.result)}"] = f"{step.text}: {error.message}"
        finally:
            work.interruptible = False
        self._means.note(Stepped(id=work.id, index=index, incarnation=work.incarnation))
        return None

    async def _do(self, life: Life, work: Work, step: Step) -> None:
        if step.act in TAKES_A_TURN and not work.turn:
            await self._means.starts.take()
            work.turn = True
        try:
            async with asyncio.timeout(step.timeout_s):
                await DEEDS[step.act](self._means, life, work, step)
        except TimeoutError:
            raise too_late(life, step) from None

    async def _undo(
        self, life: Life, work: Work, acts: Sequence[Act], devices: Sequence[str] = ()
    ) -> ErrorBody | None:
        """Do the undoing acts in order; what cannot be undone makes the work stuck."""
        stuck: ErrorBody | None = None
        for number, act in enumerate(acts):
            device = devices[number] if devices else ""
            error = await self._undo_one(life, work, Step(act, device, timeout_s=UNDO_TIMEOUT_S))
            if error is not None:
                log.error("%s of %s: cannot %s: %s", work.kind, life.name, act, error.message)
                work.result[f"not undone {number}"] = f"{act} {device}: {error.message}"
                work.stuck = work.stuck or act is Act.DESTROY
                stuck = error
        return stuck

    async def _undo_one(self, life: Life, work: Work, step: Step) -> ErrorBody | None:
        if (step.act, life.guest) in SO_ALREADY:
            return None
        for attempt in range(UNDO_TRIES):
            try:
                await self._do(life, work, step)
            except ManorError as error:
                if error.kind is Kind.NOT_FOUND:
                    return None  # what is not there needs no undoing
                if attempt == UNDO_TRIES - 1 or step.act is Act.RELEASE_ALL:
                    return error.body() if step.act is not Act.RELEASE_ALL else None
                await asyncio.sleep(UNDO_PAUSE_S)
            else:
                return None
        return None

    # --- the end of an operation ----------------------------------------------------------------------

    def _observe(self, life: Life, work: Work, error: ErrorBody | None) -> None:
        """Let the machine go to the state that is really there."""
        known = self._means.ledger.active[work.id]
        if error is not None and known.steps == 0 and work.steps[:1] and work.steps[0].always:
            life.state = known.begun.before  # refused before anything was ended
        if work.stuck and machine.knows(life.state, Trigger.GIVE_UP) and life.state is not State.DYING:
            life.state, _ = machine.step(life.state, Trigger.GIVE_UP)
        elif life.ending is None and life.guest is not GuestState.ENDED:
            trigger = looking.seen(life)
            if machine.knows(life.state, trigger):
                life.state, _ = machine.step(life.state, trigger)
        if life.guest is not None and life.uuid not in self._means.ledger.live:
            self._means.note(lived(life, self._means.boot_id))
        if life.guest is None and life.connections:  # no run, no connections: devices is told until it knows
            self._means.owed[life.uuid, life.born] = None
            life.connections.clear()
        say(life, work, error, self._means.wall())

    def _close(self, life: Life, work: Work, error: ErrorBody | None, *, cancelled: bool) -> None:
        state = OperationState.DONE
        if error is not None:
            state = OperationState.CANCELLED if cancelled else OperationState.FAILED
        del self._works[work.id]
        view = self._means.ledger.active[work.id].view
        self._means.note(
            Closed(
                id=work.id,
                state=state,
                at=self._means.wall(),
                error=error,
                result=work.result,
                steps=view.steps,
                step=view.step,
                progress=1.0 if error is None else view.progress,
                generation=life.generation,
            )
        )
        operation = self._means.ledger.ended.get(work.id)
        if operation is None:
            return
        if work.internal:
            self._tell(operation)
        else:
            task = asyncio.get_running_loop().create_task(self._tell_durably(operation))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _tell_durably(self, operation: Operation) -> None:
        """The outcome is on disk before anybody hears of it, if the disk takes it at all."""
        with contextlib.suppress(ManorError):
            await self._means.commit()
        self._tell(operation)

    def _view(self, work: Work, **fields: object) -> None:
        self._tell(self._means.ledger.change(work.id, **fields))

    def _progress(self, work: Work, within: float) -> None:
        done = self._means.ledger.active[work.id].steps
        self._view(work, progress=plan.progress(work.steps, done, within))

    def _tell(self, operation: Operation) -> None:
        self._listeners.told(operation)
        for future in self._waiters.pop(operation.id, ()):
            if not future.done():
                future.set_result(None)
