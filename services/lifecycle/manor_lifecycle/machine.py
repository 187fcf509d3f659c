"""The life of a domain as one table. Pure.

A row says: in this state, on this trigger, go to that state and execute this plan. What is not in the table
is denied and changes nothing. Triggers are of three sorts:

- verbs: what somebody asks for;
- observations: what the hypervisor shows after a plan ended, well or badly, or after a restart of the
  service. So the same rows serve success, failure, cancellation and recovery;
- decisions: what a policy, the loop guard or the cluster made of an event.

`rule` names the row of the specification (docs/lifecycle.md). `already` rows say "this is already so".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from manor_bus.wire.errors import ManorError, denied_state
from manor_bus.wire.messages.lifecycle import State


class Trigger(StrEnum):
    """What can happen to a domain."""

    # verbs
    START = "start"
    SHUTDOWN = "shutdown"
    REBOOT = "reboot"
    RESET = "reset"
    PAUSE = "pause"
    RESUME = "resume"
    DESTROY = "destroy"
    SAVE = "save"
    RESTORE = "restore"
    DISCARD = "discard"
    RENAME = "rename"
    UNPLUG = "unplug"
    DELETE = "delete"
    DELETE_FORCE = "delete-force"
    NMI = "nmi"
    SCREENSHOT = "screenshot"
    CONSOLE = "console"
    CLEAR = "clear"
    CONFIGURE = "configure"  # the document changed: bring what can be changed live
    # observations
    GONE = "gone"  # the hypervisor does not have it, and there is no saved image
    STANDS = "stands"  # it has it, virtual CPUs stopped
    RUNS = "runs"
    SAVED = "saved"  # it does not have it; a saved image is there
    DEFINE = "define"  # there is a document
    UNDEFINE = "undefine"  # there is no document any more
    FOREIGN = "foreign"  # the hypervisor has one that is not ours
    # decisions
    END = "end"  # policy: clean up after a run that ended by itself
    RESTART = "restart"  # policy: clean up and start a new run
    PRESERVE = "preserve"  # policy: leave the remains for inspection
    GIVE_UP = "give-up"  # loop guard or repair: an operator must look
    LEASE_LOST = "lease-lost"
    LEASE_TAKEN = "lease-taken"


OBSERVATIONS: Final = frozenset(
    {
        Trigger.GONE,
        Trigger.STANDS,
        Trigger.RUNS,
        Trigger.SAVED,
        Trigger.DEFINE,
        Trigger.UNDEFINE,
        Trigger.FOREIGN,
    }
)
DECISIONS: Final = frozenset(
    {
        Trigger.END,
        Trigger.RESTART,
        Trigger.PRESERVE,
        Trigger.GIVE_UP,
        Trigger.LEASE_LOST,
        Trigger.LEASE_TAKEN,
    }
)
VERBS: Final = frozenset(Trigger) - OBSERVATIONS - DECISIONS
SERVED: Final = VERBS - {Trigger.CONFIGURE, Trigger.DELETE_FORCE}  # verbs that a caller names


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `plan`: the kind of plan to execute; empty for none."""

    rule: str
    source: State
    trigger: Trigger
    target: State
    plan: str = ""
    already: bool = False


@dataclass(frozen=True, slots=True)
class Execute:
    """Action: execute the plan of this kind."""

    kind: str


@dataclass(frozen=True, slots=True)
class Publish:
    """Action: the state changed, tell everybody."""

    state: State


Action = Execute | Publish

_S: Final = State
_T: Final = Trigger
LIVE: Final = frozenset({_S.RUNNING, _S.PAUSED})
TRANSIENT: Final = frozenset({_S.STARTING, _S.STOPPING, _S.SUSPENDING, _S.RESTORING, _S.REBOOTING, _S.DYING})
HAS_RUN: Final = LIVE | TRANSIENT - {_S.DYING}  # states in which a run may end by itself


def _each(states: frozenset[State]) -> list[State]:
    return sorted(states)


