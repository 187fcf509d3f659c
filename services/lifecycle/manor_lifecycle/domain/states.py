"""The state of a domain, derived from what is known of it, and what may be asked of it then: two literal
tables. Pure.

`STATES` is read from its first line to its last; the first line that fits names the state. `VERBS` says which
kind of operation a verb begins in a state; what is not in it is denied and changes nothing. The page of the
life cycle is made from both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from manor_bus.wire.errors import ManorError, denied_state
from manor_bus.wire.messages.lifecycle import State
from manor_lifecycle.domain.values import Core
from manor_lifecycle.hypervisors.seen import Activity, CauseWord

S = State


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table of states. `words` says for people when it fits."""

    state: State
    words: str
    fits: Callable[[Core], bool]


PASSES: Final = MappingProxyType(
    {
        "start": S.STARTING,
        "restart": S.REBOOTING,
        "reboot": S.REBOOTING,
        "shutdown": S.STOPPING,
        "save": S.SUSPENDING,
        "restore": S.RESTORING,
        "destroy": S.DYING,
        "end": S.DYING,
    }
)


def _passing(state: State) -> Callable[[Core], bool]:
    def fits(core: Core) -> bool:
        doing = core.doing
        return doing is not None and doing.begun and PASSES.get(doing.kind) is state

    return fits


def _is_foreign(core: Core) -> bool:
    return core.run is not None and not core.run.ours


def _activity(*found: Activity) -> Callable[[Core], bool]:
    return lambda core: core.run is not None and core.run.activity in found


def _is_over(core: Core) -> bool:
    """Whether the run is one that shall be gone."""
    return core.run is not None and core.run.run.incarnation <= core.kept.ended


def _deletes(core: Core) -> bool:
    doing = core.doing
    return doing is not None and doing.begun and doing.kind == "delete" and core.run is not None


STATES: Final = (
    Line(S.FOREIGN, "the hypervisor has a run that is not ours", _is_foreign),
    Line(
        S.DYING,
        "another node owns it, and our run is to end",
        lambda c: c.anothers and c.run is not None,
    ),
    Line(S.LOST, "another node owns it", lambda c: c.anothers),
    *(
        Line(state, f"{', '.join(k for k, s in PASSES.items() if s is state)} is under way", _passing(state))
        for state in dict.fromkeys(PASSES.values())
    ),
    Line(S.DYING, "it is being deleted, and its run is to end", _deletes),
    Line(S.DYING, "the hypervisor still has a run that was ended", _is_over),
    Line(
        S.FAILED,
        "somebody must look before anything else is done",
        lambda c: bool(c.kept.failed) and c.living is None,
    ),
    Line(S.CRASHED, "its run ended, and its remains are kept", _activity(Activity.ENDED)),
    Line(S.RUNNING, "its virtual CPUs run, or the guest sleeps", _activity(Activity.RUNS, Activity.SLEEPS)),
    Line(S.PAUSED, "its virtual CPUs stand", _activity(Activity.STANDS)),
    Line(S.SUSPENDED, "there is a saved state", lambda c: bool(c.kept.saved)),
    Line(S.DEFINED, "there is a document", lambda c: c.wish is not None),
    Line(S.DELETED, "there is nothing", lambda c: True),
)


def state(core: Core) -> State:
    """Return the state of a domain."""
    return next(line.state for line in STATES if line.fits(core))


def conditions(core: Core) -> tuple[str, ...]:
    """Return what holds beside the state."""
    run, doing = core.run, core.doing
    found = {
        "NOT KNOWN": bool(core.seen.unknown),
        "NO DOCUMENT": core.wish is None and not _is_foreign(core),
        "ASLEEP": run is not None and run.activity is Activity.SLEEPS,
        "ZOMBIE": _is_over(core) and core.tidied > 0,
        "IMAGE MISSING": bool(core.kept.saved) and run is None and core.image is None and not core.stale,
        "DUE": run is None and doing is None and (core.stale or core.busy == "look" or bool(core.waiting)),
        "DELETING": any(one is not None and one.kind == "delete" for one in (doing, *core.waiting)),
    }
    return tuple(word for word, holds in found.items() if holds)


