"""`step(core, event, now) -> (core, actions)`: everything that happens to a domain goes through here. Pure.

An event changes what is known. Then, when nothing is under way outside, the core goes on: it looks if
something happened since the last look, carries the operation under way a step further, begins the next one,
cleans up, or begins what is due. After every step that did not plainly work it looks before anything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from manor_bus.wire.errors import ErrorBody, Kind
from manor_bus.wire.messages.lifecycle import LastFailure, OperationState
from manor_lifecycle.domain import ends, wishes
from manor_lifecycle.domain.events import (
    Action,
    Asked,
    Cancelled,
    Close,
    Do,
    Event,
    Hint,
    Journal,
    Look,
    Publish,
    SeenIs,
    StepEnded,
    Tell,
    WakeAt,
    WishIs,
)
from manor_lifecycle.domain.going import begun, error_of, exhausted
from manor_lifecycle.domain.plans import FORWARD, next_step
from manor_lifecycle.domain.states import state
from manor_lifecycle.domain.steps import GUARDED, Done, GiveUp, Next, Step, Wait
from manor_lifecycle.domain.taking import ENDS_RUNS, MAKES_RUNS, TAKE, TIDY_PAUSES_S, Taken
from manor_lifecycle.domain.tidy import tidy
from manor_lifecycle.domain.values import Ask, Core, Doing, Now, told
from manor_lifecycle.domain.verbs import may_begin

LOOK_AGAIN_S: Final = 2.0  # after a look that was not answered
UNHEARD_S: Final = 60.0  # an operation whose domain cannot be looked at for so long is given up
SOON_S: Final = 0.001
TURNS_MAX: Final = 64  # of one call of `step`; what needs more is a bug
BRINGS_ON: Final = frozenset({"start", "restart", "reboot", "restore", "resume", "clear", "destroy"})
NOTED: Final = ("note", "not ")  # what was gone past is said in the result under these words


def step(core: Core, event: Event, now: Now) -> tuple[Core, tuple[Action, ...]]:
    """Take an event. Returns what is known then, and what is to be done, in order."""
    before = core
    core, actions = TAKE[type(event)](core, event, now)
    core, more = _go_on(core, now)
    actions = [*actions, *more]
    there = state(core)
    if ((line := _line(before, core, event)) and there is not state(before)) or (
        isinstance(event, Asked | Cancelled | StepEnded) and line
    ):
        core = told(core, now, line, there)
    if core != before:
        actions.append(Publish())
    return core, tuple(actions)


def _line(before: Core, core: Core, event: Event) -> str:
    match event:
        case Asked():
            return f"{event.doing.kind} was asked for by {event.doing.who or 'nobody'}"
        case Cancelled():
            return f"{event.id} is to end: {event.error.message}"
        case StepEnded():
            return f"{event.step.text}: {event.error.message if event.error else 'done'}"
        case WishIs():
            return "the document changed" if event.document is not None else "the document is gone"
        case Hint():
            return "something about the run changed"
        case SeenIs():
            news = core.last_end and core.last_end != before.last_end
            return f"its run ended: {core.last_end}" if news else "looked at"
        case _:
            return type(event).__name__


def _go_on(core: Core, now: Now) -> Taken:
    actions: list[Action] = []
    for _ in range(TURNS_MAX):
        if core.busy:
            return core, actions
        if core.stale:
            look = Look(kept=core.kept_stale)
            return replace(core, busy="look", stale=False), [*actions, look]
        before = core
        core, more, ready = (_work if core.doing is not None else _rest)(core, now)
        actions += more
        if ready:
            return core, actions
        assert core is not before, "a turn that changed nothing"
    raise AssertionError(f"{core.uuid}: {core.doing} goes round for ever")


Turn = tuple[Core, list[Action], bool]  # the last: nothing more to do now


def _work(core: Core, now: Now) -> Turn:
    """Carry the operation under way further."""
    doing = core.doing
    assert doing is not None
    if core.anothers:
        error = error_of(Kind.STALE, f"node {core.kept.node} owns {core.name}")
        return _close(core, doing, OperationState.FAILED, error, now)
    if not doing.begun:
        return _begin(core, doing, now)
    if not core.heard:
        unheard = _unheard(core, doing, now)
        if unheard is not None:
            return unheard
    found = next_step(core, doing, now)
    if isinstance(found, Step) and found.text == doing.failed:
        if now.at < doing.not_before:
            return core, [WakeAt(doing.not_before)], True
        after = exhausted(core, doing, found, now)
        if after is not None:
            core, turned = after
            return core, [Journal(turned), Tell(turned)] if turned.back is not doing.back else [], False
    return _take_next(core, doing, found, now)


def _take_next(core: Core, doing: Doing, found: Next, now: Now) -> Turn:
    match found:
        case Step():
            return _do(core, doing, found)
        case Wait(until):
            return core, [WakeAt(max(until, now.at + SOON_S))], True
        case Done():
            return _end(core, doing, now)
        case GiveUp(error):
            if doing.back is not None:
                return _close(core, doing, OperationState.FAILED, doing.back, now)
            doing = replace(doing, back=error, failed="", tries=0, not_before=0.0)
            return replace(core, doing=doing), [Journal(doing), Tell(doing)], False


def _unheard(core: Core, doing: Doing, now: Now) -> Turn | None:
    """What cannot be looked at is waited for; ending it goes past whatever is stuck."""
    if doing.kind in ("destroy", "end", "delete") and core.run is not None:
        return None
    since = doing.failing_since or now.at
    if now.at - since >= UNHEARD_S:
        error = doing.back or error_of(Kind.TIMEOUT, f"{core.name} cannot be looked at: {core.seen.unknown}")
        return _close(core, doing, OperationState.FAILED, error, now)
    doing = replace(doing, failing_since=since)
    if now.at < doing.not_before:
        return replace(core, doing=doing), [WakeAt(doing.not_before)], True
    doing = replace(doing, not_before=now.at + LOOK_AGAIN_S)
    return replace(core, doing=doing, stale=True), [], False


def _do(core: Core, doing: Doing, found: Step) -> Turn:
    actions: list[Action] = []
    doing = replace(doing, step=found.text, firm=found.bounds.firm, within=0.0)
    if found.act in GUARDED:  # that such a write is under way is in the journal before it is sent
        doing = replace(doing, unsettled=core.revision)
        actions.append(Journal(doing))
    core = replace(core, doing=doing, busy="do")
    return core, [*actions, Tell(doing), Do(found, doing)], True


def _begin(core: Core, doing: Doing, now: Now) -> Turn:
    if (refusal := may_begin(core, doing)) is not None:
        return _close(core, doing, OperationState.FAILED, refusal, now)
    doing = begun(core, doing, now)
    return replace(core, doing=doing), [Journal(doing), Tell(doing)], False


def _end(core: Core, doing: Doing, now: Now) -> Turn:
    """Forward: done. Back: as before, unless what was asked for is so all the same."""
    if doing.back is None:
        return _close(core, doing, OperationState.DONE, None, now)
    reached = isinstance(FORWARD[doing.kind](core, replace(doing, back=None), now), Done)
    if reached and doing.kind not in ("nmi", "unplug"):
        return _close(core, doing, OperationState.DONE, None, now)
    ended = OperationState.CANCELLED if doing.cancelled else OperationState.FAILED
    return _close(core, doing, ended, doing.back, now)


def _close(core: Core, doing: Doing, ended: OperationState, error: ErrorBody | None, now: Now) -> Turn:
    treated = core.treated
    if doing.kind in ENDS_RUNS and ended is OperationState.DONE and core.run is None:
        treated = max(treated, core.seen.last, core.vanished)
    core = replace(
        core,
        doing=None,
        failure=_failure(core, doing, ended, error, now),
        asks=_asks(core, doing, ended, error, now),
        notes="; ".join(text for key, text in doing.result.items() if key.startswith(NOTED)),
        treated=treated,
        tidied=0,
        tidy_at=now.at + (TIDY_PAUSES_S[0] if error is None else 0.0),
    )
    return core, [Close(doing, ended, error)], False


def _failure(
    core: Core, doing: Doing, ended: OperationState, error: ErrorBody | None, now: Now
) -> LastFailure | None:
    """The last failure is told until that kind of operation, or one that brings the domain on, is done."""
    if ended is OperationState.FAILED and error is not None:
        return LastFailure(operation=doing.id, kind=doing.kind, at=now.wall, what=error.message)
    mended = core.failure is not None and (core.failure.kind == doing.kind or doing.kind in BRINGS_ON)
    return None if ended is OperationState.DONE and mended else core.failure


def _asks(
    core: Core, doing: Doing, ended: OperationState, error: ErrorBody | None, now: Now
) -> Mapping[str, Ask]:
    """A wish that was not fulfilled stays open, with the answer and the time at which it is due again."""
    wanted = wishes.Wanted(doing.kind, doing.arguments, _key(doing))
    if ended is OperationState.DONE and (doing.step or not doing.internal):
        return {key: one for key, one in core.asks.items() if key != wanted.key}
    if not doing.internal and doing.kind not in ("plug", "unplug", "resize"):
        return core.asks
    never = error is not None and error.kind is Kind.BAD_REQUEST and doing.kind not in MAKES_RUNS
    heard_often = error is not None and doing.kind == "shutdown"  # again and again within its own time
    what = error.message if error is not None else doing.reason if doing.internal else ""
    return {**core.asks, wanted.key: wishes.asked(core, wanted, now, what, barred=never or heard_often)}


def _key(doing: Doing) -> str:
    said = doing.arguments
    if doing.kind == "reconnect":
        return f"reconnect:{said.device}"
    if doing.kind == "unplug" and said.force:
        return f"broken:{said.device}"
    return f"{doing.kind}:{said.device if doing.kind in ('plug', 'unplug', 'resize') else ''}"


def _rest(core: Core, now: Now) -> Turn:
    """Nothing is under way: an end is seen to, the next in the queue begins, what nobody needs goes, and what
    is due begins. What could not be looked at, or read, is asked again."""
    again = not core.heard or core.kept_stale
    if again and now.at >= core.tidy_at:
        return replace(core, stale=True, tidy_at=now.at + LOOK_AGAIN_S), [], False
    if core.mine and core.heard and (over := ends.untreated(core)) is not None:
        return _see_to(core, over, now)
    if core.waiting:
        doing, *rest = core.waiting
        return replace(core, doing=doing, waiting=tuple(rest)), [], False
    step_ = tidy(core) if core.heard else None
    if step_ is not None and now.at >= core.tidy_at:
        return replace(core, busy="do"), [Do(step_, None)], True
    wake = core.tidy_at if again or step_ is not None else float("inf")
    return _due(core, None if core.anothers else wishes.due(core, now), now, wake)


def _due(core: Core, wanted: wishes.Wanted | Wait | None, now: Now, wake: float) -> Turn:
    if isinstance(wanted, wishes.Wanted):
        return _internal(core, wanted.kind, wanted.arguments, wanted.why, now)
    if isinstance(wanted, Wait):
        wake = min(wake, wanted.until)
    return core, [WakeAt(max(wake, now.at + SOON_S))] if wake < float("inf") else [], True


def _see_to(core: Core, over: ends.End, now: Now) -> Turn:
    """A run ended by itself: what becomes of it is decided once."""
    verdict = ends.decide(core, over, now)
    core = replace(core, treated=over.incarnation, last_end=verdict.said)
    nothing_left = core.run is None and not verdict.arguments.failed
    if not verdict.kind or (verdict.kind == "end" and nothing_left):
        return core, [Publish()], False
    return _internal(core, verdict.kind, verdict.arguments, verdict.said, now)


def _internal(core: Core, kind: str, arguments: Any, why: str, now: Now) -> Turn:
    number = f"{core.uuid[:8]}-{int(now.wall * 1000):x}-{core.seen.last:x}"
    doing = Doing(
        f"{kind}-{number}", kind, arguments, who=f"lifecycle@{core.place.node}", reason=why,
        created=now.wall, internal=True,
    )  # fmt: skip
    return replace(core, doing=doing), [Tell(doing)], False
