"""Plans that lead to a run: start, restart, reboot, restore. Pure."""

from __future__ import annotations

from manor_bus.wire.errors import ErrorBody, Kind
from manor_bus.wire.messages.documents import DomainSpec, RunPolicy
from manor_lifecycle.domain.pieces import (
    LOOK,
    came_and_went,
    did,
    end_run,
    no_run,
    note_end,
    once,
    over,
    release,
)
from manor_lifecycle.domain.steps import DONE, Act, GiveUp, Next, Step, Wait, give_up, note
from manor_lifecycle.domain.stops import ask
from manor_lifecycle.domain.values import Core, Doing, Now
from manor_lifecycle.hypervisors.seen import Activity, devices_of


def _bring_up(core: Core, doing: Doing, spec: DomainSpec, make: Act) -> Next | None:
    """Return what is missing until a run of this incarnation stands with all its devices; None when it is
    there."""
    run, kept = core.run, core.kept
    if run is not None and run.run.incarnation == doing.incarnation:
        return came_and_went(core) if run.activity is Activity.ENDED else announce(core, doing)
    if run is not None:
        return end_run(core, doing)
    if kept.incarnation != doing.incarnation:
        return _refused(core, doing) or Step(Act.CLAIM)
    if core.seen.last >= doing.incarnation:
        return came_and_went(core)
    for device in devices_of(spec):
        held = doing.held.get(device.id)
        if (held is None or held.device != device) and not did(doing, Act.CONNECT, device.id):
            return Step(Act.CONNECT, device.id)
    return Step(make)


def announce(core: Core, doing: Doing) -> Step | None:
    """Return what tells devices that a front end is connected."""
    steps = (once(doing, Step(Act.ANNOUNCE, name)) for name in doing.held)
    return next((step for step in steps if step is not None), None)


def _refused(core: Core, doing: Doing) -> GiveUp | None:
    if core.kept.incarnation > doing.incarnation:
        return give_up(Kind.STALE, "a later run was begun elsewhere", LOOK)
    error = gate(core, doing.kind)
    return GiveUp(error) if error is not None else None


def gate(core: Core, kind: str) -> ErrorBody | None:
    """Return why it must not be started now: the one gate of all starts, before anything is claimed."""
    place, wanted = core.place, core.spec.hypervisor or core.place.default_hypervisor
    if core.wish is None and kind != "restore":
        hint = "Apply a document with its uuid."
        return ErrorBody(kind=Kind.NOT_FOUND, message=f"{core.name} has no document", hint=hint)
    if core.wish is not None and core.wish.spec.run is RunPolicy.HALTED:  # it would be off again at once
        message = f"the document of {core.name} keeps it stopped (run: halted)"
        hint = "Change spec.run, to on-request or always, then start it."
        return ErrorBody(kind=Kind.DENIED_STATE, message=message, hint=hint)
    if core.name_taken:
        message = f"{core.name_taken} runs under the name {core.name}"
        hint = f"End it first: manor shutdown {core.name_taken}"
        return ErrorBody(kind=Kind.DENIED_STATE, message=message, hint=hint)
    if wanted not in place.hypervisors:
        there = ", ".join(sorted(place.hypervisors))
        message = f"this node has no hypervisor {wanted!r}; it has: {there}"
        hint = "Change spec.hypervisor, or start the service with that adapter."
        return ErrorBody(kind=Kind.BAD_REQUEST, message=message, hint=hint)
    if place.phase == "closing":
        message = f"all guests of {place.node} are being shut down"
        return ErrorBody(kind=Kind.DENIED_STATE, message=message, hint="Wait for the end of that.")
    if core.missing and kind in ("start", "restore"):
        needs = " and ".join(core.missing)
        message, hint = f"{core.name} needs what does not run: {needs}", f"Start {needs} first."
        return ErrorBody(kind=Kind.DENIED_STATE, message=message, hint=hint)
    return None


def start(core: Core, doing: Doing, now: Now) -> Next:
    """A run of this incarnation is there and runs, or stands if asked for."""
    other = core.living
    if doing.kind == "start" and other is not None and other.run.incarnation != doing.incarnation:
        return note("forget that it was stopped", stopped=False) if core.kept.stopped else DONE
    missing = _bring_up(core, doing, core.spec, Act.CREATE)
    if missing is not None:
        return missing
    run = core.run
    stands = run is not None and run.activity is Activity.STANDS
    return Step(Act.RESUME) if stands and not doing.arguments.paused else DONE


def restart(core: Core, doing: Doing, now: Now) -> Next:
    """The run that is there goes, and after a delay the next one is there."""
    before = core.run is not None and core.run.run.incarnation < doing.incarnation
    if before and doing.arguments.dump and not did(doing, Act.DUMP):
        return Step(Act.DUMP)
    if before:
        return end_run(core, doing) or DONE
    if core.run is None and core.kept.incarnation < doing.incarnation:
        if (step := release(core, doing)) is not None:
            return step
        if now.at < doing.until:
            return Wait(doing.until)
    return start(core, doing, now)


def reboot(core: Core, doing: Doing, now: Now) -> Next:
    """The guest shuts down, and the next run is there."""
    run = core.run
    if run is not None and run.run.incarnation < doing.incarnation:
        if run.activity is not Activity.ENDED:
            return ask(core, doing, now)
        return end_run(core, doing) or DONE
    if (
        run is None
        and core.kept.incarnation < doing.incarnation
        and (step := release(core, doing)) is not None
    ):
        return step
    return start(core, doing, now)


def restore(core: Core, doing: Doing, now: Now) -> Next:
    """The saved state runs; it is spent before the first instruction."""
    kept, run, image = core.kept, core.run, core.image
    ours = run is not None and run.run.incarnation == doing.incarnation
    if kept.saved:
        if image is None or (kept.image and image.id != kept.image):
            message = "its saved state is not there, or is another one"
            return give_up(Kind.NOT_FOUND, message, "Discard the saved state.")
        missing = _bring_up(core, doing, image.spec, Act.LOAD)
        return missing or note("forget the saved state", saved="", image="")
    if not ours:
        return no_run()
    if run is not None and run.activity is Activity.ENDED:
        return came_and_went(core)
    if run is not None and run.activity is Activity.STANDS and not doing.arguments.paused:
        return Step(Act.RESUME)
    return once(doing, Step(Act.REMOVE_IMAGE), when=image is not None) or DONE


def back_bring_up(core: Core, doing: Doing, now: Now) -> Next:
    """No run of this incarnation, nothing connected; a spent saved state goes on."""
    run = core.run
    ours = run is not None and run.run.incarnation == doing.incarnation
    if ours and doing.kind == "restore" and not core.kept.saved and core.living:
        return restore(core, doing, now)  # committed: its saved state is spent
    if ours:
        return over(core, doing)
    made = run is None and core.kept.incarnation == doing.incarnation
    return (release(core, doing) if made else None) or note_end(core, doing) or DONE
