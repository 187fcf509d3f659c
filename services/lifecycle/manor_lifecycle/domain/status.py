"""How a domain looks from outside: made anew from what is known each time it is told. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from types import MappingProxyType
from typing import Final, Literal

from manor_bus.wire.messages.lifecycle import DeviceView, DomainStatus, Operation, OperationState, State
from manor_lifecycle.domain.ends import untreated
from manor_lifecycle.domain.states import LIVE, cause, conditions, state, verbs
from manor_lifecycle.domain.values import Core, Doing, Link
from manor_lifecycle.domain.wishes import pending, wants_to_run
from manor_lifecycle.hypervisors.seen import IoStatus

DeviceType = Literal["disk", "nic", "channel", "console", "pci", "usb"]
HAS_TIMES: Final = frozenset({*LIVE, State.STOPPING, State.SUSPENDING, State.CRASHED, State.FOREIGN})
_KINDS: Final = MappingProxyType(
    {"disks": "disk", "nics": "nic", "channels": "channel", "pci": "pci", "usb": "usb"}
)


def status(core: Core) -> DomainStatus:
    """Return what others see; its generation is set by who publishes it."""
    there, run, kept, wish = state(core), core.run, core.kept, core.wish
    timed = run is not None and there in HAS_TIMES
    why = cause(core)
    return DomainStatus(
        name=core.name,
        uuid=core.uuid,
        state=there,
        generation=0,
        node=core.place.node,
        hypervisor=core.hypervisor,
        incarnation=_incarnation(core),
        revision=wish.metadata.revision if wish is not None else 0,
        cpus=(run.cpus if run is not None else 0) or core.spec.cpu.count,
        memory_mib=(run.memory_mib if run is not None else 0) or core.spec.memory.size_mib,
        started=run.started if run is not None and timed else 0.0,
        reason=_unknown(core)
        or _waits_for(core)
        or _silence(core)
        or _zombie(core, there)
        or why
        or _failure(core)
        or core.notes,
        pending=pending(core),
        devices=tuple(_devices(core)),
        allowed=verbs(there),
        operation=core.doing.id if core.doing is not None else "",
        run=wish.spec.run.value if wish is not None else "",
        restarts=kept.crashes + kept.reboots,
        labels=wish.metadata.labels if wish is not None else {},
        cause=why,
        last_failure=core.failure,
        not_answering_since=core.silent_since if core.not_answering else 0.0,
        conditions=conditions(core),
        uptime_s=round(run.uptime_s, 1) if run is not None and timed and run.ours else 0.0,
        began_s=round(core.began or 0.0, 1) if run is not None and timed and run.ours else 0.0,
    )


def _incarnation(core: Core) -> int:
    begins = core.doing.incarnation if core.doing is not None else 0
    return core.run.run.incarnation if core.run is not None else max(core.kept.incarnation, begins)


def _unknown(core: Core) -> str:
    return f"not known: {core.seen.unknown}" if core.seen.unknown else ""


def _waits_for(core: Core) -> str:
    waits = core.missing and state(core) is State.DEFINED and wants_to_run(core) and untreated(core) is None
    return f"waits for {', '.join(core.missing)}" if waits else ""


def _silence(core: Core) -> str:
    return "the device model does not answer" if core.not_answering and core.run is not None else ""


def _zombie(core: Core, there: State) -> str:
    zombie = there is State.DYING and core.doing is None and core.failure is not None
    return f"ZOMBIE: {core.failure.what}" if zombie and core.failure is not None else ""


def _failure(core: Core) -> str:
    failure = core.failure
    return f"{failure.kind} failed: {failure.what}" if failure is not None else ""


def _devices(core: Core) -> Iterator[DeviceView]:
    run = core.run
    specs = ((run.spec if run is not None else None) or core.spec, core.spec)
    io = {one.id: one.io for one in run.devices} if run is not None else {}
    links: dict[str, Link] = {}
    for (_, name), link in sorted(core.links.items()):
        links[name] = link
    shown = set()
    for (field, kind), spec in product(_KINDS.items(), specs):
        for device in getattr(spec, field):
            if device.id not in shown:
                shown.add(device.id)
                yield _view(core, device.id, kind, links.get(device.id), io)  # type: ignore[arg-type]
    for name, link in links.items():
        if name not in shown and link.status is not None:
            yield _view(core, name, link.status.type, link, io)


def _view(
    core: Core, name: str, kind: DeviceType, link: Link | None, io: Mapping[str, IoStatus]
) -> DeviceView:
    said = link.status if link is not None else None
    there = name in io or (kind in ("pci", "usb") and core.living is not None)
    shown = said.state.value if said is not None else "CONNECTED" if there else "ABSENT"
    return DeviceView(
        id=name,
        type=said.type if said is not None else kind,
        state=shown,
        provider=said.provider if said is not None else "",
        generation=link.generation if link is not None else 0,
        reason=said.reason if said is not None else "",
        io=io.get(name, ""),
    )


def operation(name: str, uuid: str, doing: Doing, cancellable: bool, before: Operation | None) -> Operation:
    """Return what others see of an operation under way; its progress never goes back."""
    said = doing.arguments
    where = OperationState.RUNNING if doing.begun else OperationState.PENDING
    return Operation(
        id=doing.id,
        kind=doing.kind,
        target=name,
        uuid=uuid,
        state=OperationState.CANCELLING if doing.cancelled else where,
        step=doing.step,
        steps=tuple(text for text, _ in doing.steps),
        progress=max(_progress(doing), before.progress if before is not None else 0.0),
        error=doing.back,
        who=doing.who,
        reason=doing.reason,
        cancellable=cancellable,
        created=doing.created,
        deadline=doing.created + said.timeout_s if doing.kind == "shutdown" else 0.0,
        result=dict(doing.result),
    )


def _progress(doing: Doing) -> float:
    total = sum(weight for _, weight in doing.steps)
    reached = 0.0
    for text, weight in doing.steps:
        if text == doing.step:
            return round((reached + weight * min(max(doing.within, 0.0), 1.0)) / total, 4)
        reached += weight
    return 0.0
