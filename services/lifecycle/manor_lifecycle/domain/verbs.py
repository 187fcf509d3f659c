"""Whether a request becomes an operation: yes, already so, or no because. Pure.

There is one queue per domain; a request is judged against the state that the queued operations will have led
to, if they go well; its legality is decided again when its turn comes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from manor_bus.wire.errors import ErrorBody, Kind, ManorError, denied_state
from manor_bus.wire.messages.documents import RunPolicy
from manor_bus.wire.messages.lifecycle import State
from manor_lifecycle.domain.starts import gate
from manor_lifecycle.domain.states import ALREADY, VERBS, denial, state
from manor_lifecycle.domain.values import Arguments, Core, Doing
from manor_lifecycle.hypervisors.seen import Activity

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


def verb_of(kind: str, arguments: Arguments) -> str:
    """Return the verb of the table."""
    return "delete-force" if kind == "delete" and arguments.force else kind


def under_way(core: Core) -> tuple[Doing, ...]:
    """Return the operations of a domain in their order."""
    return ((core.doing,) if core.doing is not None else ()) + core.waiting


def expected(there: State, waiting: Iterable[Doing]) -> State:
    """Return where the domain will be when all that waits went well."""
    for doing in waiting:
        there = GOALS.get(doing.kind, there)
        if doing.kind in ("start", "restore") and doing.arguments.paused:
            there = State.PAUSED
    return there


def admit(core: Core, kind: str, arguments: Arguments) -> Yes | Already | No:
    """Judge a request."""
    there, waiting, verb = state(core), under_way(core), verb_of(kind, arguments)
    last = waiting[-1] if waiting else None
    if last is not None and verb_of(last.kind, arguments) == verb and last.arguments == arguments:
        return Already(last.id)
    if verb in ("destroy", "delete-force") and (there, verb) in VERBS:
        already = VERBS[there, verb] == ALREADY and not waiting and not _keeps_running(core)
        return Already() if already else Yes(preempt=bool(waiting))
    goal = expected(there, waiting)
    kind_then = VERBS.get((goal, verb))
    if kind_then is None:
        return No(denial(goal if waiting else there, verb))
    if kind_then == ALREADY and not waiting and not _changes(core, verb):
        return Already()
    if not waiting and kind in ("start", "restore", "reboot") and (refusal := gate(core, kind)) is not None:
        return No(ManorError(refusal.kind, refusal.message, hint=refusal.hint))
    if kind in ("shutdown", "save") and core.users and not (arguments.with_users or arguments.force):
        message = f"what needs {core.name} runs: {', '.join(core.users)}"
        return No(denied_state(message, hint="Shut them down first, or all of them: --with-users."))
    if len(waiting) >= QUEUE_MAX:
        message = f"{len(waiting)} operations of this domain wait already"
        return No(ManorError(Kind.NO_CAPACITY, message, hint="Wait for them, or cancel some."))
    return Yes()


def _keeps_running(core: Core) -> bool:
    return core.wish is not None and core.wish.spec.run != "on-request" and not core.kept.stopped


def _changes(core: Core, verb: str) -> bool:
    """Whether what is said to be so already is not quite so."""
    asleep = core.run is not None and core.run.activity is Activity.SLEEPS
    return (
        (verb == "resume" and asleep)
        or (verb == "shutdown" and _keeps_running(core))
        or (verb == "start" and (core.kept.stopped or core.spec.run is RunPolicy.HALTED))
    )


def may_begin(core: Core, doing: Doing) -> ErrorBody | None:
    """Return why an operation whose turn has come is not possible any more."""
    there, verb = state(core), verb_of(doing.kind, doing.arguments)
    if doing.internal or (there, verb) in VERBS:
        return None
    return denial(there, verb).body()


NEVER_CANCELLED: Final = frozenset({"destroy", "end", "delete"})


def may_cancel(core: Core, id: str) -> ErrorBody | None:  # noqa: A002 - the word of the message
    """Return why an operation cannot be cancelled any more."""
    doing = core.doing
    if doing is None or doing.id != id or not doing.begun:
        return None
    late = doing.kind in NEVER_CANCELLED or (
        core.busy == "do" and doing.firm and doing.kind in ("reset", "rename")
    )
    if not late or doing.back is not None:
        return None
    message = f"operation {id} cannot be cancelled any more: {doing.step or doing.kind}"
    return ErrorBody(kind=Kind.DENIED_STATE, message=message, hint="Wait for its end.")