_ROWS: Final[tuple[Row, ...]] = (
    Row("L1", _S.DELETED, _T.DEFINE, _S.DEFINED),
    # start
    Row("L2", _S.DEFINED, _T.START, _S.STARTING, "start"),
    Row("L2", _S.STARTING, _T.GONE, _S.DEFINED),
    Row("L3", _S.STARTING, _T.STANDS, _S.PAUSED),
    Row("L4", _S.STARTING, _T.RUNS, _S.RUNNING),
    Row("L2", _S.RUNNING, _T.START, _S.RUNNING, "start", already=True),
    # resume and pause
    Row("L4", _S.PAUSED, _T.RESUME, _S.PAUSED, "resume"),
    Row("L4", _S.PAUSED, _T.RUNS, _S.RUNNING),
    Row("L4", _S.RUNNING, _T.RESUME, _S.RUNNING, "resume", already=True),
    Row("L5", _S.RUNNING, _T.PAUSE, _S.RUNNING, "pause"),
    Row("L5", _S.RUNNING, _T.STANDS, _S.PAUSED),
    Row("L5", _S.PAUSED, _T.PAUSE, _S.PAUSED, "pause", already=True),
    Row("L5", _S.RUNNING, _T.RUNS, _S.RUNNING),
    Row("L5", _S.PAUSED, _T.STANDS, _S.PAUSED),
    # shutdown and reboot on request
    *(Row("L6", s, _T.SHUTDOWN, _S.STOPPING, "shutdown") for s in _each(LIVE)),
    Row("L6", _S.DEFINED, _T.SHUTDOWN, _S.DEFINED, "shutdown", already=True),
    Row("L6", _S.STOPPING, _T.RUNS, _S.RUNNING),
    Row("L6", _S.STOPPING, _T.STANDS, _S.PAUSED),
    Row("L6", _S.STOPPING, _T.GONE, _S.DEFINED),
    *(Row("L6", s, _T.REBOOT, _S.REBOOTING, "reboot") for s in _each(LIVE)),
    Row("L9", _S.REBOOTING, _T.RUNS, _S.RUNNING),
    Row("L9", _S.REBOOTING, _T.STANDS, _S.PAUSED),
    Row("L9", _S.REBOOTING, _T.GONE, _S.DEFINED),
    *(Row("L6", s, _T.RESET, s, "reset") for s in _each(LIVE)),
    # destroy
    *(
        Row("L7", s, _T.DESTROY, _S.DYING, "destroy")
        for s in _each(LIVE | TRANSIENT | {_S.CRASHED, _S.FAILED})
    ),
    Row("L7", _S.DEFINED, _T.DESTROY, _S.DEFINED, "destroy", already=True),
    Row("L7", _S.DYING, _T.RUNS, _S.DYING),  # the hypervisor still holds it: a zombie
    Row("L7", _S.DYING, _T.STANDS, _S.DYING),
    Row("L7", _S.DYING, _T.CLEAR, _S.DEFINED, "clear"),
    Row("L16", _S.DYING, _T.GONE, _S.DEFINED),
    Row("L16", _S.DYING, _T.SAVED, _S.SUSPENDED),
    # a run ended by itself
    *(Row("L8", s, _T.END, _S.DYING, "end") for s in _each(HAS_RUN)),
    *(Row("L8", s, _T.RESTART, _S.REBOOTING, "restart") for s in _each(HAS_RUN)),
    *(Row("L8", s, _T.PRESERVE, _S.CRASHED) for s in _each(HAS_RUN)),
    *(Row("L9", s, _T.GIVE_UP, _S.FAILED, "end") for s in _each(HAS_RUN)),
    Row("L9", _S.DYING, _T.GIVE_UP, _S.FAILED),
    Row("L9", _S.FAILED, _T.GONE, _S.FAILED),
    Row("L9", _S.FAILED, _T.STANDS, _S.FAILED),
    Row("L9", _S.FAILED, _T.RUNS, _S.FAILED),
    Row("L9", _S.FAILED, _T.SAVED, _S.FAILED),
    Row("L9", _S.FAILED, _T.CLEAR, _S.DEFINED, "clear"),
    Row("L9", _S.DEFINED, _T.CLEAR, _S.DEFINED, "clear", already=True),
    # save and restore
    *(Row("L11", s, _T.SAVE, _S.SUSPENDING, "save") for s in _each(LIVE)),
    Row("L11", _S.SUSPENDING, _T.SAVED, _S.SUSPENDED),
    Row("L11", _S.SUSPENDING, _T.RUNS, _S.RUNNING),
    Row("L11", _S.SUSPENDING, _T.STANDS, _S.PAUSED),
    Row("L11", _S.SUSPENDING, _T.GONE, _S.DEFINED),
    Row("L11", _S.SUSPENDED, _T.SAVE, _S.SUSPENDED, "save", already=True),
    Row("L12", _S.SUSPENDED, _T.RESTORE, _S.RESTORING, "restore"),
    Row("L12", _S.SUSPENDED, _T.SAVED, _S.SUSPENDED),
    Row("L12", _S.RESTORING, _T.RUNS, _S.RUNNING),
    Row("L12", _S.RESTORING, _T.STANDS, _S.PAUSED),
    Row("L12", _S.RESTORING, _T.SAVED, _S.SUSPENDED),
    Row("L12", _S.RESTORING, _T.GONE, _S.DEFINED),
    Row("L13", _S.SUSPENDED, _T.DISCARD, _S.SUSPENDED, "discard"),
    Row("L13", _S.SUSPENDED, _T.GONE, _S.DEFINED),
    # the cluster
    *(Row("L14", s, _T.LEASE_LOST, _S.LOST) for s in _each(LIVE | {_S.CRASHED})),
    Row("L15", _S.LOST, _T.RUNS, _S.RUNNING),
    Row("L15", _S.LOST, _T.STANDS, _S.PAUSED),
    Row("L15", _S.LOST, _T.GONE, _S.DEFINED),
    Row("L15", _S.LOST, _T.LEASE_TAKEN, _S.DYING, "destroy"),
    # the service restarted: what it finds is what is
    *(Row("L17", s, _T.GONE, _S.DEFINED) for s in _each(LIVE)),
    *(Row("L17", s, _T.SAVED, _S.SUSPENDED) for s in _each(LIVE)),
    Row("L17", _S.DEFINED, _T.RUNS, _S.RUNNING),
    Row("L17", _S.DEFINED, _T.STANDS, _S.PAUSED),
    Row("L17", _S.DEFINED, _T.SAVED, _S.SUSPENDED),
    Row("L17", _S.DEFINED, _T.GONE, _S.DEFINED),
    # foreign
    Row("L18", _S.DELETED, _T.FOREIGN, _S.FOREIGN),
    Row("L18", _S.FOREIGN, _T.FOREIGN, _S.FOREIGN),
    Row("L18", _S.FOREIGN, _T.GONE, _S.DELETED),
    # the end of the document
    Row("L19", _S.DEFINED, _T.DELETE, _S.DEFINED, "delete"),
    *(
        Row("L19", s, _T.DELETE_FORCE, _S.DYING, "delete")
        for s in _each(LIVE | TRANSIENT | {_S.CRASHED, _S.FAILED, _S.SUSPENDED})
    ),
    Row("L19", _S.DEFINED, _T.DELETE_FORCE, _S.DEFINED, "delete"),
    Row("L19", _S.DEFINED, _T.UNDEFINE, _S.DELETED),
    Row("L19", _S.FAILED, _T.UNDEFINE, _S.DELETED),
    # what changes no state
    *(
        Row("L1", s, _T.RENAME, s, "rename")
        for s in _each(LIVE | {_S.DEFINED, _S.SUSPENDED, _S.CRASHED, _S.FAILED})
    ),
    *(Row("D5", s, _T.UNPLUG, s, "unplug") for s in _each(LIVE)),
    *(Row("L1", s, _T.CONFIGURE, s, "configure") for s in _each(LIVE)),
    Row("L5", _S.RUNNING, _T.NMI, _S.RUNNING, "nmi"),
    *(Row("L5", s, _T.SCREENSHOT, s) for s in _each(LIVE | {_S.STOPPING, _S.CRASHED})),
    *(Row("L5", s, _T.CONSOLE, s) for s in _each(HAS_RUN | {_S.CRASHED})),
)

