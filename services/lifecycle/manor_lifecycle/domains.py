"""All domains of this node: what happens to them is taken here, and what is due for each is decided here.

Documents, hypervisor events and device states come in; operations go out to the driver. Nothing here waits.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Final, Protocol

from manor_bus.wire.errors import not_found
from manor_bus.wire.messages.devices import ConnectionState, DeviceStatus
from manor_bus.wire.messages.documents import Domain
from manor_bus.wire.messages.lifecycle import Operation, State
from manor_lifecycle import endings, hypervisors, machine, reconcile
from manor_lifecycle.driver import Driver, Listeners
from manor_lifecycle.hypervisors import GuestState, OldEvent, Run, RunningDomain
from manor_lifecycle.life import Connection, Life, Work, lived
from manor_lifecycle.machine import Trigger
from manor_lifecycle.means import Means
from manor_lifecycle.ownership import is_mine
from manor_lifecycle.plan import Arguments, LiveChange
from manor_lifecycle.reconcile import Decision, Situation

BUSY_MAX: Final = (
    256  # domains worked on at once because of their documents; what callers ask for comes on top
)
RETRY_S_MAX: Final = 60.0
NOT_CONNECTED: Final = frozenset(
    {ConnectionState.ABSENT, ConnectionState.CLOSED, ConnectionState.CLOSING, ConnectionState.FAILED}
)
log = logging.getLogger(__name__)


class Told(Protocol):
    """Who is told of every change; see `publishing`."""

    def changed(self, life: Life) -> None:
        """A domain may look different now."""

    def told(self, operation: Operation) -> None:
        """An operation looks different now."""

    def removed(self, life: Life) -> None:
        """A domain is no more."""


class Domains:
    """The lives on this node, by uuid and by name."""

    def __init__(self, means: Means, told: Told) -> None:
        self._means = means
        self._told = told
        self._changed = told.changed
        self.driver = Driver(means, Listeners(told.changed, told.told, self._next, self._idle))
        self.by_uuid: dict[str, Life] = {}
        self._uuids: dict[str, str] = {}  # by name
        self._ready: dict[str, None] = {}  # wait for others to become idle
        self._users: dict[str, set[str]] = {}  # name -> uuids of those that depend on it
        self._stale_events = 0

    # --- look up --------------------------------------------------------------------------------------

    def find(self, name: str) -> Life:
        """Return a domain by name or uuid; `not_found` otherwise."""
        life = self.by_uuid.get(self._uuids.get(name, name))
        if life is None:
            message = f"there is no domain {name!r} on node {self._means.node}"
            raise not_found(message, hint="List them: manor list")
        return life

    def add(self, life: Life) -> None:
        """Take a domain in."""
        self.by_uuid[life.uuid] = life
        self._uuids[life.name] = life.uuid
        self._learn_dependencies(life)
        self._changed(life)

    def _learn_dependencies(self, life: Life) -> None:
        for name in life.spec.depends_on:
            self._users.setdefault(name, set()).add(life.uuid)

    def remove(self, life: Life) -> None:
        """Forget a domain that is no more."""
        del self.by_uuid[life.uuid]
        if self._uuids.get(life.name) == life.uuid:
            del self._uuids[life.name]
        self._means.ledger.forget(life.uuid)
        self._told.removed(life)

    def rename(self, life: Life, name: str) -> None:
        """Call a domain by another name from now on."""
        if self._uuids.get(life.name) == life.uuid:
            del self._uuids[life.name]
        life.name = name
        self._uuids[name] = life.uuid
        self._changed(life)

    # --- documents ------------------------------------------------------------------------------------

    def document(self, name: str, document: Domain | None) -> None:
        """A document is there, was changed, or is gone."""
        if document is None:
            life = self.by_uuid.get(self._uuids.get(name, ""))
            if life is not None and life.document is not None:
                life.document = None
                self.poke(life)
            return
        uuid = document.metadata.uuid
        life = self.by_uuid.get(uuid)
        held = self._means.claims.held.get(uuid)
        if life is None:
            if not is_mine(document, held, self._means.node):
                return
            life = Life(uuid, name, generation=self._means.ledger.generations.get(uuid, 0))
            life.state = _first_state(held.record.saved if held else "", held.record.failed if held else "")
            if held is not None:
                life.saved, life.stopped = bool(held.record.saved), held.record.stopped
                life.incarnation = life.born = held.record.incarnation
                life.reason = held.record.failed
                life.hypervisor = held.record.hypervisor
            life.document = document
            life.hypervisor = life.hypervisor or document.spec.hypervisor or self._means.default_hypervisor
            self.add(life)
        elif document.metadata.revision >= life.revision:
            life.document = document
            life.failures, life.retry_at = 0, 0.0
            life.refused.clear()
            self._learn_dependencies(life)
            if life.name != name:
                self.rename(life, name)
        self._changed(life)
        self.poke(life)

    # --- what is due ----------------------------------------------------------------------------------

    def poke(self, life: Life) -> None:
        """Something about a domain changed: see to what is due, now or when others are done."""
        if not self._is_due(life):
            return
        if self.driver.busy < BUSY_MAX or life.works:
            self.driver.wake(life)
        else:
            self._ready[life.uuid] = None

    def _is_due(self, life: Life) -> bool:
        if life.works or life.ending is not None:
            return True
        if life.document is None and machine.knows(life.state, Trigger.UNDEFINE):
            return True
        return self._decide(life).verb is not None or life.state is State.DYING

    def _idle(self, life: Life) -> None:
        """A domain's task ended: the next one that waits has its turn."""
        if life.uuid in self.by_uuid and self._is_due(life) and not self._waits(life):
            self.driver.wake(life)
        if life.state is State.RUNNING:
            for uuid in self._users.get(life.name, ()):
                if (user := self.by_uuid.get(uuid)) is not None:
                    self.poke(user)
        while self._ready and self.driver.busy < BUSY_MAX:
            uuid = next(iter(self._ready))
            del self._ready[uuid]
            waiting = self.by_uuid.get(uuid)
            if waiting is not None:
                self.driver.wake(waiting)

    def _next(self, life: Life) -> Work | None:
        """Return what is due for a domain; see the driver for the order."""
        if life.works and not life.works[0].enter:
            return life.works[0]
        if life.ending is not None and self._ended(life):
            return life.works[0]
        if life.works:
            return life.works[0]
        if life.document is None and machine.knows(life.state, Trigger.UNDEFINE):
            life.state, _ = machine.step(life.state, Trigger.UNDEFINE)
            self.remove(life)
            return None
        if life.state is State.DYING and not life.failures:
            life.failures = 1  # never without a pause
        if self._waits(life):
            return None
        if life.state is State.DYING:
            return self._internal(life, "destroy", Arguments(), "the hypervisor still holds it")
        decision = self._decide(life)
        if decision.verb is None:
            return None
        if decision.verb is Trigger.SHUTDOWN:
            life.tried = (life.revision, life.incarnation)
        return self._internal(life, decision.verb.value, decision.arguments, "the document says so")

    def _waits(self, life: Life) -> bool:
        """Say whether a failure was too recent; then it is tried again in time."""
        if not life.failures or life.works or life.ending is not None or life.retry_at < 0:
            return False
        if life.retry_at == 0:
            loop = asyncio.get_running_loop()
            life.retry_at = loop.time() + min(2.0**life.failures, RETRY_S_MAX)
            loop.call_at(life.retry_at, self._again, life)
        return True

    def _again(self, life: Life) -> None:
        if self.by_uuid.get(life.uuid) is life:
            life.retry_at = -1.0
            self.poke(life)

    def _decide(self, life: Life) -> Decision:
        held = self._means.claims.held.get(life.uuid)
        record, missing = held.record if held else None, self._missing(life)
        there = Situation(life.state, record, life.running, life.features, life.refused, missing)
        decision = reconcile.decide(life.document, there)
        waits = decision.waits or ("" if life.reason.startswith("waits for ") else life.reason)
        if decision.pending != life.pending or waits != life.reason:
            life.pending, life.reason = decision.pending, waits
            self._changed(life)
        if decision.verb is Trigger.SHUTDOWN and life.tried == (life.revision, life.incarnation):
            return Decision(pending=decision.pending)
        return decision

    def _missing(self, life: Life) -> tuple[str, ...]:
        """Return the domains of this node that must run before this one and do not."""
        lives = (self.by_uuid.get(self._uuids.get(name, "")) for name in life.spec.depends_on)
        return tuple(found.name for found in lives if found is not None and found.state is not State.RUNNING)

    def _internal(
        self, life: Life, kind: str, arguments: Arguments, reason: str, *, first: bool = False
    ) -> Work:
        life.retry_at = 0.0
        work = Work(f"{kind}-{secrets.token_hex(6)}", kind, arguments, internal=True)
        self.driver.begin(life, work, who=f"lifecycle@{self._means.node}", reason=reason, first=first)
        return work

    def _ended(self, life: Life) -> bool:
        """Treat a run that ended by itself; say whether there is work to do for it, first in the queue."""
        ending, life.ending = life.ending, None
        if ending is None or not machine.knows(life.state, Trigger.END):
            return False
        record = self._means.record(life.uuid)
        run = endings.Run(
            reason=ending.reason,
            detail=ending.detail,
            ran_s=max(0.0, self._means.wall() - life.started),
            kept=ending.kept,
            stopped=record.stopped,
            crashes=record.crashes,
            reboots=record.reboots,
        )
        outcome = endings.decide(run, life.document.spec if life.document else None)
        life.reason = outcome.reason
        if outcome.trigger is Trigger.PRESERVE:
            life.state, _ = machine.step(life.state, Trigger.PRESERVE)
            self._means.note(lived(life, self._means.boot_id))
            self._changed(life)
            return False
        arguments = Arguments(
            dump=outcome.dump,
            delay_s=outcome.delay_s,
            failed=outcome.reason if outcome.trigger is Trigger.GIVE_UP else "",
            crashes=outcome.crashes,
            reboots=outcome.reboots,
        )
        kind = "restart" if outcome.trigger is Trigger.RESTART else "end"
        self._internal(life, kind, arguments, outcome.reason, first=True)
        return True

    # --- hypervisor events ----------------------------------------------------------------------------

    def happened(self, hypervisor: str, event: OldEvent) -> None:
        """A hypervisor reports something."""
        if isinstance(event, hypervisors.ForeignChanged):
            self.foreign(hypervisor, event.uuid, event.domain)
            return
        life = self.by_uuid.get(event.run.uuid)
        if life is None or life.incarnation != event.run.incarnation or life.guest is None:
            self._stale_events += 1
            return
        match event:
            case hypervisors.Ended():
                life.ending = event
                life.guest = GuestState.ENDED if event.kept else None
            case hypervisors.Hung():
                self._hung(life, event)
            case hypervisors.Unplugged():
                self._let_go(life, event.device)
            case hypervisors.Stopped() | hypervisors.Continued():
                self._moved(life, event)
            case hypervisors.Resized():
                life.memory_mib, life.cpus = event.memory_mib, event.cpus
            case hypervisors.ShutdownAcknowledged() | hypervisors.Answering():
                life.acknowledged |= isinstance(event, hypervisors.ShutdownAcknowledged)
                life.silent = ""
        if life.bell is not None:
            life.bell()
        self._changed(life)
        self.poke(life)

    def _hung(self, life: Life, event: hypervisors.Hung) -> None:
        """Silence is suspicion, not proof: only a policy of the document makes an action of it."""
        life.silent = f"the device model does not answer: {event.detail}"
        life.silent_since = self._means.wall()
        policy = life.spec.on_silence
        if policy.action != "never":
            loop = asyncio.get_running_loop()
            loop.call_later(policy.after_s, self._still_silent, life, life.run, life.silent_since)

    def _still_silent(self, life: Life, run: Run, since: float) -> None:
        policy, silent = life.spec.on_silence, life.silent and life.silent_since == since
        if not silent or life.run != run or life.document is None or policy.action == "never":
            return
        kind = "restart" if policy.action == "restart" else "end"
        if life.guest is not None and machine.knows(life.state, Trigger(kind)):
            self._internal(life, kind, Arguments(), f"silent for {policy.after_s:g} s", first=not life.works)
            self.driver.wake(life)

    def _moved(self, life: Life, event: hypervisors.Stopped | hypervisors.Continued) -> None:
        stopped = isinstance(event, hypervisors.Stopped)
        life.guest = GuestState.PAUSED if stopped else GuestState.RUNNING
        life.reason = event.reason if isinstance(event, hypervisors.Stopped) else ""
        trigger = Trigger.STANDS if stopped else Trigger.RUNS
        if not life.works and machine.knows(life.state, trigger):
            life.state, _ = machine.step(life.state, trigger)

    def _let_go(self, life: Life, device: str) -> None:
        """The guest let a device go late, or by itself: its back end is released."""
        life.refused.pop(device, None)
        unplugs = any(w.kind in ("unplug", "configure") for w in life.works)
        if device in life.connections and not unplugs:
            self._internal(life, "unplug", Arguments(device=device, force=True), "the guest let it go")

    def foreign(self, hypervisor: str, uuid: str, seen: RunningDomain | None) -> None:
        """A guest that is not ours is listed, and never touched (rule L18)."""
        life = self.by_uuid.get(uuid)
        if seen is None:
            if life is not None and life.state is State.FOREIGN:
                self.remove(life)
            return
        if life is None:
            name = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in seen.name)
            name = (name or uuid)[:48]
            life = Life(uuid, f"foreign-{name}" if name in self._uuids else name, hypervisor=hypervisor)
            life.state, _ = machine.step(life.state, Trigger.FOREIGN)
            self.add(life)
        if life.state is State.FOREIGN:
            life.guest, life.cpus, life.memory_mib = seen.state, seen.cpus, seen.memory_mib
            life.started, life.reason = seen.started, "not created by Manor; it is not touched"
            self._changed(life)

    # --- device states --------------------------------------------------------------------------------

    def device(self, domain: str, device: str, status: DeviceStatus | None) -> None:
        """A connection changed its state, or is gone (None)."""
        if status is None:
            life = self.by_uuid.get(self._uuids.get(domain, ""))
            if life is not None and life.views.pop(device, None) is not None:
                self._changed(life)
            return
        life = self.by_uuid.get(status.key.uuid)
        if life is None or life.state is State.FOREIGN:
            return
        life.views[device] = status
        self._changed(life)
        if life.guest is None:
            if not life.works and status.state not in NOT_CONNECTED:
                self._means.owed[life.uuid, status.key.incarnation] = None
            return
        self._follow(life, device, status)

    def _follow(self, life: Life, device: str, status: DeviceStatus) -> None:
        connection = life.connections.get(device)
        if connection is None or status.key.incarnation != life.born:
            return
        if connection.generation == 0:  # adopted after a restart
            life.connections[device] = Connection(connection.device, status.generation)
            return
        kind = None
        if status.state is ConnectionState.READY and status.generation > connection.generation:
            changes = (LiveChange(type="reconnect", device=device),)
            kind, arguments = "configure", Arguments(changes=changes)
        elif status.state is ConnectionState.BROKEN:
            kind, arguments = "unplug", Arguments(device=device, force=True)
        if kind is not None and not any(w.arguments == arguments for w in life.works):
            if machine.knows(life.state, Trigger(kind)):
                self._internal(life, kind, arguments, status.reason or f"device {device} is {status.state}")
                self.driver.wake(life)
        elif status.state is ConnectionState.CONNECTED:
            life.connections[device] = Connection(connection.device, status.generation)


def _first_state(saved: str, failed: str) -> State:
    if failed:
        return State.FAILED
    return State.SUSPENDED if saved else State.DEFINED
