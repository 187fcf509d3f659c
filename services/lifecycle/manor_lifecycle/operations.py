"""Whether a request becomes an operation: yes, already so, or no because. Pure.

There is one queue per domain; a request is judged against the state that the queued operations will have led
to, if they go well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.lifecycle import State
from manor_lifecycle.machine import TABLE, Trigger, denial
from manor_lifecycle.plan import Arguments

QUEUE_MAX: Final = 8

# Where a domain is when an operation of this kind went well.
GOALS: Final = MappingProxyType(
    {
        "start": State.RUNNING,
        "shutdown": State.DEFINED,
        "reboot": State.RUNNING,
        "restart": State.RUNNING,
        "pause": State.PAUSED,
        "resume": State.RUNNING,
        "destroy": State.DEFINED,
        "end": State.DEFINED,
        "save": State.SUSPENDED,
        "restore": State.RUNNING,
        "discard": State.DEFINED,
        "delete": State.DELETED,
        "clear": State.DEFINED,
    }
)


@dataclass(frozen=True, slots=True)
class Yes:
    """Begin it, after those that are queued; `preempt`: they are to be cancelled first."""

    preempt: bool = False


@dataclass(frozen=True, slots=True)
class Already:
    """Nothing to do. `operation`: the one under way that does the same, if there is one."""

    operation: str = ""


@dataclass(frozen=True, slots=True)
class No:
    """Refused, and why."""

    error: ManorError


Admission = Yes | Already | No


@dataclass(frozen=True, slots=True)
class Waiting:
    """An operation of the domain that is under way or queued."""

    id: str
    kind: str
    arguments: Arguments


def trigger_of(kind: str, arguments: Arguments) -> Trigger:
    """Return what an operation of this kind means to the machine."""
    if kind == "delete" and arguments.force:
        return Trigger.DELETE_FORCE
    if kind == "end" and arguments.failed:
        return Trigger.GIVE_UP
    return Trigger(kind)


def expected(state: State, waiting: Sequence[Waiting]) -> State:
    """Return where the domain will be when all that waits went well."""
    for operation in waiting:
        state = GOALS.get(operation.kind, state)
        if operation.kind in ("start", "restore") and operation.arguments.paused:
            state = State.PAUSED
    return state


def admit(state: State, waiting: Sequence[Waiting], verb: Trigger, arguments: Arguments) -> Admission:
    """Judge a request. `state` is the present one, `waiting` the operations of the domain in their order."""
    last = waiting[-1] if waiting else None
    if last is not None and trigger_of(last.kind, arguments) is verb and last.arguments == arguments:
        return Already(last.id)
    if verb in (Trigger.DESTROY, Trigger.DELETE_FORCE) and (state, verb) in TABLE:
        row = TABLE[state, verb]
        return (
            Already() if row.already and not waiting and not arguments.stopped else Yes(preempt=bool(waiting))
        )
    goal = expected(state, waiting)
    found = TABLE.get((goal, verb))
    if found is None:
        return No(denial(goal if waiting else state, verb))
    if found.already and not waiting and not arguments.stopped and verb is not Trigger.START:
        return Already()
    if len(waiting) >= QUEUE_MAX:
        message = f"{len(waiting)} operations of this domain wait already"
        return No(ManorError(Kind.NO_CAPACITY, message, hint="Wait for them, or cancel some."))
    return Yes()
