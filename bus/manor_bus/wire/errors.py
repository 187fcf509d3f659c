"""The closed set of errors. Each kind says who must act; tracebacks never travel.

Source: design page "the house", section Errors. The CLI's exit codes are `EXIT_CODES`.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import Final

import msgspec


class Kind(StrEnum):
    """What went wrong, by who must act."""

    BAD_REQUEST = "bad_request"  # the caller fixes the request
    NOT_FOUND = "not_found"  # the caller checks the name (also: the caller may not see it)
    CONFLICT = "conflict"  # the revision moved or the name is taken: re-read, retry
    DENIED_STATE = "denied_state"  # legal request, wrong state: wait or change the state
    FORBIDDEN = "forbidden"  # the policy says no: its owner decides
    NO_CAPACITY = "no_capacity"  # a resource or guarantee would be exceeded: free or add
    UNAVAILABLE = "unavailable"  # the peer is absent: retry with the same idempotency key
    TIMEOUT = "timeout"  # outcome unknown: ask for the state, then decide
    STALE = "stale"  # carried an old incarnation, epoch, token or revision: re-read
    INTERNAL = "internal"  # a bug: report the id, the details are in the service's log


EXIT_CODES: Final = MappingProxyType(
    {
        Kind.INTERNAL: 1,
        Kind.BAD_REQUEST: 2,
        Kind.NOT_FOUND: 3,
        Kind.CONFLICT: 4,
        Kind.DENIED_STATE: 5,
        Kind.FORBIDDEN: 6,
        Kind.NO_CAPACITY: 7,
        Kind.UNAVAILABLE: 8,
        Kind.TIMEOUT: 9,
        Kind.STALE: 10,
    }
)


class Origin(StrEnum):
    """Who answered with the error."""

    LIBRARY = "library"
    BROKER = "broker"
    SERVICE = "service"


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One refused field: its path (`spec.disks[0].source`), the value seen, why, and what is allowed."""

    path: str
    reason: str
    value: str = ""
    allowed: str = ""


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The `err` of an envelope.

    `delivered`: False = the handler did not and will not run; True = it ran or runs; None = unknown.
    `hint` says what to do next, as a full sentence for a person.
    """

    kind: Kind
    message: str
    origin: Origin = Origin.SERVICE
    delivered: bool | None = True
    hint: str = ""
    problems: tuple[Problem, ...] = ()


class ManorError(Exception):
    """The one exception that crosses rooms. Raise it in a handler and the caller receives it whole."""

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        hint: str = "",
        problems: tuple[Problem, ...] = (),
        origin: Origin = Origin.SERVICE,
        delivered: bool | None = True,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint
        self.problems = problems
        self.origin = origin
        self.delivered = delivered

    def body(self) -> ErrorBody:
        """Return the wire form."""
        return ErrorBody(
            kind=self.kind,
            message=self.message,
            origin=self.origin,
            delivered=self.delivered,
            hint=self.hint,
            problems=self.problems,
        )

    @staticmethod
    def from_body(body: ErrorBody) -> ManorError:
        """Build the exception a caller sees from the wire form."""
        return ManorError(
            body.kind,
            body.message,
            hint=body.hint,
            problems=body.problems,
            origin=body.origin,
            delivered=body.delivered,
        )

    def __str__(self) -> str:
        lines = [f"{self.kind.value}: {self.message}"]
        lines += [f"  {p.path}: {p.reason}" for p in self.problems]
        return "\n".join(lines)


def bad_request(message: str, *problems: Problem, hint: str = "") -> ManorError:
    """Return a `bad_request` naming the refused fields."""
    return ManorError(Kind.BAD_REQUEST, message, problems=problems, hint=hint)


def not_found(message: str, *, hint: str = "") -> ManorError:
    """Return a `not_found`."""
    return ManorError(Kind.NOT_FOUND, message, hint=hint)


def conflict(message: str, *, hint: str = "") -> ManorError:
    """Return a `conflict`."""
    return ManorError(Kind.CONFLICT, message, hint=hint)


def denied_state(message: str, *, hint: str = "") -> ManorError:
    """Return a `denied_state`; the message names the state and what is allowed now."""
    return ManorError(Kind.DENIED_STATE, message, hint=hint)


def unavailable(message: str, *, delivered: bool | None, hint: str = "") -> ManorError:
    """Return an `unavailable`, saying whether the request was delivered."""
    return ManorError(Kind.UNAVAILABLE, message, delivered=delivered, hint=hint)
