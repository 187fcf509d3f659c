"""All domains of this node: what happens to them is taken here, and what is due for each is decided here.

Documents, hypervisor events and device states come in; operations go out to the driver. Nothing here waits.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Final, Protocol

from manor_bus.wire.errors import not_found
from manor_bus.wire.messages.documents import Domain, RunPolicy
from manor_bus.wire.messages.lifecycle import Operation, State
from manor_lifecycle import endings, hypervisors, machine, patience, reconcile
from manor_lifecycle.driver import Driver, Listeners
from manor_lifecycle.hypervisors import GuestState, HypervisorEvent, RunEvent, RunningDomain
from manor_lifecycle.ledger import Booted
from manor_lifecycle.life import Life, Work, lived
from manor_lifecycle.machine import Trigger
from manor_lifecycle.means import Means
from manor_lifecycle.ownership import is_mine
from manor_lifecycle.plan import Arguments
from manor_lifecycle.reconcile import Decision, Situation

BUSY_MAX: Final = (
    256  # domains worked on at once because of their documents; what callers ask for comes on top
)
RETRY_S_MAX: Final = 60.0
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
        self.means = means
        self._told = told
        self.changed = told.changed
        self.driver = Driver(means, Listeners(told.changed, told.told, self._next, self._idle))
        self.by_uuid: dict[str, Life] = {}
        self.uuids: dict[str, str] = {}  # by name
        self._boot_due: set[str] = set()
        self._displaced: set[str] = set()  # others have their names now
        self._ready: dict[str, None] = {}  # wait for others to become idle
        self._users: dict[str, set[str]] = {}  # name -> uuids of those that depend on it
        self._stale_events = 0

    # --- look up --------------------------------------------------------------------------------------

    def find(self, name: str) -> Life:
        """Return a domain by name or uuid; `not_found` otherwise."""
        life = self.by_uuid.get(self.uuids.get(name, name))
        if life is None:
            message = f"there is no domain {name!r} on node {self.means.node}"
            raise not_found(message, hint="List them: manor list")
        return life

    def add(self, life: Life) -> None:
        """Take a domain in."""
        self.by_uuid[life.uuid] = life
        self.uuids[life.name] = life.uuid
        self._learn_dependencies(life)
        self.changed(life)

    def _learn_dependencies(self, life: Life) -> None:
        for name in life.spec.depends_on:
            self._users.setdefault(name, set()).add(life.uuid)

    def remove(self, life: Life) -> None:
        """Forget a domain that is no more."""
        del self.by_uuid[life.uuid]
        self._displaced.discard(life.uuid)
        if life.boot_due:
            self._booted(life)
        if self.uuids.get(life.name) == life.uuid:
            del self.uuids[life.name]
        self.means.ledger.forget(life.uuid)
        self._told.removed(life)

    def namesake(self, life: Life) -> str:
        """Return the uuid of another run under the name of a domain; two would be taken for one."""
        there = (self.by_uuid.get(uuid) for uuid in self._displaced)
        runs = (one.uuid for one in there if one is not None and one.name == life.name and one.guest)
        return next((uuid for uuid in runs if uuid != life.uuid), "")

    def rename(self, life: Life, name: str) -> None:
        """Call a domain by another name from now on."""
        if self.uuids.get(life.name) == life.uuid:
            del self.uuids[life.name]
        life.name = name
        self.uuids[name] = life.uuid
        self.changed(life)

    def starts_with_node(self) -> None:
        """Note who is to be started because the node was."""
        for life in self.by_uuid.values():
            life.boot_due = life.document is not None and life.spec.run is RunPolicy.ON_BOOT
            if life.boot_due:
                self._boot_due.add(life.uuid)
        self._booted(None)

    def _booted(self, life: Life | None) -> None:
        """Somebody of them was begun or is no more; when all were, the journal says so."""
        if life is not None:
            life.boot_due = False
            self._boot_due.discard(life.uuid)
        if not self._boot_due:
            self.means.note(Booted(boot_id=self.means.boot_id))

    # --- documents ------------------------------------------------------------------------------------

    def document(self, name: str, document: Domain | None) -> None:
        """A document is there, was changed, or is gone."""
        if document is None:
            life = self.by_uuid.get(self.uuids.get(name, ""))
            if life is not None and life.document is not None:
                life.document = None
                self.poke(life)
            return
        uuid = document.metadata.uuid
        before = self.by_uuid.get(self.uuids.get(name, ""))
        if before is not None and before.uuid != uuid and before.document is not None:
            before.document = None  # another one has its name now, as after a restored backup
            self._displaced.add(before.uuid)
            self.changed(before)
            self.poke(before)
        life = self.by_uuid.get(uuid)
        held = self.means.claims.held.get(uuid)
        if life is None:
            if not is_mine(document, held, self.means.node):
                return
            life = Life(uuid, name, generation=self.means.ledger.generations.get(uuid, 0))
            life.state = _first_state(held.record.saved if held else "", held.record.failed if held else "")
            if held is not None:
                life.saved, life.stopped = bool(held.record.saved), held.record.stopped
                life.incarnation = life.born = held.record.incarnation
                life.reason = held.record.failed
                life.hypervisor = held.record.hypervisor
            life.document = document
            life.hypervisor = life.hypervisor or document.spec.hypervisor or self.means.default_hypervisor
            self.add(life)
        elif document.metadata.revision >= life.revision:
            life.document = document
            life.failures, life.retry_at = 0, 0.0
            life.refused.clear()
            self._learn_dependencies(life)
            if life.name != name:
                self.rename(life, name)
        self.changed(life)
        self.poke(life)

    # --- what is due ----------------------------------------------------------------------------------

    def poke(self, life: Life) -> None:
        """Something about a domain changed: see to what is due, now or when others are done."""
        if not self._is_due(life):
            return
        life.due = not life.works
        self.changed(life)
        if self.driver.busy < BUSY_MAX or life.works:
            self.driver.wake(life)
        else:
            self._ready[life.uuid] = None

    def _is_due(self, life: Life) -> bool:
        if life.works or life.ending is not None or life.look:
            return True
        if life.document is None and machine.knows(life.state, Trigger.UNDEFINE):
            return True
        return self._decide(life).verb is not None or life.state is State.DYING

    def _idle(self, life: Life) -> None:
        """A domain's task ended: the next one that waits has its turn."""
        patience.ask_again(self, life)
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
            return self.internal(life, "destroy", Arguments(), "the hypervisor still holds it")
        decision = self._decide(life)
        if decision.verb is None:
            return None
        if decision.verb is Trigger.SHUTDOWN:
            life.tried = (life.revision, life.incarnation)
        return self.internal(life, decision.verb.value, decision.arguments, "the document says so")

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
        held = self.means.claims.held.get(life.uuid)
        record, missing = held.record if held else None, self._missing(life)
        same_run = life.barred is not None and life.barred[:2] == (life.revision, life.incarnation)
        there = Situation(
            state=life.state,
            record=record,
            running=life.running,
            features=life.features,
            refused=life.refused,
            missing=missing,
            boot_due=life.boot_due,
            namesake=self.namesake(life),
            barred=life.barred[2] if life.barred is not None and same_run else "",
        )
        decision = reconcile.decide(life.document, there)
        waits = decision.waits or ("" if life.reason.startswith("waits for ") else life.reason)
        if decision.pending != life.pending or waits != life.reason:
            life.pending, life.reason = decision.pending, waits
            self.changed(life)
        if decision.verb is Trigger.SHUTDOWN and life.tried == (life.revision, life.incarnation):
            return Decision(pending=decision.pending)
        return decision

    def _missing(self, life: Life) -> tuple[str, ...]:
        """Return the domains of this node that must run before this one and do not."""
        lives = (self.by_uuid.get(self.uuids.get(name, "")) for name in life.spec.depends_on)
        return tuple(found.name for found in lives if found is not None and found.state is not State.RUNNING)

    def internal(
        self, life: Life, kind: str, arguments: Arguments, reason: str, *, first: bool = False
    ) -> Work:
        """Begin an operation that nobody asked for."""
        life.retry_at = 0.0
        if life.boot_due and kind == "start":
            self._booted(life)
        work = Work(f"{kind}-{secrets.token_hex(6)}", kind, arguments, internal=True)
        self.driver.begin(life, work, who=f"lifecycle@{self.means.node}", reason=reason, first=first)
        return work

    def _ended(self, life: Life) -> bool:
        """Treat a run that ended by itself; say whether there is work to do for it, first in the queue."""
        ending, life.ending = life.ending, None
        if ending is None or not machine.knows(life.state, Trigger.END):
            return False
        record = self.means.record(life.uuid)
        run = endings.Run(
            reason=ending.reason,
            detail=ending.detail,
            ran_s=max(0.0, self.means.wall() - life.started),
            kept=ending.kept,
            stopped=record.stopped,
            crashes=record.crashes,
            reboots=record.reboots,
        )
        outcome = endings.decide(run, life.document.spec if life.document else None)
        life.reason = outcome.reason
        if outcome.trigger is Trigger.PRESERVE:
            life.state, _ = machine.step(life.state, Trigger.PRESERVE)
            self.means.note(lived(life, self.means.boot_id))
            self.changed(life)
            return False
        arguments = Arguments(
            dump=outcome.dump,
            delay_s=outcome.delay_s,
            failed=outcome.reason if outcome.trigger is Trigger.GIVE_UP else "",
            crashes=outcome.crashes,
            reboots=outcome.reboots,
        )
        kind = "restart" if outcome.trigger is Trigger.RESTART else "end"
        self.internal(life, kind, arguments, outcome.reason, first=True)
        return True

    # --- hypervisor events ----------------------------------------------------------------------------

    def happened(self, hypervisor: str, event: HypervisorEvent) -> None:
        """A hypervisor reports something."""
        if isinstance(event, hypervisors.ForeignChanged):
            self.foreign(hypervisor, event.uuid, event.domain)
            return
        if isinstance(event, hypervisors.Changed):
            self._look(event.uuid)
        else:
            self._happened(event)

    def _happened(self, event: RunEvent) -> None:
        life = self.by_uuid.get(event.run.uuid)
        if life is None or life.incarnation != event.run.incarnation or life.guest is None:
            self._stale_events += 1
            return
        match event:
            case hypervisors.Ended():
                life.ending = event
                life.guest = GuestState.ENDED if event.kept else None
            case hypervisors.Hung():
                patience.silent(self, life, event.detail, self.means.wall())
            case hypervisors.Unplugged():
                self._let_go(life, event.device)
            case hypervisors.Stopped() | hypervisors.Continued():
                self._moved(life, event)
            case hypervisors.Resized():
                life.memory_mib, life.cpus = event.memory_mib, event.cpus
            case hypervisors.ShutdownAcknowledged() | hypervisors.Answering():
                life.acknowledged |= isinstance(event, hypervisors.ShutdownAcknowledged)
                life.silent, life.silent_since = "", 0.0
        if life.bell is not None:
            life.bell()
        self.changed(life)
        self.poke(life)

    def _look(self, uuid: str) -> None:
        """Something about a run is different: it is asked what, in the domain's own task."""
        life = self.by_uuid.get(uuid)
        if life is not None and life.guest is not None:
            life.look = True
            self.poke(life)

    def _moved(self, life: Life, event: hypervisors.Stopped | hypervisors.Continued) -> None:
        stopped = isinstance(event, hypervisors.Stopped)
        life.guest = GuestState.PAUSED if stopped else GuestState.RUNNING
        life.reason = event.reason if isinstance(event, hypervisors.Stopped) else ""
        if not stopped:
            life.asked = 0
            life.refused.clear()
        trigger = Trigger.STANDS if stopped else Trigger.RUNS
        if not life.works and machine.knows(life.state, trigger):
            life.state, _ = machine.step(life.state, trigger)

    def _let_go(self, life: Life, device: str) -> None:
        """The guest let a device go late, or by itself: its back end is released."""
        life.refused.pop(device, None)
        unplugs = any(w.kind in ("unplug", "configure") for w in life.works)
        if device in life.connections and not unplugs:
            self.internal(life, "unplug", Arguments(device=device, force=True), "the guest let it go")

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
            life = Life(uuid, f"foreign-{name}" if name in self.uuids else name, hypervisor=hypervisor)
            life.state, _ = machine.step(life.state, Trigger.FOREIGN)
            self.add(life)
        if life.state is State.FOREIGN:
            life.guest, life.cpus, life.memory_mib = seen.state, seen.cpus, seen.memory_mib
            life.started, life.reason = seen.started, "not created by Manor; it is not touched"
            self.changed(life)


def _first_state(saved: str, failed: str) -> State:
    if failed:
        return State.FAILED
    return State.SUSPENDED if saved else State.DEFINED
