"""How an operation went, in words, and what that means for the next one. Pure."""

from __future__ import annotations

from typing import Final

from manor_bus.wire.errors import ErrorBody, Kind, ManorError
from manor_bus.wire.messages.lifecycle import LastFailure, State
from manor_lifecycle.life import Life, Work
from manor_lifecycle.plan import Act, Step

GOES_ON: Final = frozenset({"start", "restart", "reboot", "restore", "resume", "pause", "clear"})
ASKED_ANEW: Final = frozenset({"start", "restart", "resume", "reset", "reboot", "restore"})


def say(life: Life, work: Work, error: ErrorBody | None, now: float) -> None:
    """Put into words how it went, and count failures in a row."""
    if error is None:
        life.failures = 0
        if work.kind in ASKED_ANEW:  # a guest that could not hear before may hear now
            life.asked, life.barred = 0, None
            life.refused.clear()
        if life.last_failure is not None and life.last_failure.kind == work.kind:
            life.last_failure = None
        if work.kind in GOES_ON:
            life.reason = "; ".join(note for key, note in work.result.items() if key.startswith("note"))
        return
    if error is work.cancel or not (work.steps or work.undo_first):
        return
    life.failures += 1
    life.last_failure = LastFailure(operation=work.id, kind=work.kind, at=now, what=error.message)
    if work.kind == "configure" and error.kind is Kind.BAD_REQUEST:  # a reason that does not pass
        life.barred = (life.revision, life.incarnation, error.message)
    zombie = life.state is State.DYING
    life.reason = f"ZOMBIE: {error.message}" if zombie else f"{work.kind} failed: {error.message}"


def too_late(life: Life, step: Step) -> ManorError:
    """Return the error of a step whose time was over."""
    if step.act is Act.AWAIT_END:
        said = "acknowledged the request, but" if life.acknowledged else "did not react and"
        message = f"the guest {said} is still running after {step.timeout_s:g} s"
        return ManorError(Kind.TIMEOUT, message, hint="Wait longer (--deadline), use --force, or destroy it.")
    message = f"{step.text}: not done within {step.timeout_s:g} s"
    return ManorError(Kind.TIMEOUT, message, hint="Ask for the domain's state, then decide.")
