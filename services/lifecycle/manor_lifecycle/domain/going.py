"""How an operation goes: its beginning, and what comes of a step that worked, failed, or failed for good.
Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from manor_bus.wire.errors import ErrorBody, Kind
from manor_lifecycle.domain.events import StepEnded
from manor_lifecycle.domain.imagine import rehearse
from manor_lifecycle.domain.pieces import DISK_CAUSES, HOLD_S
from manor_lifecycle.domain.states import state
from manor_lifecycle.domain.steps import GUARDED, WITHOUT_RECORD, Act, Step
from manor_lifecycle.domain.values import Core, Doing, Link, Now

ATTEMPTS_MAX: Final = 3  # a service that dies so often during one operation gives the operation up
PASSING: Final = frozenset({Kind.UNAVAILABLE, Kind.TIMEOUT, Kind.STALE, Kind.NO_CAPACITY})
RETRY_S: Final = (0.0, 1.0, 2.0, 5.0, 10.0)
BACK_TRIES: Final = 4
BACK_PAUSE_S: Final = 1.0
ALLOTS: Final = frozenset({"start", "restart", "reboot", "restore", "reset"})
WITH_A_LIMIT: Final = frozenset({"shutdown", "reboot"})


def error_of(kind: Kind, message: str, hint: str = "") -> ErrorBody:
    """Return an error."""
    return ErrorBody(kind=kind, message=message, hint=hint or "Look at the domain, then decide.")


def begun(core: Core, doing: Doing, now: Now) -> Doing:
    """Return the operation as it begins: its incarnation is allotted now, not when it was queued."""
    kept, run = core.kept, core.run
    incarnation = doing.incarnation
    if doing.kind in ALLOTS and not incarnation:
        there = run.run.incarnation if run is not None else 0
        incarnation = max(kept.incarnation, core.seen.last, there) + 1
    doing = replace(doing, begun=True, incarnation=incarnation, before=state(core))
    doing = timed(core, doing, now)
    return replace(doing, steps=tuple((one.text, one.bounds.weight) for one in rehearse(core, doing, now)))


def timed(core: Core, doing: Doing, now: Now) -> Doing:
    """Return the operation with its times on this process's clock."""
    run, said = core.run, doing.arguments
    patience = said.timeout_s if doing.kind in WITH_A_LIMIT else said.delay_s
    watched = run is not None and run.cause.word in DISK_CAUSES
    since = max(0.0, now.wall - doing.created) if doing.kind in WITH_A_LIMIT and doing.attempts else 0.0
    return replace(doing, until=now.at + max(0.0, patience - since), watched=watched)


def resumed(core: Core, doing: Doing, now: Now) -> Doing:
    """Return an operation that the journal had under way when the service was started. A run in whose making
    the service ended, and that never was, has spent its number: the next one is made."""
    ended = core.seen.ended.incarnation if core.seen.ended is not None else 0
    if doing.kind in ALLOTS and core.run is None and ended < doing.incarnation <= core.seen.last:
        doing = replace(doing, incarnation=core.seen.last + 1)
    doing = replace(timed(core, doing, now), attempts=doing.attempts + 1)
    steps = tuple((one.text, one.bounds.weight) for one in rehearse(core, doing, now))
    if doing.back is None and doing.attempts > ATTEMPTS_MAX:
        message = f"the service ended {ATTEMPTS_MAX} times during this {doing.kind}, so it is not begun again"
        back = error_of(Kind.INTERNAL, message, "Look at the log of the lifecycle service.")
        doing = replace(doing, back=back)
    return replace(doing, steps=doing.steps or steps)


def worked(core: Core, event: StepEnded) -> Core:
    """Return what a step that plainly worked changed, where no look shows it."""
    done, links = event.step, dict(core.links)
    match done.act:
        case Act.CONNECT if event.held is not None and core.doing is not None:
            born = core.run.born if core.run is not None else core.doing.incarnation
            links[born, done.device] = Link(born, done.device, event.held.descriptor.generation)
        case Act.RELEASE_ALL:
            links = {key: one for key, one in links.items() if key[0] > done.amount}
        case Act.RELEASE:
            links = {key: one for key, one in links.items() if key[1] != done.device}
        case Act.ANNOUNCE | Act.PLUG if core.doing is not None and done.device in core.doing.held:
            generation = core.doing.held[done.device].descriptor.generation
            return replace(core, attached={**core.attached, done.device: generation})
        case Act.CREATE | Act.LOAD if core.doing is not None:
            held = core.doing.held
            return replace(core, attached={name: one.descriptor.generation for name, one in held.items()})
        case Act.DELETE_DOCUMENT:
            return replace(core, wish=None)
        case Act.NOTE:
            written = dict(done.fields)
            return replace(core, owed={key: one for key, one in core.owed.items() if key not in written})
        case Act.CLAIM:
            return replace(core, owed={})  # it writes the record as it is meant
        case _:
            return core
    return replace(core, links=links)


