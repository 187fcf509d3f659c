"""How an error is told and with which code the program ends. Pure.

Every error says its kind, what happened, which fields were refused, and what to do next.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType
from typing import Final

from manor_bus.wire.errors import EXIT_CODES, Kind, ManorError, Problem
from manor_cli.render import clean

LOST_OUTPUT: Final = 11  # the answer could not be written; the error says whether something was changed
LOST_FOLDER: Final = 12  # the working folder was deleted
PARTIAL: Final = 8  # the answer is not all there is
FAULT_APART: Final = 13  # `internal` where 1 says that there is a difference (--exit-code)
INTERRUPTED: Final = 130  # the shell's own code for Ctrl-C

SEVERITY: Final = (
    Kind.NOT_FOUND, Kind.BAD_REQUEST, Kind.STALE, Kind.CONFLICT, Kind.DENIED_STATE, Kind.FORBIDDEN,
    Kind.NO_CAPACITY, Kind.UNAVAILABLE, Kind.TIMEOUT, Kind.INTERNAL,
)  # fmt: skip

NEXT_STEP: Final = MappingProxyType(
    {
        Kind.BAD_REQUEST: "correct what is named above; `--help` after the command shows its form",
        Kind.NOT_FOUND: "check the name: `manor list` shows domains, `manor get KIND` documents",
        Kind.CONFLICT: "read it again (`manor get KIND NAME -o yaml`), then repeat the change",
        Kind.DENIED_STATE: "`manor describe domain NAME` shows the state and what is allowed in it",
        Kind.FORBIDDEN: "`manor bus explain LABEL VERB SUBJECT` names the rule; its owner can change it",
        Kind.NO_CAPACITY: "free or add what is named above, then repeat the command",
        Kind.UNAVAILABLE: "`manor status` shows what is running on this machine; `manor up` starts it",
        Kind.TIMEOUT: "the outcome is unknown: look with `manor list` and `manor ops list` before repeating",
        Kind.STALE: "read it again, then repeat the command",
        Kind.INTERNAL: "this is a bug: `manor service logs SERVICE` has the details; please report them",
    }
)


def code(error: ManorError) -> int:
    """Return the exit code of an error."""
    return EXIT_CODES[error.kind]


def worst(one: ManorError | None, other: ManorError) -> ManorError:
    """Return the worse of two errors: the one that is further from what the caller can mend."""
    return other if one is None or SEVERITY.index(other.kind) > SEVERITY.index(one.kind) else one


def lines(error: ManorError) -> Iterator[str]:
    """Tell an error: kind and message, one line for each refused field, what to do next."""
    yield f"error: {error.kind.value}: {clean(error.message)}"
    for problem in error.problems:
        yield "  " + clean(_problem(problem))
    yield f"hint: {clean(error.hint) or NEXT_STEP[error.kind]}"


def _problem(problem: Problem) -> str:
    """Tell one refused field."""
    said = [f"got {problem.value}"] if problem.value else []
    said += [f"allowed: {problem.allowed}"] if problem.allowed else []
    place = f"{problem.path}: " if problem.path else ""
    return f"{place}{problem.reason}" + (f" ({'; '.join(said)})" if said else "")
