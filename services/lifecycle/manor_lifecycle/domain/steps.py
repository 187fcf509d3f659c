"""The steps of which plans are made, with what bounds each. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from manor_bus.wire.errors import ErrorBody, Kind


class Act(StrEnum):
    """What a step does; the shell has one coroutine for each."""

    NOTE = "note"
    CLAIM = "claim the next incarnation"
    CONNECT = "connect the back end of"
    CREATE = "create the guest"
    LOAD = "load the saved state"
    ANNOUNCE = "report the connection of"
    RESUME = "let the guest run"
    PAUSE = "stop the virtual CPUs"
    ASK = "ask the guest to shut down"
    RESET = "press reset"
    DUMP = "write the guest's memory for a debugger"
    DESTROY = "end the run"
    RELEASE = "release the back end of"
    RELEASE_ALL = "release all back ends"
    SAVE = "save memory and device state"
    REMOVE_IMAGE = "remove the saved state"
    PLUG = "plug"
    BEGIN_DETACH = "begin to detach"
    UNPLUG = "unplug"
    FORCE_UNPLUG = "unplug by force"
    SET_MEMORY = "change the memory"
    SET_CPUS = "change the virtual CPUs"
    RENAME = "rename the document"
    RENAME_RUN = "rename the run"
    TRY_DELETE = "see whether the document may be deleted"
    DELETE_DOCUMENT = "delete the document"
    DELETE_RECORD = "delete the ownership record"
    REMOVE_LEFTOVERS = "remove what is left of it"
    NMI = "send the interrupt"


@dataclass(frozen=True, slots=True)
class Bounds:
    """`timeout_s` bounds one try. A passing error is tried again for `patience_s`; then, or when it does not
    pass, the operation goes back, or goes on without it if `optional`. `firm`: a cancellation waits for its
    end. `weight` is its share of the progress."""

    timeout_s: float = 15.0
    patience_s: float = 0.0
    firm: bool = False
    optional: bool = False
    weight: int = 1


_RECORD: Final = Bounds(timeout_s=20, patience_s=30, firm=True)
BOUNDS: Final = MappingProxyType(
    {
        Act.NOTE: _RECORD,
        Act.CLAIM: Bounds(timeout_s=20, patience_s=30),
        Act.CONNECT: Bounds(timeout_s=45, patience_s=45, weight=2),
        Act.CREATE: Bounds(timeout_s=90, weight=4),
        Act.LOAD: Bounds(timeout_s=1800, weight=20),
        Act.ANNOUNCE: Bounds(optional=True),
        Act.RESUME: Bounds(),
        Act.PAUSE: Bounds(),
        Act.ASK: Bounds(patience_s=5, weight=8),
        Act.RESET: Bounds(timeout_s=30, firm=True),
        Act.DUMP: Bounds(timeout_s=1800, optional=True, weight=10),
        Act.DESTROY: Bounds(timeout_s=35, firm=True, weight=2),  # an adapter reports a zombie after 30 s
        Act.RELEASE: Bounds(timeout_s=12, firm=True, optional=True),
        Act.RELEASE_ALL: Bounds(timeout_s=12, firm=True, optional=True),
        Act.SAVE: Bounds(timeout_s=1800, weight=20),
        Act.REMOVE_IMAGE: Bounds(firm=True, optional=True),
        Act.PLUG: Bounds(timeout_s=30, weight=2),
        Act.BEGIN_DETACH: Bounds(optional=True),
        Act.UNPLUG: Bounds(timeout_s=20, weight=4),  # the guest has 10 s of it
        Act.FORCE_UNPLUG: Bounds(timeout_s=20, weight=4),
        Act.SET_MEMORY: Bounds(),
        Act.SET_CPUS: Bounds(),
        Act.RENAME: Bounds(timeout_s=30, firm=True),
        Act.RENAME_RUN: Bounds(optional=True),
        Act.TRY_DELETE: Bounds(timeout_s=30),
        Act.DELETE_DOCUMENT: Bounds(timeout_s=30, patience_s=30, firm=True),
        Act.DELETE_RECORD: Bounds(timeout_s=20, patience_s=30, firm=True, optional=True),
        Act.REMOVE_LEFTOVERS: Bounds(firm=True, optional=True),
        Act.NMI: Bounds(),
    }
)
GUARDED: Final = frozenset({Act.NOTE, Act.CLAIM, Act.DELETE_RECORD})
WITHOUT_RECORD: Final = frozenset({"destroy", "shutdown", "end"})  # never fail because nothing can be written


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `fields` are what a note changes in the record, `words` what it says for people."""

    act: Act
    device: str = ""
    amount: int = 0
    fields: tuple[tuple[str, Any], ...] = ()
    words: str = ""

    @property
    def text(self) -> str:
        """Say what the step does, for people."""
        if self.words:
            return self.words
        return f"{self.act} {self.device}" if self.device else str(self.act)

    @property
    def bounds(self) -> Bounds:
        """Return what bounds it."""
        return BOUNDS[self.act]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before that time, unless something happens."""

    until: float


@dataclass(frozen=True, slots=True)
class Done:
    """What was asked for is so; or, on the way back, everything is as before."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """It cannot be done: go back."""

    error: ErrorBody


Next = Step | Wait | Done | GiveUp
DONE: Final = Done()


def note(words: str, **fields: Any) -> Step:
    """Return the step that changes the record."""
    return Step(Act.NOTE, fields=tuple(fields.items()), words=words)


def give_up(kind: Kind, message: str, hint: str) -> GiveUp:
    """Return the end of the way forward."""
    return GiveUp(ErrorBody(kind=kind, message=message, hint=hint))
