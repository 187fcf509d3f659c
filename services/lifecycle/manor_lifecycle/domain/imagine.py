"""A world in which every step works: what a step makes of what is known. Pure.

The plan that is shown before anything is done, a rehearsal and progress come from here; tests let the core
act in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import msgspec

from manor_bus.wire.messages.devices import Descriptor
from manor_lifecycle.domain.pieces import device_named, spec_for
from manor_lifecycle.domain.plans import next_step
from manor_lifecycle.domain.steps import Act, Step, Wait
from manor_lifecycle.domain.values import Core, Doing, Held, Link, Now
from manor_lifecycle.hypervisors.seen import (
    Activity,
    Run,
    SavedImage,
    SeenDevice,
    SeenRun,
    devices_of,
    resized,
    with_devices,
)

STEPS_MAX: Final = 2_000


def rehearse(core: Core, doing: Doing, now: Now) -> tuple[Step, ...]:
    """Return the steps that an operation will take if every one works."""
    steps: list[Step] = []
    while len(steps) < STEPS_MAX:
        found = next_step(core, doing, now)
        if isinstance(found, Wait):
            if core.run is not None and doing.kind in ("shutdown", "reboot"):
                core = imagined(core, doing, Step(Act.DESTROY))
            else:
                now = replace(now, at=found.until)
            continue
        if not isinstance(found, Step):
            break
        steps.append(found)
        core = imagined(core, doing, found)
        doing = taken(core, doing, found, now)
    return tuple(steps)


def taken(core: Core, doing: Doing, step: Step, now: Now) -> Doing:
    """Return the operation after a step that worked."""
    held, asked = doing.held, doing.asked
    if step.act is Act.CONNECT:
        device = device_named(core, doing, step.device)
        assert device is not None, "only what is there is connected"
        held = {**held, step.device: Held(device, Descriptor(type="fake", generation=1))}
    if step.act is Act.ASK:
        asked += 1
    return replace(doing, past=doing.past | {step.text}, held=held, asked=asked, asked_at=now.at)


def imagined(core: Core, doing: Doing, step: Step) -> Core:
    """Return what is known after a step that worked."""
    effect = EFFECTS.get(step.act)
    return effect(core, doing, step) if effect is not None else core


def _run(core: Core, **fields: object) -> Core:
    run = core.run
    return core if run is None else replace(core, seen=replace(core.seen, run=replace(run, **fields)))  # type: ignore[arg-type]


def _note(core: Core, doing: Doing, step: Step) -> Core:
    record = msgspec.structs.replace(core.kept, **dict(step.fields))
    return replace(core, record=record, revision=core.revision + 1, owed={})


def _claim(core: Core, doing: Doing, step: Step) -> Core:
    record = msgspec.structs.replace(core.kept, incarnation=doing.incarnation, stopped=False, failed="")
    return replace(core, record=record, revision=core.revision + 1)


def _link(core: Core, doing: Doing, step: Step) -> Core:
    born = core.run.born if core.run is not None else doing.incarnation
    return replace(core, links={**core.links, (born, step.device): Link(born, step.device, 1)})


def _create(core: Core, doing: Doing, step: Step) -> Core:
    spec = spec_for(core, doing)
    run = SeenRun(
        Run(core.uuid, doing.incarnation),
        doing.incarnation,
        core.name,
        Activity.STANDS,
        spec=spec,
        devices=tuple(SeenDevice(one) for one in doing.held),
        cpus=spec.cpu.count,
        memory_mib=spec.memory.size_mib,
        features=core.place.hypervisors.get(core.hypervisor, frozenset()),
    )
    return replace(core, seen=replace(core.seen, last=doing.incarnation, run=run, ended=None))


def _destroy(core: Core, doing: Doing, step: Step) -> Core:
    return replace(core, seen=replace(core.seen, run=None))


def _save(core: Core, doing: Doing, step: Step) -> Core:
    run = core.run
    if run is None:
        return core
    image = SavedImage(doing.id, core.uuid, run.run.incarnation, run.spec or core.spec)
    return replace(_run(core, activity=Activity.STANDS), image=image)


def _reset(core: Core, doing: Doing, step: Step) -> Core:
    return _run(core, run=Run(core.uuid, doing.incarnation))


def _plug(core: Core, doing: Doing, step: Step) -> Core:
    run = core.run
    if run is None or run.spec is None or step.device not in doing.held:
        return core
    device = doing.held[step.device].device
    others = [one for one in devices_of(run.spec) if one.id != step.device]
    spec = with_devices(run.spec, [*others, device])
    there = tuple(one for one in run.devices if one.id != step.device)
    return _run(core, spec=spec, devices=(*there, SeenDevice(step.device)))


def _unplug(core: Core, doing: Doing, step: Step) -> Core:
    run = core.run
    if run is None or run.spec is None:
        return core
    spec = with_devices(run.spec, [one for one in devices_of(run.spec) if one.id != step.device])
    return _run(core, spec=spec, devices=tuple(one for one in run.devices if one.id != step.device))


def _resize(core: Core, doing: Doing, step: Step) -> Core:
    run = core.run
    if run is None or run.spec is None:
        return core
    memory = step.amount if step.act is Act.SET_MEMORY else run.spec.memory.size_mib
    cpus = step.amount if step.act is Act.SET_CPUS else run.spec.cpu.count
    return _run(core, spec=resized(run.spec, memory, cpus), memory_mib=memory, cpus=cpus)


Effect = Callable[[Core, Doing, Step], Core]
EFFECTS: Final[Mapping[Act, Effect]] = MappingProxyType(
    {
        Act.NOTE: _note,
        Act.CLAIM: _claim,
        Act.CONNECT: _link,
        Act.CREATE: _create,
        Act.LOAD: _create,
        Act.RESUME: lambda c, d, s: _run(c, activity=Activity.RUNS),
        Act.PAUSE: lambda c, d, s: _run(c, activity=Activity.STANDS),
        Act.RESET: _reset,
        Act.DESTROY: _destroy,
        Act.RELEASE: lambda c, d, s: replace(
            c, links={key: one for key, one in c.links.items() if key[1] != s.device}
        ),
        Act.RELEASE_ALL: lambda c, d, s: replace(c, links={}),
        Act.SAVE: _save,
        Act.REMOVE_IMAGE: lambda c, d, s: replace(c, image=None),
        Act.PLUG: _plug,
        Act.UNPLUG: _unplug,
        Act.FORCE_UNPLUG: _unplug,
        Act.SET_MEMORY: _resize,
        Act.SET_CPUS: _resize,
        Act.DELETE_DOCUMENT: lambda c, d, s: replace(c, wish=None),
        Act.DELETE_RECORD: lambda c, d, s: replace(c, record=None, revision=0),
    }
)
