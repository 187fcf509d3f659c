"""Plans that lead to the end of a run: shutdown, destroy, the end by policy, save, discard. Pure."""

from __future__ import annotations

from typing import Final

from manor_bus.wire.errors import Kind
from manor_bus.wire.messages.documents import RunPolicy
from manor_bus.wire.messages.lifecycle import State
from manor_lifecycle.domain.pieces import (
    DISK_CAUSES,
    LOOK,
    came_and_went,
    did,
    end_run,
    no_run,
    once,
    over,
)
from manor_lifecycle.domain.steps import DONE, Act, GiveUp, Next, Step, Wait, give_up, note
from manor_lifecycle.domain.values import Core, Doing, Now
from manor_lifecycle.hypervisors.seen import Activity, CauseWord

USERS_S: Final = 900.0  # beyond its own time, for those that depend on it


def _remember(core: Core, doing: Doing) -> Step | None:
    policy = core.wish.spec.run if core.wish is not None else RunPolicy.ON_REQUEST
    wanted = doing.arguments.stopped and policy in (RunPolicy.ALWAYS, RunPolicy.ON_BOOT)
    step = note("remember that it was stopped", stopped=True, boot=core.place.session)
    return once(doing, step, when=wanted and not core.kept.stopped)


def ask(core: Core, doing: Doing, now: Now) -> Next:
    """Ask the guest again and again until it has ended or its time is up."""
    run, spec = core.run, core.spec
    if run is None:
        return DONE
    if core.users and doing.arguments.with_users and not doing.asked:
        return _wait_for_users(core, doing, now)
    if now.at >= doing.until:
        if doing.arguments.force_after:
            return end_run(core, doing) or DONE
        return _did_not_end(core, doing)
    if run.activity in (Activity.STANDS, Activity.SLEEPS):
        if doing.watched and now.at < doing.not_before:
            return Wait(doing.not_before)
        return Step(Act.RESUME)
    again_at = doing.asked_at + spec.shutdown_repeat_s
    if doing.asked == 0 or (spec.shutdown_repeat_s and now.at >= again_at):
        return Step(Act.ASK)
    return Wait(min(doing.until, again_at) if spec.shutdown_repeat_s else doing.until)


def _wait_for_users(core: Core, doing: Doing, now: Now) -> Next:
    if now.at < doing.until + USERS_S:
        return Wait(doing.until + USERS_S)
    return give_up(Kind.TIMEOUT, f"{', '.join(core.users)} still run and need it", LOOK)


def _did_not_end(core: Core, doing: Doing) -> GiveUp:
    run, waited = core.run, doing.arguments.timeout_s
    if run is not None and run.activity is Activity.STANDS and run.cause.word in DISK_CAUSES:
        on = f" on {run.cause.device}" if run.cause.device else ""
        message = f"the guest cannot hear it: its CPUs stand after {run.cause.word.replace('-', ' ')}{on}"
        return give_up(Kind.DENIED_STATE, message, "Mend the disk, then ask again; or destroy it.")
    said = "acknowledged the request, but" if "heard" in doing.past else "did not react and"
    asked = "once" if doing.asked == 1 else f"{doing.asked} times"
    message = f"the guest {said} is still running after {waited:g} s (asked {asked})"
    return give_up(Kind.TIMEOUT, message, "Wait longer (--deadline), use --force, or destroy it.")


def shutdown(core: Core, doing: Doing, now: Now) -> Next:
    """The guest ended itself, and that somebody wanted it is remembered."""
    remember = _remember(core, doing)
    if remember is not None:
        return remember
    return ask(core, doing, now) if core.living else over(core, doing)


def destroy(core: Core, doing: Doing, now: Now) -> Next:
    """There is no run."""
    return _remember(core, doing) or over(core, doing)


def end(core: Core, doing: Doing, now: Now) -> Next:
    """There is no run, as a policy wants it."""
    said = doing.arguments
    step = note("record that an operator must look", failed=said.failed, crashes=said.crashes)
    if said.failed and core.kept.failed != said.failed and once(doing, step):
        return step
    if said.dump and core.run is not None and not did(doing, Act.DUMP):
        return Step(Act.DUMP)
    return over(core, doing)


def back_end(core: Core, doing: Doing, now: Now) -> Next:
    """A domain that runs on was not stopped."""
    run = core.living
    if run is None:
        return DONE
    if core.kept.stopped and core.kept.ended < run.run.incarnation:
        return note("forget that it was stopped", stopped=False)
    woken = doing.before is State.PAUSED and did(doing, Act.RESUME) and run.activity is Activity.RUNS
    return once(doing, Step(Act.PAUSE), when=woken) or DONE


def save(core: Core, doing: Doing, now: Now) -> Next:
    """The record names a saved state, and there is no run."""
    run, image = core.run, core.image
    if core.kept.saved:
        return over(core, doing)
    if run is None:
        return no_run()
    if run.activity is Activity.ENDED:
        return came_and_went(core)
    if run.activity is Activity.SLEEPS:
        return Step(Act.RESUME)
    ran_on = run.activity is not Activity.STANDS  # then what was saved is not what it is now
    if image is None or image.id != doing.id or image.incarnation != run.run.incarnation or ran_on:
        return Step(Act.SAVE)
    return note("record the saved state", saved=f"saved/{core.uuid}.state", image=doing.id)


def back_save(core: Core, doing: Doing, now: Now) -> Next:
    """It runs as before; what the record names already goes forward."""
    run = core.living
    if core.kept.saved:
        return over(core, doing)
    image = core.image is not None and core.image.id == doing.id
    stands = run is not None and run.activity is Activity.STANDS and doing.before is not State.PAUSED
    stopped_by_us = run is not None and run.cause.word is CauseWord.SAVING and not did(doing, Act.RESUME)
    if stands and (image or stopped_by_us):
        return Step(Act.RESUME)
    return once(doing, Step(Act.REMOVE_IMAGE), when=image) or DONE


def discard(core: Core, doing: Doing, now: Now) -> Next:
    """There is no saved state."""
    if core.kept.saved:
        return note("forget the saved state", saved="", image="")
    return once(doing, Step(Act.REMOVE_IMAGE), when=core.image is not None) or DONE


def back_discard(core: Core, doing: Doing, now: Now) -> Next:
    """Once the record has forgotten it there is no way back."""
    return DONE if core.kept.saved else discard(core, doing, now)
