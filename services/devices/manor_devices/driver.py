"""Drives every connection: one queue each, one back-end call at a time, every call with a deadline.

Events are taken in order; `machine.step` says what they mean; what must be done is done here and its outcome
fed back. A new state is written before it is acted upon, and durable before anybody is told that it holds.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from manor_bus.wire.errors import ManorError, denied_state
from manor_bus.wire.messages.devices import ConnectionState, Descriptor
from manor_devices import machine
from manor_devices.backends import Backend, Leftover, Notice, Observation, Order
from manor_devices.bounds import bounded
from manor_devices.connection import (
    GIVE_UP_S,
    Connection,
    Effect,
    Event,
    Step,
    Trigger,
    Verdict,
    backoff,
    gives_up,
    timer,
)
from manor_devices.modules import Modules
from manor_devices.records import Records
from manor_devices.saved import Saved
from manor_devices.uses import Key, Uses, key_of, name_of

S = ConnectionState
T = Trigger

CLAIM_S: Final = 30.0
PREPARE_S: Final = 40.0
RELEASE_S: Final = 20.0
AT_ONCE: Final = 16  # calls of one back end at the same time
log = logging.getLogger(__name__)


@dataclass(eq=False)
class Slot:
    """One connection at work."""

    connection: Connection
    queue: deque[tuple[Event, asyncio.Future[Step] | None]] = field(default_factory=deque)
    busy: bool = False  # the queue is being taken, or is about to
    work: asyncio.Task[None] | None = None  # the back-end call under way
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # held by a call until it has cleaned up
    timers: dict[Trigger, asyncio.TimerHandle] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        """Return `domain/device`."""
        return name_of(self.connection)


class Driver:
    """All connections of this node. `on_change` and `on_status` (of a provider) publish."""

    modules: Modules  # set once, right after both were made: each needs the other
    saved: Saved | None = None  # set before the first connection is asked for

    def __init__(
        self,
        records: Records,
        on_change: Callable[[Connection], None],
        on_status: Callable[[str], None],
        on_leftover: Callable[[str, Leftover], None],
    ) -> None:
        self.slots: dict[Key, Slot] = {}
        self._records = records
        self._on_change = on_change
        self._on_status = on_status
        self._on_leftover = on_leftover
        self.uses = Uses()
        self._limits: dict[str, asyncio.Semaphore] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        for key in records.keys("connection/"):
            connection = records.get(key, Connection)
            if connection is not None:
                self.slot(connection)
                self.uses.hold(key_of(connection.request.key), connection)

    # --- events ---------------------------------------------------------------------------------------

    def slot(self, connection: Connection) -> Slot:
        """Return the slot of a connection, a new one if there is none."""
        return self.slots.setdefault(key_of(connection.request.key), Slot(connection))

    def post(self, slot: Slot, event: Event) -> None:
        """Queue an event."""
        self._post(slot, event, None)

    async def ask(self, slot: Slot, event: Event, *, durable: bool = True) -> Step:
        """Queue an event and return its outcome; durable, unless nobody is told of it yet.

        What ends something needs no space: it is done where nothing can be written, too.
        """
        answer: asyncio.Future[Step] = asyncio.get_running_loop().create_future()
        self._post(slot, event, answer)
        outcome = await answer
        if durable:
            await self._records.durable(ends=event.trigger in machine.ENDS)
        return outcome

    async def until(self, slot: Slot, states: frozenset[S], deadline: float) -> bool:
        """Wait until the connection is in one of the states; False at the deadline."""
        try:
            async with asyncio.timeout_at(deadline):
                while slot.connection.state not in states:
                    await slot.changed.wait()
        except TimeoutError:
            return False
        return True

    def replace(self, slot: Slot, connection: Connection) -> None:
        """Change what does not matter to the machine: a name, the settings of a device that is not there."""
        slot.connection = connection
        self._keep(slot)

    def forget(self, key: Key) -> None:
        """Remove a connection that is ABSENT, its generation included: its run is over."""
        self.slots.pop(key)
        self._records.drop(_record(key))

    def awake(self) -> None:
        """After a start: connections whose back end is not loaded any more have lost it. That one could not
        be asked yet is no proof: they stay as they are.
        """
        for slot in self.slots.values():
            provider = slot.connection.target.provider
            if self.modules.unknown(provider):
                self._set_timers(slot)
            elif not self.modules.epoch(provider):
                self.post(slot, Event(T.PROVIDER_LOST, reason=f"back end {provider} is not loaded"))
                self._set_timers(slot)

    async def close(self) -> None:
        """Stop. Nothing is released: guests stay."""
        for slot in self.slots.values():
            for handle in slot.timers.values():
                handle.cancel()
        tasks = [slot.work for slot in self.slots.values() if slot.work is not None] + list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- back ends (modules.Listener) -----------------------------------------------------------------

    def known(self, name: str) -> list[Order]:
        """Return the devices this back end serves or served."""
        used = (slot.connection for slot in self._of(name))
        return [connection.order() for connection in used if connection.state is not S.ABSENT]

    def users(self, name: str) -> tuple[str, ...]:
        """Name the connections that hold something of it."""
        return self.uses.users(name)

    def came(self, name: str, observation: Observation, *, found: bool) -> None:
        """Go on with its connections; remove what is ours and nobody knows."""
        present = {key_of(key) for key in observation.present}
        for slot in self._of(name):
            if found:
                there = key_of(slot.connection.request.key) in present
                reason = "" if there else "the back end was not there after a restart"
                self.post(slot, Event(T.FOUND if there else T.MISSING, reason=reason))
                self._set_timers(slot)
            else:
                self._ask_provider(slot)
        for leftover in observation.leftovers:
            if leftover.ours and not leftover.used:
                self._start(self._discard(name, leftover))
            else:
                self._on_leftover(name, leftover)

    def lost(self, name: str, reason: str) -> None:
        """Orphan its connections."""
        for slot in self._of(name):
            self.post(slot, Event(T.PROVIDER_LOST, reason=reason))

    def noticed(self, name: str, notice: Notice) -> None:
        """Take the news of one device."""
        slot = self.slots.get(key_of(notice.key)) if notice.key is not None else None
        if slot is None:
            return
        if notice.what in ("silent", "answers"):
            if notice.generation == slot.connection.generation and slot.connection.state in machine.SERVED:
                self.replace(slot, replace(slot.connection, reason=notice.reason))
            return
        trigger = T.PROVIDER_LOST if notice.what == "lost" else T.RESOURCE_GONE
        event = Event(trigger, generation=notice.generation, epoch=notice.epoch, reason=notice.reason)
        if trigger is T.PROVIDER_LOST and notice.epoch == slot.connection.epoch:
            self.modules.renew(name)
        self.post(slot, event)

    def changed(self, name: str) -> None:
        """Publish the status of a back end."""
        self._on_status(name)

    # --- the queue ------------------------------------------------------------------------------------

    def _post(self, slot: Slot, event: Event, answer: asyncio.Future[Step] | None) -> None:
        slot.queue.append((event, answer))
        if not slot.busy:
            slot.busy = True
            asyncio.get_running_loop().call_soon(self._take, slot)

    def _take(self, slot: Slot) -> None:
        try:
            while slot.queue:
                event, answer = slot.queue.popleft()
                outcome = machine.step(slot.connection, event)
                log.debug("%s: %s -> %s", slot.name, event.trigger, outcome.verdict)
                if outcome.verdict is Verdict.DONE:
                    self._enter(slot, outcome)
                if answer is not None and not answer.done():
                    answer.set_result(outcome)
        finally:
            slot.busy = False

    def _enter(self, slot: Slot, outcome: Step) -> None:
        slot.connection = outcome.connection
        if slot.work is not None:
            slot.work.cancel()
        self._keep(slot)
        self._set_timers(slot)
        self._effect(slot, outcome)

    def _keep(self, slot: Slot) -> None:
        key = key_of(slot.connection.request.key)
        if self.uses.hold(key, slot.connection):
            self._on_status(slot.connection.target.provider)
        self._records.put(_record(key), slot.connection)
        self._on_change(slot.connection)
        changed, slot.changed = slot.changed, asyncio.Event()
        changed.set()

    def _set_timers(self, slot: Slot) -> None:
        connection = slot.connection
        due = timer(connection)
        self._set_timer(slot, Event(T.TIMEOUT, generation=connection.generation), due, again=True)
        reason = f"its provider did not return within {GIVE_UP_S:.0f} s"
        give_up = GIVE_UP_S if gives_up(connection) else None
        self._set_timer(slot, Event(T.GIVE_UP, reason=reason), give_up, again=False)

    def _set_timer(self, slot: Slot, event: Event, seconds: float | None, *, again: bool) -> None:
        handle = slot.timers.get(event.trigger)
        if handle is not None and seconds is not None and not again:
            return
        if handle is not None:
            slot.timers.pop(event.trigger).cancel()
        if seconds is not None:
            loop = asyncio.get_running_loop()
            slot.timers[event.trigger] = loop.call_later(seconds, self.post, slot, event)

    # --- effects --------------------------------------------------------------------------------------

    def _effect(self, slot: Slot, outcome: Step) -> None:
        match outcome.effect:
            case None:
                return
            case Effect.SETTLE:
                slot.queue.appendleft((Event(T.SETTLE), None))
            case Effect.ASK:
                wait = backoff(slot.connection.attempts)
                handle = asyncio.get_running_loop().call_later(wait, self._ask_provider, slot)
                slot.timers[T.PROVIDER_UP] = handle
            case Effect.REQUEST:
                self._work(slot, self._request)
            case Effect.PREPARE:
                self._work(slot, self._prepare)
            case Effect.RELEASE:
                self._work(slot, self._release)

    def _ask_provider(self, slot: Slot) -> None:
        epoch = self.modules.epoch(slot.connection.target.provider)
        if epoch and slot.connection.state in (S.WAITING, S.ORPHANED):
            self.post(slot, Event(T.PROVIDER_UP, epoch=epoch))

    def _work(self, slot: Slot, call: Callable[[Slot, Connection, Backend], Awaitable[Event]]) -> None:
        connection = slot.connection

        async def do() -> None:
            async with slot.lock:
                event = await self._guarded(slot, connection, call)
            self.post(slot, event)

        slot.work = asyncio.get_running_loop().create_task(do())

    async def _guarded(
        self,
        slot: Slot,
        connection: Connection,
        call: Callable[[Slot, Connection, Backend], Awaitable[Event]],
    ) -> Event:
        name = connection.target.provider
        backend = self.modules.backend(name)
        if backend is None and connection.state is S.CLOSED and self.modules.unknown(name):
            reason = f"back end {name} cannot be asked yet"
            return _stamped(connection, Event(T.RELEASE_FAILED, reason=reason))
        if backend is None:
            reason = f"back end {name} is not loaded"
            return _stamped(connection, Event(T.PROVIDER_LOST, reason=reason))
        try:
            if connection.state is not S.PREPARING:  # its intent, REQUESTED, is durable already
                await self._records.durable(ends=connection.state is S.CLOSED)
            async with self._limits.setdefault(name, asyncio.Semaphore(AT_ONCE)):
                event = await call(slot, connection, backend)
        except ManorError as error:
            failed = T.RELEASE_FAILED if connection.state is S.CLOSED else T.PREPARE_FAILED
            undone = failed is T.RELEASE_FAILED or await self._undo(connection, backend)
            event = Event(failed, reason=error.message, error=error.body(), undone=undone)
            return _stamped(connection, event)
        return event

    async def _request(self, slot: Slot, connection: Connection, backend: Backend) -> Event:
        key = key_of(connection.request.key)
        name = connection.target.provider
        claims = await bounded(f"back end {name}", backend.claim(connection.order()), CLAIM_S)
        if self.saved is not None:
            await bounded("lifecycle", self.saved.check(connection, claims), CLAIM_S)
        clash = self.uses.clash(key, claims)
        if clash is not None:
            raise denied_state(clash.reason, hint=clash.hint)
        self.uses.claim(key, slot.name, claims)
        return _stamped(connection, Event(T.ACCEPTED, claims=claims))

    async def _prepare(self, slot: Slot, connection: Connection, backend: Backend) -> Event:
        name = connection.target.provider
        prepared = await bounded(f"back end {name}", backend.prepare(connection.order()), PREPARE_S)
        descriptor = Descriptor(
            type=prepared.type,
            args=prepared.args,
            provider=name,
            provider_epoch=connection.epoch,
            generation=connection.generation,
        )
        return _stamped(connection, Event(T.PREPARED, descriptor=descriptor, notes=prepared.notes))

    async def _release(self, slot: Slot, connection: Connection, backend: Backend) -> Event:
        name = connection.target.provider
        await bounded(f"back end {name}", backend.release(connection.order()), RELEASE_S)
        return _stamped(connection, Event(T.RELEASED))

    async def _undo(self, connection: Connection, backend: Backend) -> bool:
        """Remove what was half prepared, unless a front end hangs on it: that keeps what it has."""
        if connection.state is not S.PREPARING or connection.attached:
            return True
        try:
            await bounded(connection.target.provider, backend.release(connection.order()), RELEASE_S)
        except ManorError as error:
            log.warning("%s: what was half prepared could not be removed: %s", name_of(connection), error)
            return False
        return True

    async def _discard(self, name: str, leftover: Leftover) -> None:
        backend = self.modules.backend(name)
        log.info(
            "back end %s: removing %s (%s), which no device explains", name, leftover.name, leftover.detail
        )
        try:
            if backend is not None:
                await bounded(f"back end {name}", backend.discard(leftover), RELEASE_S)
        except ManorError as error:
            log.warning("%s", error)
            self._on_leftover(name, leftover)

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _of(self, name: str) -> Iterator[Slot]:
        return (slot for slot in list(self.slots.values()) if slot.connection.target.provider == name)


def _stamped(connection: Connection, event: Event) -> Event:
    return replace(event, generation=connection.generation, epoch=connection.epoch)


def _record(key: Key) -> str:
    return f"connection/{key[0]}/{key[1]}/{key[2]}"
