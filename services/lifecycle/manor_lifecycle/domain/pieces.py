"""The pieces that several plans are made of. Pure."""

from __future__ import annotations

from typing import Final

from manor_bus.wire.errors import ErrorBody, Kind
from manor_bus.wire.messages.devices import ConnectionState
from manor_bus.wire.messages.documents import DomainSpec
from manor_lifecycle.domain.steps import DONE, Act, GiveUp, Next, Step, give_up, note
from manor_lifecycle.domain.values import Core, Doing
from manor_lifecycle.hypervisors.seen import CauseWord, Device, devices_of

HOLD_S: Final = 1.0  # a guest that its disks stopped runs so long before it is said to run
DISK_CAUSES: Final = frozenset({CauseWord.IO_ERROR, CauseWord.NO_SPACE})
NOT_OPEN: Final = frozenset({ConnectionState.ABSENT, ConnectionState.CLOSED, ConnectionState.FAILED})
LOOK: Final = "Look at it: manor describe domain NAME"


def did(doing: Doing, act: Act, device: str = "") -> bool:
    """Say whether the operation has done that already."""
    return Step(act, device).text in doing.past


def once(doing: Doing, step: Step, *, when: bool = True) -> Step | None:
    """Return a step that is wanted, unless the operation has done it already."""
    return step if when and step.text not in doing.past else None


def end_run(core: Core, doing: Doing) -> Next | None:
    """Return what ends the run that is there, if one is; one that the hypervisor holds is noted as ended."""
    run = core.run
    if run is None or not run.ours:
        return None
    if not did(doing, Act.DESTROY):
        return Step(Act.DESTROY)
    if core.kept.ended < run.run.incarnation:
        return note("record that the run is to be gone", ended=run.run.incarnation)
    return GiveUp(doing.error or ErrorBody(kind=Kind.TIMEOUT, message="the hypervisor still holds the run"))


def release(core: Core, doing: Doing) -> Step | None:
    """Return what gives the back ends of a run that is over back."""
    links = open_links(core)
    return once(doing, Step(Act.RELEASE_ALL, amount=max(born for born, _ in links))) if links else None


def open_links(core: Core) -> tuple[tuple[int, str], ...]:
    """Return the connections that hold something at devices."""
    return tuple(key for key, link in core.links.items() if link.state not in NOT_OPEN)


def over(core: Core, doing: Doing) -> Next:
    """The run goes, and all of it."""
    return end_run(core, doing) or release(core, doing) or note_end(core, doing) or DONE


def note_end(core: Core, doing: Doing) -> Step | None:
    """Return what lets the record say that there is no run, so that its document may go."""
    gone = core.run is None and core.kept.run
    return once(doing, note("record that the run ended", run=False), when=gone)


def came_and_went(core: Core) -> GiveUp:
    """Return that the run is over by itself."""
    said = core.last_end or "it ended by itself"
    if core.run is not None and core.run.end is not None:
        said = f"{core.run.end}: {core.run.end_detail}".removesuffix(": ")
    hint = "Look at what happened: manor describe domain NAME --story"
    return give_up(Kind.DENIED_STATE, f"the run is over: {said}", hint)


def no_run() -> GiveUp:
    """Return that there is no run."""
    return give_up(Kind.DENIED_STATE, "there is no run any more", LOOK)


def spec_for(core: Core, doing: Doing) -> DomainSpec:
    """Return what an operation makes: what was saved, or what the document says."""
    return core.image.spec if doing.kind == "restore" and core.image is not None else core.spec


def device_named(core: Core, doing: Doing, name: str) -> Device | None:
    """Return a device as it is to be made, or without that as the run has it."""
    there = (core.run.spec if core.run is not None else None) or core.spec
    devices = (*devices_of(spec_for(core, doing)), *devices_of(there))
    return next((one for one in devices if one.id == name), None)


def has_device(core: Core, device: str) -> bool:
    """Say whether the run has a device."""
    return core.run is not None and any(one.id == device for one in core.run.devices)