def goes_on(core: Core, doing: Doing, event: StepEnded, now: Now) -> Doing:
    """Return the operation after a step that plainly worked."""
    done = event.step
    held = doing.held
    if event.held is not None:
        held = {**held, done.device: event.held}
    doing = replace(
        doing,
        past=doing.past | {done.text},
        held=held,
        result={**doing.result, **event.result},
        failed="",
        error=None,
        tries=0,
        failing_since=0.0,
        not_before=0.0,
        unsettled=-1 if done.act in GUARDED else doing.unsettled,
    )
    if done.act is Act.ASK:
        doing = replace(doing, asked=doing.asked + 1, asked_at=now.at)
    if done.act is Act.RESUME and doing.watched:
        doing = replace(doing, not_before=now.at + HOLD_S)
    late = doing.kind in WITH_A_LIMIT and now.at >= doing.until and core.living is not None
    if done.act is Act.DESTROY and late:
        time = f"{doing.arguments.timeout_s:g} s"
        said = f"the guest did not shut down within {time}" if doing.asked else f"its time of {time} was over"
        doing = replace(doing, result={**doing.result, "cut off": said})
    return doing


def failed(doing: Doing, event: StepEnded, now: Now) -> Doing:
    """Return the operation after a step of which it is not known what came of it."""
    doing = replace(doing, result={**doing.result, **event.result})
    if event.error is None or (doing.cancelled and doing.back is not None and event.error == doing.back):
        return replace(doing, failed="", tries=0)
    again = doing.failed == event.step.text
    tries = doing.tries + 1 if again else 1
    pause = BACK_PAUSE_S if doing.back is not None else RETRY_S[min(tries - 1, len(RETRY_S) - 1)]
    return replace(
        doing,
        failed=event.step.text,
        error=event.error,
        tries=tries,
        failing_since=doing.failing_since if again and doing.failing_since else now.at,
        not_before=now.at + pause,
    )


def exhausted(core: Core, doing: Doing, step: Step, now: Now) -> tuple[Core, Doing] | None:
    """Return where it goes when a step that failed is still missing and not to be tried again; None: try."""
    error = doing.error or error_of(Kind.INTERNAL, f"{step.text} failed")
    bounds, passes = step.bounds, error.kind in PASSING
    if doing.back is None and _tries_again(doing, step, error.kind, now):
        return None
    if (doing.back is not None or step.act is Act.DESTROY) and doing.tries < BACK_TRIES and passes:
        return None
    again = replace(doing, failed="", tries=0, failing_since=0.0, not_before=0.0)
    goes_past = replace(again, past=doing.past | {step.text})
    said = f"{step.text}: {error.message}"
    unwritten = step.act is Act.NOTE and (doing.kind in WITHOUT_RECORD or doing.back is not None)
    if unwritten:
        core = replace(core, owed={**core.owed, **dict(step.fields)})
        goes_past = replace(goes_past, error=None)  # it is no reason for what may follow
        return _with(core, goes_past, f"not recorded {len(doing.result)}", said)
    if bounds.optional or _spares(core, doing, step):
        return _with(core, goes_past, f"note {len(doing.result)}", said)
    if step.act is Act.DESTROY or doing.back is not None:
        return _with(core, goes_past, f"not undone {len(doing.result)}", said)
    turned = replace(again, back=error)
    return replace(core, doing=turned), turned


def _tries_again(doing: Doing, step: Step, kind: Kind, now: Now) -> bool:
    if doing.internal and step.act is Act.CONNECT and doing.kind in ("plug", "reconnect"):
        return False  # the wish for it is asked again by itself, and meanwhile holds no later one back
    patient = kind in PASSING and now.at - doing.failing_since < step.bounds.patience_s
    return patient or (kind is Kind.UNAVAILABLE and doing.tries < 2)


def _with(core: Core, doing: Doing, key: str, said: str) -> tuple[Core, Doing]:
    doing = replace(doing, result={**doing.result, key: said})
    return replace(core, doing=doing), doing


def _spares(core: Core, doing: Doing, step: Step) -> bool:
    """Whether the domain starts without a device that could not be connected."""
    if step.act is not Act.CONNECT or doing.kind in ("plug", "reconnect"):
        return False
    found = next((one for one in core.spec.disks if one.id == step.device), None)
    return found is not None and not found.required