TABLE: Final = MappingProxyType({(row.source, row.trigger): row for row in _ROWS})
assert len(TABLE) == len(_ROWS), "a pair of state and trigger stands twice in the table"


def step(state: State, trigger: Trigger) -> tuple[State, tuple[Action, ...]]:
    """Return the next state and what to do; raise `denied_state` when the table has no such row."""
    row = TABLE.get((state, trigger))
    if row is None:
        raise denial(state, trigger)
    actions: list[Action] = []
    if row.target is not state:
        actions.append(Publish(row.target))
    if row.plan:
        actions.append(Execute(row.plan))
    return row.target, tuple(actions)


def knows(state: State, trigger: Trigger) -> bool:
    """Say whether the table has a row for this."""
    return (state, trigger) in TABLE


def verbs(state: State) -> tuple[str, ...]:
    """Return the verbs that are legal and would change something, in the order of `Trigger`."""
    return _VERBS_BY_STATE[state]


def _verbs(state: State) -> Iterator[str]:
    for trigger in Trigger:
        row = TABLE.get((state, trigger))
        if trigger in SERVED and row is not None and not row.already:
            yield trigger.value


_VERBS_BY_STATE: Final = MappingProxyType({state: tuple(_verbs(state)) for state in State})

_HINTS: Final = MappingProxyType(
    {
        (_S.PAUSED, _T.START): "It is there already, paused: resume it.",
        (_S.SUSPENDED, _T.START): "Restore it, or discard the saved state first.",
        (_S.CRASHED, _T.START): "Its remains are kept for inspection: destroy them first.",
        (_S.FAILED, _T.START): "Look at the reason, then clear it.",
        (_S.SUSPENDED, _T.DELETE): "Discard the saved state first, or force.",
        (_S.LOST, _T.DESTROY): "Its node decides when it is back.",
    }
)


def denial(state: State, trigger: Trigger) -> ManorError:
    """Return the error that says why a verb is refused now, and what is allowed."""
    allowed = ", ".join(verbs(state)) or "nothing"
    hint = _HINTS.get((state, trigger), "Wait for the state to change, or use what is allowed now.")
    return denied_state(
        f"{trigger.value} is not possible in state {state}; allowed now: {allowed}", hint=hint
    )
