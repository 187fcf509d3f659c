"""What may be asked about connections, by device: connect, detach, the front end's news, the end of a run.

A run of a domain is fenced by its incarnation: what belongs to an ended or older one is answered `stale`, and
the first word of a newer one closes what the older left. Waiting holds nothing: a provider that is absent is
told at once, and what is waited for within a call's budget is withdrawn by a detach or the end of the run.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Final

import msgspec

from manor_bus.wire.errors import Kind, ManorError, denied_state, unavailable
from manor_bus.wire.messages.devices import Connect, ConnectionState, Descriptor, DeviceKey, DeviceStatus
from manor_devices.backends import Target
from manor_devices.connection import Connection, Event, Step, Trigger, Verdict
from manor_devices.driver import Driver, Slot
from manor_devices.machine import SERVED, allowed
from manor_devices.records import Records, Remembered
from manor_devices.uses import Key, key_of

S = ConnectionState
T = Trigger

MARGIN_S: Final = 0.25  # before the caller's deadline: our answer has to travel
CLOSED: Final = frozenset({S.ABSENT, S.FAILED})
UNSERVED: Final = frozenset({S.WAITING, S.ORPHANED})
UNDER_WAY: Final = frozenset({S.REQUESTED, S.PREPARING, S.REFUSED})
ANSWERED: Final = frozenset(S) - UNDER_WAY
ENDED_MAX: Final = 20_000  # ended runs that are remembered

Resolve = Callable[[Connect, float], Awaitable[Target]]


class Connections:
    """The connections of this node, by domain and run."""

    def __init__(self, records: Records, driver: Driver, resolve: Resolve) -> None:
        self._records = records
        self._driver = driver
        self._resolve = resolve
        self._resolving: Counter[Key] = Counter()
        self._withdrawn: set[Key] = set()  # of those: their caller wants them no more
        self._runs: dict[str, dict[DeviceKey, None]] = {}
        for slot in driver.slots.values():
            self._runs.setdefault(slot.connection.request.key.uuid, {})[slot.connection.request.key] = None
        self._ended = Remembered(records, "ended/", ENDED_MAX)

    # --- calls ----------------------------------------------------------------------------------------

    async def connect(self, request: Connect, deadline: float) -> Descriptor:
        """Return the descriptor of the prepared back end; a repetition returns the same one."""
        deadline -= MARGIN_S
        await self._fence(request.key, deadline)
        slot = await self._free(request.key, deadline)
        if slot is None or slot.connection.state in CLOSED or not _same(slot.connection.request, request):
            slot = await self._take_up(request, slot, deadline)
        elif slot.connection.request != request:
            self._driver.replace(slot, replace(slot.connection, request=request))
        await self._attach(slot)
        await self._answered(slot, deadline)
        return await self._hand_over(slot, slot.connection)

    async def connected(self, key: DeviceKey, generation: int) -> None:
        """The front end is attached."""
        await self._tell(key, Event(T.FRONT_CONNECTED, generation=generation), "connected")

    async def detach(self, key: DeviceKey, generation: int = 0, *, force: bool) -> None:
        """A detach begins: of the connection of that generation, or of whatever there is (0)."""
        self._withdraw(key)
        slot = self._slot(key)
        if slot is not None:
            trigger = T.DETACH_FORCE if force else T.DETACH_SAFE
            event = Event(trigger, generation=generation)
            self._check(slot, await self._driver.ask(slot, event), "detach")

    async def refused(self, key: DeviceKey, generation: int, reason: str, *, pending: bool) -> None:
        """The guest refused to let go."""
        event = Event(T.FRONT_REFUSED, generation=generation, reason=reason[:500], pending=pending)
        await self._tell(key, event, "refused")

    async def released(self, key: DeviceKey, generation: int, deadline: float) -> None:
        """The front end is gone: return when the back end is, too (or is being retried)."""
        self._withdraw(key)
        slot = self._slot(key)
        if slot is not None:
            event = Event(T.FRONT_RELEASED, generation=generation)
            self._check(slot, await self._driver.ask(slot, event), "released")
            await self._driver.until(slot, CLOSED, deadline - MARGIN_S)

    async def domain_gone(self, uuid: str, incarnation: int, deadline: float) -> None:
        """A run ended: close what it and older ones left, and let nobody connect to it any more."""
        ending = [key for key in self._runs.get(uuid, {}) if key.incarnation <= incarnation]
        if self._driver.saved is not None and ending:
            self._driver.saved.ended(uuid, [slot.connection for slot in self._slots(ending)])
        if incarnation > self._ended.get(uuid):
            self._ended.put(uuid, incarnation)
        await self._close_runs(uuid, incarnation, deadline - MARGIN_S)
        await self._records.durable(ends=True)

    def runs(self) -> list[DeviceStatus]:
        """List what is held or wanted, of every run."""
        statuses = (slot.connection.status() for slot in self._driver.slots.values())
        return [status for status in statuses if status.state is not S.ABSENT]

    def listed(self, domain: str) -> tuple[DeviceStatus, ...]:
        """List the connections of a domain (name or uuid) or all, sorted by domain and id."""
        chosen = [status for status in self.runs() if domain in ("", status.domain, status.key.uuid)]
        return tuple(
            sorted(chosen, key=lambda status: (status.domain, status.key.id, status.key.incarnation))
        )

    def newest(self, connection: Connection) -> bool:
        """Return whether no newer run of the domain has this device: what is published under its name."""
        key = connection.request.key
        runs = self._runs.get(key.uuid, {})
        return not any(other.id == key.id and other.incarnation > key.incarnation for other in runs)

    def forget_if_over(self, connection: Connection) -> None:
        """Forget a connection of an ended run that holds nothing any more."""
        key = connection.request.key
        over = key.incarnation <= self._ended.get(key.uuid)
        if over and connection.state is S.ABSENT and key_of(key) in self._driver.slots:
            self._driver.forget(key_of(key))
            self._runs[key.uuid].pop(key, None)
            if not self._runs[key.uuid]:
                del self._runs[key.uuid]

    # --- connecting -----------------------------------------------------------------------------------

    async def _fence(self, key: DeviceKey, deadline: float) -> None:
        newest = max((other.incarnation for other in self._runs.get(key.uuid, {})), default=0)
        ended = self._ended.get(key.uuid)
        if key.incarnation <= ended or key.incarnation < newest:
            raise ManorError(
                Kind.STALE,
                f"incarnation {key.incarnation} of {key.uuid} is over: {max(ended + 1, newest)} is the next",
                hint="Read the domain's status again.",
            )
        if newest and key.incarnation > newest:
            self._ended.put(key.uuid, newest)
            await self._close_runs(key.uuid, newest, deadline)

    async def _free(self, key: DeviceKey, deadline: float) -> Slot | None:
        """Return the slot of a device once nothing of an earlier connection is left to release."""
        slot = self._slot(key)
        while slot is not None and slot.connection.leaving:
            if not await self._driver.until(slot, frozenset({S.ABSENT}), deadline):
                why = f": {slot.connection.reason}" if slot.connection.reason else ""
                raise unavailable(
                    f"{slot.name}: what an earlier connection left is not removed yet{why}",
                    delivered=True,
                    hint="It is tried again by itself; then ask again.",
                )
            slot = self._slot(key)
        return slot

    async def _take_up(self, request: Connect, slot: Slot | None, deadline: float) -> Slot:
        """Begin a connection with what its names are now; nothing of an earlier attempt counts any more."""
        if slot is not None and slot.connection.state not in CLOSED:
            self._check(slot, await self._driver.ask(slot, Event(T.RECONFIGURE)), "to change its settings")
        target = await self._resolved(request, deadline)
        slot = self._slot(request.key)
        if slot is None:
            slot = self._driver.slot(Connection(request=request, target=target))
            self._runs.setdefault(request.key.uuid, {})[request.key] = None
        elif slot.connection.state in CLOSED and not slot.connection.leaving:
            fresh = Connection(request=request, target=target, generation=slot.connection.generation)
            self._driver.replace(slot, fresh)
        return slot

    async def _resolved(self, request: Connect, deadline: float) -> Target:
        """Resolve the names, unless the connection is withdrawn or its run ends meanwhile."""
        key = key_of(request.key)
        self._resolving[key] += 1
        try:
            target = await self._resolve(request, deadline)
            if key in self._withdrawn:
                message = f"{request.domain}/{request.key.id} was detached before it could be connected"
                raise ManorError(Kind.STALE, message, hint="Connect it again if it is wanted.")
        finally:
            self._resolving[key] -= 1
            if not self._resolving[key]:
                del self._resolving[key]
                self._withdrawn.discard(key)
        await self._fence(request.key, deadline)
        return target

    def _withdraw(self, key: DeviceKey) -> None:
        if key_of(key) in self._resolving:
            self._withdrawn.add(key_of(key))

    async def _answered(self, slot: Slot, deadline: float) -> None:
        """Return when the back end has answered. Raises at once when there is nobody who could."""
        while True:
            if not await self._driver.until(slot, ANSWERED, deadline):
                raise _too_late(slot.connection)
            unserved = slot.connection.state in UNSERVED
            if not unserved or not self._driver.modules.epoch(slot.connection.target.provider):
                return
            await self._driver.until(slot, frozenset(S) - UNSERVED, deadline)
            if slot.connection.state in UNSERVED:
                return

    async def _attach(self, slot: Slot) -> None:
        provider = slot.connection.target.provider
        module = self._driver.modules.module(provider)
        if module.state == "failed" and slot.connection.state in CLOSED:
            raise unavailable(
                f"back end {provider} cannot be used: {module.reason}",
                delivered=True,
                hint=f'When that is repaired: manor call devices.backend.load \'{{"name": "{provider}"}}\'',
            )
        if module.classes and slot.connection.request.type not in module.classes:
            kinds = ", ".join(module.classes)
            raise denied_state(f"back end {provider} serves {kinds}, not a {slot.connection.request.type}")
        reason = "" if self._driver.modules.epoch(provider) else f"back end {provider} is {module.state}"
        event = Event(T.ATTACH, epoch=self._driver.modules.epoch(provider), reason=reason)
        self._check(slot, await self._driver.ask(slot, event, durable=False), "attach")

    async def _hand_over(self, slot: Slot, connection: Connection) -> Descriptor:
        if connection.state in UNSERVED:
            provider = connection.target.provider
            raise unavailable(
                f"{slot.name} is {connection.state.value} for provider {provider}: {connection.reason}",
                delivered=True,
                hint=f"It goes on by itself when that is there: manor backend load {provider}",
            )
        if connection.state not in SERVED or connection.descriptor is None:
            raise _failure(connection)
        event = Event(T.FRONT_CONNECTING, generation=connection.generation, epoch=connection.epoch)
        await self._driver.ask(slot, event)
        return connection.descriptor

    # --- the rest -------------------------------------------------------------------------------------

    def _slot(self, key: DeviceKey) -> Slot | None:
        return self._driver.slots.get(key_of(key))

    async def _tell(self, key: DeviceKey, event: Event, what: str) -> None:
        slot = self._slot(key)
        if slot is None:
            raise ManorError(
                Kind.STALE, f"there is no connection {key.id} of {key.uuid}, incarnation {key.incarnation}"
            )
        self._check(slot, await self._driver.ask(slot, event), what)

    def _check(self, slot: Slot, outcome: Step, what: str) -> None:
        connection = outcome.connection
        if outcome.verdict is Verdict.STALE:
            raise ManorError(
                Kind.STALE,
                f"{slot.name} is at generation {connection.generation}: what was said is about an older one",
                hint="Ask devices.device.list, then decide again.",
            )
        if outcome.verdict is Verdict.DENIED:
            now = ", ".join(allowed(connection.state)) or "nothing: wait"
            raise denied_state(
                f"{slot.name} is {connection.state.value}: {what} is not possible",
                hint=f"Possible now: {now}.",
            )

    async def _close_runs(self, uuid: str, incarnation: int, deadline: float) -> None:
        ending = [key for key in self._runs.get(uuid, {}) if key.incarnation <= incarnation]
        await asyncio.gather(*(self._close(slot, deadline) for slot in self._slots(ending)))
        for slot in self._slots(ending):
            self.forget_if_over(slot.connection)

    async def _close(self, slot: Slot, deadline: float) -> None:
        await self._driver.ask(slot, Event(T.DOMAIN_GONE, reason="the run of the domain ended"))
        await self._driver.until(slot, CLOSED, deadline)

    def _slots(self, keys: Iterable[DeviceKey]) -> list[Slot]:
        return [slot for slot in map(self._slot, keys) if slot is not None]


def _same(old: Connect, new: Connect) -> bool:
    """Return whether only the domain's name differs."""
    return old == msgspec.structs.replace(new, domain=old.domain)


def _too_late(connection: Connection) -> ManorError:
    key = connection.request.key
    return ManorError(
        Kind.TIMEOUT,
        f"{connection.request.domain}/{key.id} is still {connection.state.value}"
        + (f": {connection.reason}" if connection.reason else ""),
        hint="It goes on by itself: look with manor device list, or ask again.",
    )


def _failure(connection: Connection) -> ManorError:
    if connection.error is not None:
        return ManorError.from_body(connection.error)
    name = f"{connection.request.domain}/{connection.request.key.id}"
    return ManorError(Kind.DENIED_STATE, f"{name} is {connection.state.value}: {connection.reason}")
