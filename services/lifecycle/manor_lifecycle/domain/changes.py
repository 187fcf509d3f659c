"""Plans that change a run, its name, or the document. Pure."""

from __future__ import annotations

from manor_bus.wire.errors import Kind
from manor_bus.wire.messages.lifecycle import State
from manor_lifecycle.domain.pieces import (
    DISK_CAUSES,
    LOOK,
    device_named,
    did,
    has_device,
    no_run,
    once,
    open_links,
    over,
)
from manor_lifecycle.domain.starts import announce
from manor_lifecycle.domain.steps import DONE, Act, Done, Next, Step, Wait, give_up, note
from manor_lifecycle.domain.stops import discard
from manor_lifecycle.domain.values import Core, Doing, Now
from manor_lifecycle.hypervisors.seen import Activity, CauseWord, Feature


def pause(core: Core, doing: Doing, now: Now) -> Next:
    """Its virtual CPUs stand."""
    run = core.living
    if run is None:
        return no_run()
    if run.activity is Activity.SLEEPS and did(doing, Act.PAUSE):
        return give_up(
            Kind.DENIED_STATE, "the guest sleeps and cannot be paused", "Wake it: manor resume NAME"
        )
    return DONE if run.activity is Activity.STANDS else Step(Act.PAUSE)


def back_pause(core: Core, doing: Doing, now: Now) -> Next:
    """They run again if they did before."""
    run = core.living
    stands = run is not None and run.activity is Activity.STANDS and run.cause.word is CauseWord.PERSON
    return Step(Act.RESUME) if stands and doing.before is State.RUNNING else DONE


def resume(core: Core, doing: Doing, now: Now) -> Next:
    """What its disks stopped is seen to hold before it is said to run."""
    run = core.living
    if run is None:
        return no_run()
    resumed = did(doing, Act.RESUME)
    if run.activity is Activity.RUNS:
        holds_at = doing.not_before if doing.watched and resumed else now.at
        return DONE if now.at >= holds_at else Wait(holds_at)
    if resumed and run.activity is Activity.STANDS and run.cause.word in DISK_CAUSES:
        on = f" on {run.cause.device}" if run.cause.device else ""
        message = f"it stopped again: {run.cause.word.replace('-', ' ')}{on}"
        return give_up(Kind.DENIED_STATE, message, "Make room for the disk, or mend it, then resume.")
    return Step(Act.RESUME)


def reset(core: Core, doing: Doing, now: Now) -> Next:
    """It goes on under the next incarnation."""
    run = core.living
    if run is None:
        return no_run()
    if run.run.incarnation >= doing.incarnation:
        return DONE
    if core.kept.incarnation < doing.incarnation:
        return note("claim the next incarnation", incarnation=doing.incarnation)
    return Step(Act.RESET)


def nmi(core: Core, doing: Doing, now: Now) -> Next:
    """Once, and never again after a restart of the service."""
    if did(doing, Act.NMI):
        return DONE
    if doing.attempts:
        message = "the service was restarted during nmi; the outcome is unknown"
        return give_up(Kind.TIMEOUT, message, "Look at the domain, then decide.")
    return Step(Act.NMI) if core.living else no_run()


def plug(core: Core, doing: Doing, now: Now) -> Next:
    """It has the device; a reconnection is made once."""
    run, name = core.living, doing.arguments.device
    if run is None:
        return no_run()
    device = device_named(core, doing, name)
    held = doing.held.get(name)
    again = doing.kind == "reconnect" and not did(doing, Act.PLUG, name)
    if has_device(core, name) and not again:
        return announce(core, doing) or DONE
    if device is None:
        return give_up(Kind.NOT_FOUND, f"the document has no device {name} any more", LOOK)
    return Step(Act.CONNECT, name) if held is None or held.device != device else Step(Act.PLUG, name)


def back_plug(core: Core, doing: Doing, now: Now) -> Next:
    """What was connected and not plugged is released."""
    run, name = core.run, doing.arguments.device
    linked = run is not None and (run.born, name) in open_links(core)
    spare = linked and not has_device(core, name)
    return once(doing, Step(Act.RELEASE, name), when=spare) or DONE


def unplug(core: Core, doing: Doing, now: Now) -> Next:
    """It has the device no more, and devices knows."""
    run, name, force = core.living, doing.arguments.device, doing.arguments.force
    if run is None:
        return DONE
    if not has_device(core, name):
        linked = (run.born, name) in open_links(core)
        return once(doing, Step(Act.RELEASE, name), when=linked) or DONE
    if force:
        return Step(Act.FORCE_UNPLUG, name)
    if run.activity is not Activity.RUNS:
        how = "sleeps" if run.activity is Activity.SLEEPS else "is paused"
        message = f"the guest {how}, so it cannot let {name} go; it is asked when it runs"
        return give_up(Kind.DENIED_STATE, message, "Resume it, or detach by force.")
    return once(doing, Step(Act.BEGIN_DETACH, name)) or Step(Act.UNPLUG, name)


def resize(core: Core, doing: Doing, now: Now) -> Next:
    """It has the memory or the CPUs."""
    run, said = core.living, doing.arguments
    if run is None or run.spec is None:
        return no_run()
    if said.device == "memory":
        return DONE if run.spec.memory.size_mib == said.amount else Step(Act.SET_MEMORY, amount=said.amount)
    return DONE if run.spec.cpu.count == said.amount else Step(Act.SET_CPUS, amount=said.amount)


def rename(core: Core, doing: Doing, now: Now) -> Next:
    """The document and the run have the name."""
    new, run = doing.arguments.new_name, core.living
    if core.wish is not None and core.wish.metadata.name != new and not did(doing, Act.RENAME):
        return Step(Act.RENAME)
    renames = run is not None and Feature.RENAME in run.features and run.name != new
    return once(doing, Step(Act.RENAME_RUN), when=renames) or DONE


def delete(core: Core, doing: Doing, now: Now) -> Next:
    """Nobody changes the document from its first step on."""
    if core.wish is not None and core.kept.deleting != doing.id:
        return note("mark the document as being deleted", deleting=doing.id)
    if core.wish is not None and not did(doing, Act.TRY_DELETE):
        return Step(Act.TRY_DELETE)
    ends = over(core, doing)
    if not isinstance(ends, Done):
        return ends
    spent = discard(core, doing, now)
    if not isinstance(spent, Done):
        return spent
    if core.wish is not None and not did(doing, Act.DELETE_DOCUMENT):
        return Step(Act.DELETE_DOCUMENT)
    if core.revision and not did(doing, Act.DELETE_RECORD):
        return Step(Act.DELETE_RECORD)
    return once(doing, Step(Act.REMOVE_LEFTOVERS), when=core.seen.last > 0) or DONE


def back_delete(core: Core, doing: Doing, now: Now) -> Next:
    """Others may change the document again."""
    marked = core.kept.deleting == doing.id
    return once(doing, note("let go of the document", deleting=""), when=marked) or DONE


def clear(core: Core, doing: Doing, now: Now) -> Next:
    """Somebody has looked."""
    if core.kept.failed and core.record is not None:
        return note("clear the loop guards", failed="", crashes=0, reboots=0, node=core.place.node)
    return DONE