def cause(core: Core) -> str:
    """Say why it stands, ended, or waits for a person."""
    if core.kept.failed:
        return core.kept.failed
    run = core.run
    if run is None:
        return core.last_end
    if not run.ours:
        return "not created by Manor; it is not touched"
    if run.activity is Activity.ENDED:
        word = str(run.end or "unknown")
        return f"{word}: {run.end_detail}" if run.end_detail else word
    if run.activity is not Activity.STANDS:
        return ""
    word, device, detail = run.cause.word, run.cause.device, run.cause.detail
    text = "" if word in SAID_BY_STATE else word.value
    text = f"{text} on disk {device}" if device else text
    return f"{text}: {detail}" if detail and text else text or detail


SAID_BY_STATE: Final = frozenset({CauseWord.NONE, CauseWord.PERSON, CauseWord.PRELAUNCH})


# --- what may be asked -----------------------------------------------------------------------------------

LIVE: Final = (S.RUNNING, S.PAUSED)
ON_ITS_WAY: Final = (S.STARTING, S.STOPPING, S.SUSPENDING, S.RESTORING, S.REBOOTING, S.DYING)
ALREADY: Final = "already"
SERVED: Final = (
    "start", "shutdown", "reboot", "reset", "pause", "resume", "destroy", "save", "restore", "discard",
    "rename", "unplug", "delete", "nmi", "screenshot", "console", "clear",
)  # fmt: skip


def _rows(verb: str, *states: State, kind: str = "") -> dict[tuple[State, str], str]:
    return {(one, verb): kind or verb for one in states}


VERBS: Final = MappingProxyType(
    _rows("start", S.DEFINED)
    | _rows("start", S.RUNNING, kind=ALREADY)
    | _rows("shutdown", *LIVE)
    | _rows("shutdown", S.DEFINED, kind=ALREADY)
    | _rows("reboot", *LIVE)
    | _rows("reset", *LIVE)
    | _rows("pause", S.RUNNING)
    | _rows("pause", S.PAUSED, kind=ALREADY)
    | _rows("resume", S.PAUSED)
    | _rows("resume", S.RUNNING, kind=ALREADY)
    | _rows("destroy", *LIVE, *ON_ITS_WAY, S.CRASHED, S.FAILED)
    | _rows("destroy", S.DEFINED, kind=ALREADY)
    | _rows("save", *LIVE)
    | _rows("save", S.SUSPENDED, kind=ALREADY)
    | _rows("restore", S.SUSPENDED)
    | _rows("discard", S.SUSPENDED)
    | _rows("rename", *LIVE, S.DEFINED, S.SUSPENDED, S.CRASHED, S.FAILED)
    | _rows("unplug", *LIVE)
    | _rows("delete", S.DEFINED)
    | _rows("delete-force", *LIVE, *ON_ITS_WAY, S.CRASHED, S.FAILED, S.SUSPENDED, S.DEFINED)
    | _rows("nmi", S.RUNNING)
    | _rows("screenshot", *LIVE, S.STOPPING, S.CRASHED)
    | _rows("console", *LIVE, *ON_ITS_WAY, S.CRASHED)
    | _rows("clear", S.FAILED)
    | _rows("clear", S.DEFINED, kind=ALREADY)
)
_HINTS: Final = MappingProxyType(
    {
        (S.PAUSED, "start"): "It is there already, paused: resume it.",
        (S.SUSPENDED, "start"): "Restore it, or discard the saved state first.",
        (S.CRASHED, "start"): "Its remains are kept for inspection: destroy them first.",
        (S.FAILED, "start"): "Look at the reason, then clear it.",
        (S.SUSPENDED, "delete"): "Discard the saved state first, or force.",
        **dict.fromkeys(((S.RUNNING, "delete"), (S.PAUSED, "delete")), "Shut it down first, or force."),
        (S.LOST, "destroy"): "Its node decides when it is back.",
    }
)


def verbs(there: State) -> tuple[str, ...]:
    """Return the verbs that are legal and would change something."""
    return _VERBS_BY_STATE[there]


_VERBS_BY_STATE: Final = MappingProxyType(
    {one: tuple(verb for verb in SERVED if VERBS.get((one, verb), ALREADY) != ALREADY) for one in State}
)


def denial(there: State, verb: str) -> ManorError:
    """Return the error that says why a verb is refused now, and what is allowed."""
    allowed = ", ".join(verbs(there)) or "nothing"
    hint = _HINTS.get((there, verb), "Wait for the state to change, or use what is allowed now.")
    word = verb.removesuffix("-force")
    return denied_state(f"{word} is not possible in state {there}; allowed now: {allowed}", hint=hint)
