"""What a restart of the service does with each domain (rules L15, L17, L18). Pure.

Three witnesses are heard: the journal (which operation was under way, which run was expected), the
hypervisor (what is there), the ownership record (which incarnation is the right one). Where journal and
hypervisor disagree, the hypervisor wins and the disagreement is reported as DIVERGED.

An operation that was under way is brought back to where it can be begun again, and then begun again under its
id; the plans start from what is observed, so what was already done is not done twice. One that was being
undone is undone to its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from manor_bus.wire.errors import ErrorBody, Kind
from manor_bus.wire.messages.config import OwnerRecord
from manor_bus.wire.messages.documents import DomainSpec
from manor_bus.wire.messages.lifecycle import State
from manor_lifecycle.hypervisors import EndReason, GuestState, RunningDomain
from manor_lifecycle.ledger import Lived, Open
from manor_lifecycle.machine import TABLE
from manor_lifecycle.operations import trigger_of
from manor_lifecycle.ownership import UNREADABLE
from manor_lifecycle.plan import Act

ATTEMPTS_MAX: Final = 3  # a service that dies three times during one operation gives the operation up
BRINGS_UP: Final = frozenset({"start", "restart", "reboot", "restore"})


@dataclass(frozen=True, slots=True)
class Witnesses:
    """Everything that is known of one domain after a restart. `operation` is the first one of its queue."""

    node: str
    boot_id: str
    operation: Open | None = None
    lived: Lived | None = None
    listed: RunningDomain | None = None
    record: OwnerRecord | None = None


@dataclass(frozen=True, slots=True)
class Recovered:
    """Where to begin. In this order: `undo`, then close the operation with `error` or begin it again, then
    treat `ended` by policy.

    `state` is that of the machine; `incarnation` that of the run it is about; `leftover` is the incarnation
    of an older run of ours to be destroyed. `diverged` says what nobody expected.
    """

    state: State
    guest: GuestState | None = None
    incarnation: int = 0
    undo: tuple[Act, ...] = ()
    operation: Literal["none", "again", "close"] = "none"
    error: ErrorBody | None = None
    ended: EndReason | None = None
    superseded: bool = False
    leftover: int = 0
    reason: str = ""
    diverged: str = ""


def recover(seen: Witnesses) -> Recovered:
    """Return what to do with one domain."""
    if seen.record is not None and seen.record.node == UNREADABLE and seen.operation is None:
        return _undocumented(seen, seen.record)
    if _is_superseded(seen):
        incarnation = seen.listed.incarnation if seen.listed else 0
        guest = seen.listed.state if seen.listed else None
        reason = f"owned by node {seen.record.node} now" if seen.record else ""
        return Recovered(State.LOST, guest, incarnation, superseded=True, reason=reason)
    if seen.operation is not None:
        return _interrupted(seen, seen.operation)
    return _at_rest(seen)


def _undocumented(seen: Witnesses, record: OwnerRecord) -> Recovered:
    """Nobody can say whose it is: a run that is there goes on, and nothing is started."""
    listed = seen.listed
    if listed is None or listed.state is GuestState.ENDED:
        return Recovered(State.FAILED, reason=record.failed)
    state = State.PAUSED if listed.state is GuestState.PAUSED else State.RUNNING
    return Recovered(state, listed.state, listed.incarnation, reason=record.failed)


def _is_superseded(seen: Witnesses) -> bool:
    return seen.record is not None and seen.record.node not in (seen.node, UNREADABLE)


def _is_leftover(seen: Witnesses) -> bool:
    """Say whether the listed run is older than the record: a run that a later start has replaced."""
    return (
        seen.listed is not None
        and seen.record is not None
        and seen.listed.incarnation < seen.record.incarnation
        and (seen.lived is None or seen.lived.incarnation != seen.listed.incarnation)
    )


# --- an operation was under way -----------------------------------------------------------------------


def _interrupted(seen: Witnesses, found: Open) -> Recovered:
    begun = found.begun
    guest = seen.listed.state if seen.listed else None
    incarnation = seen.listed.incarnation if seen.listed else 0
    transient = TABLE.get((begun.before, trigger_of(begun.kind, begun.arguments)))
    state = transient.target if transient is not None else begun.before
    if found.steps == 0 and found.turned is None and begun.attempt == 1 and begun.kind not in BRINGS_UP:
        return Recovered(begun.before, guest, incarnation, operation="again")
    undo = _undo(seen, found)
    if Act.DESTROY in undo:
        guest = None
    if found.turned is not None:
        return Recovered(state, guest, incarnation, undo, "close", found.turned)
    if begun.kind == "nmi":
        return Recovered(state, guest, incarnation, undo, "close", _unknown(begun.kind))
    if begun.attempt >= ATTEMPTS_MAX:
        return Recovered(state, guest, incarnation, undo, "close", _too_often(begun.kind, begun.attempt))
    return Recovered(state, guest, incarnation, undo, "again")


def _undo(seen: Witnesses, found: Open) -> tuple[Act, ...]:
    """Return what takes the operation back to where it can be begun again, or ended."""
    begun = found.begun
    saved = bool(seen.record and seen.record.saved)
    if begun.kind in BRINGS_UP:
        return _undo_bring_up(seen, found, saved)
    if begun.kind == "save" and not saved and seen.listed is not None:
        return (Act.UNSAVE,)
    if begun.kind == "delete" and found.turned is not None:
        return (Act.UNMARK_DELETING,)
    if begun.kind in ("shutdown", "destroy") and found.turned is not None:
        return (Act.FORGET_STOPPED,)
    return ()


def _undo_bring_up(seen: Witnesses, found: Open, saved: bool) -> tuple[Act, ...]:
    survivable = is_renewed(seen.lived, seen.listed, found)
    if found.begun.kind == "restore" and not saved and found.turned is None and _is_newest(seen):
        return ()  # the saved state was given up for this run: it is all there is
    old_run = (
        seen.listed is not None
        and seen.lived is not None
        and seen.lived.incarnation == seen.listed.incarnation
        and not survivable
    )
    if old_run:  # a reboot whose guest has not ended yet
        return ()
    if survivable and found.turned is None and not (found.begun.kind == "restore" and saved):
        return ()
    # It is undone only before its guest ran; so the saved state is good, although it was forgotten already.
    back = (Act.KEEP,) if found.begun.kind == "restore" and not saved and found.turned is not None else ()
    return (Act.DESTROY, Act.RELEASE_ALL, *back)


def _is_newest(seen: Witnesses) -> bool:
    listed, record = seen.listed, seen.record
    return listed is not None and record is not None and listed.incarnation == record.incarnation


def is_renewed(lived: Lived | None, listed: RunningDomain | None, found: Open) -> bool:
    """Say whether the run that this operation made is there, complete, and may simply go on."""
    return (
        listed is not None
        and lived is not None
        and listed.state is not GuestState.ENDED
        and lived.incarnation == listed.incarnation == found.incarnation
        and found.incarnation != 0
    )


def _unknown(kind: str) -> ErrorBody:
    message = f"the service was restarted during {kind}; the outcome is unknown"
    return ErrorBody(kind=Kind.TIMEOUT, message=message, hint="Look at the domain, then decide.")


def _too_often(kind: str, attempts: int) -> ErrorBody:
    message = f"the service ended {attempts} times during this {kind}, so it is not begun again"
    return ErrorBody(kind=Kind.INTERNAL, message=message, hint="Look at the log of the lifecycle service.")


# --- nothing was under way ----------------------------------------------------------------------------


def _at_rest(seen: Witnesses) -> Recovered:
    failed = seen.record.failed if seen.record else ""
    if seen.listed is None:
        return _absent(seen, failed)
    listed = seen.listed
    if _is_leftover(seen):
        diverged = f"run {listed.incarnation} is still there, though a later one was begun"
        return Recovered(State.DEFINED, leftover=listed.incarnation, diverged=diverged)
    if failed:
        return Recovered(State.FAILED, listed.state, listed.incarnation, reason=failed)
    if listed.state is GuestState.ENDED:
        if seen.lived is not None and seen.lived.crashed:
            return Recovered(State.CRASHED, listed.state, listed.incarnation, reason="remains are kept")
        ended = listed.ended or EndReason.UNKNOWN
        return Recovered(State.RUNNING, listed.state, listed.incarnation, ended=ended)
    state = State.PAUSED if listed.state is GuestState.PAUSED else State.RUNNING
    diverged = "" if seen.lived is not None else f"the journal did not expect run {listed.incarnation}"
    return Recovered(state, listed.state, listed.incarnation, diverged=diverged)


def _absent(seen: Witnesses, failed: str) -> Recovered:
    saved = bool(seen.record and seen.record.saved)
    if failed:
        return Recovered(State.FAILED, reason=failed)
    if saved:
        return Recovered(State.SUSPENDED)
    if seen.lived is None:
        return Recovered(State.DEFINED)
    if seen.lived.boot_id != seen.boot_id:
        return Recovered(State.DEFINED, undo=(Act.RELEASE_ALL,), reason="the node was restarted while it ran")
    if seen.lived.crashed:
        return Recovered(State.CRASHED, None, seen.lived.incarnation, reason="its remains are gone")
    diverged = f"run {seen.lived.incarnation} is gone, though the journal expected it"
    return Recovered(
        State.RUNNING, None, seen.lived.incarnation, ended=EndReason.DEVICE_MODEL, diverged=diverged
    )


def as_observed(started: DomainSpec, wanted: DomainSpec, listed: RunningDomain) -> DomainSpec:
    """Return the spec of a run: that of its start, with the live changes that the hypervisor shows."""
    there = set(listed.devices)
    changes: dict[str, object] = {}
    for name in ("disks", "nics", "channels"):
        before = {device.id: device for device in getattr(started, name)}
        known = {device.id: device for device in getattr(wanted, name)} | before
        changes[name] = tuple(device for device in known.values() if device.id in there)
    memory = msgspec.structs.replace(started.memory, size_mib=listed.memory_mib or started.memory.size_mib)
    cpu = msgspec.structs.replace(started.cpu, count=listed.cpus or started.cpu.count)
    return msgspec.structs.replace(started, memory=memory, cpu=cpu, **changes)
