"""What must be done so that a domain is as its document says. Pure, and asked again after every change.

What the running domain can take is changed live: memory by balloon up to its maximum, virtual CPUs up to
their maximum where the hypervisor can, disks and network cards by plugging. What only this service reads
(policies, texts) is in force at once. The rest is pending until the next start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from manor_bus.wire.messages.config import OwnerRecord
from manor_bus.wire.messages.documents import Disk, Domain, DomainSpec, Nic, RunPolicy
from manor_bus.wire.messages.lifecycle import PendingChange, State
from manor_lifecycle.hypervisors import Feature
from manor_lifecycle.machine import LIVE, Trigger
from manor_lifecycle.plan import Arguments, LiveChange

VALUE_CHARACTERS_MAX: Final = 200
NOTHING_SAID: Final = Arguments()

# Read by this service alone, each time it decides: in force at once.
AT_ONCE: Final = frozenset(
    {
        "run",
        "on_poweroff",
        "on_reboot",
        "on_crash",
        "on_watchdog",
        "on_device_model_crash",
        "on_silence",
        "shutdown_timeout_s",
        "shutdown_repeat_s",
        "start_order",
        "start_delay_s",
        "title",
        "description",
        "ha",
        "placement",
        "depends_on",
        "extra",
    }
)
_DEVICES: Final = ("disks", "nics", "channels", "pci", "usb")
_PLUGS: Final = {"disks": Feature.DISK_PLUG, "nics": Feature.NIC_PLUG}


@dataclass(frozen=True, slots=True)
class Situation:
    """What there is. `running` is what the present run has (None without one); `refused` names devices whose
    unplug was refused for this revision of the document, with the reason; `missing` names the domains that
    must run first and do not."""

    state: State
    record: OwnerRecord | None
    running: DomainSpec | None = None
    features: frozenset[Feature] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    boot_due: bool = False
    namesake: str = ""  # uuid of another run that has this name
    barred: str = ""  # why the changes of this document cannot be made in this run


@dataclass(frozen=True, slots=True)
class Decision:
    """What to begin now, and what waits for the next start. `waits`: why nothing is begun yet."""

    verb: Trigger | None = None
    arguments: Arguments = NOTHING_SAID
    pending: tuple[PendingChange, ...] = ()
    waits: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """Live changes and pending ones between two specs."""

    live: tuple[LiveChange, ...] = ()
    pending: tuple[PendingChange, ...] = ()


def decide(document: Domain | None, there: Situation) -> Decision:
    """Return what must be done so that the domain is as its document says."""
    if document is None:
        return Decision()
    if there.state is State.DEFINED:
        return _when_defined(document.spec, there)
    if there.state not in LIVE or there.running is None:
        return Decision()
    difference = compare(there.running, document.spec, there.features, there.refused)
    if document.spec.run is RunPolicy.HALTED:
        arguments = Arguments(timeout_s=document.spec.shutdown_timeout_s)
        return Decision(Trigger.SHUTDOWN, arguments, difference.pending)
    if not difference.live:
        return Decision(pending=difference.pending)
    if there.barred:
        barred = tuple(
            msgspec.structs.replace(
                _as_pending(change, there.running), applies="refused", reason=there.barred
            )
            for change in difference.live
        )
        return Decision(pending=(*barred, *difference.pending))
    under_way = tuple(_as_pending(change, there.running) for change in difference.live)
    arguments = Arguments(changes=difference.live)
    return Decision(Trigger.CONFIGURE, arguments, (*under_way, *difference.pending))


def _when_defined(spec: DomainSpec, there: Situation) -> Decision:
    record = there.record
    kept_off = record is not None and (record.failed or (record.stopped and not there.boot_due))
    wanted = spec.run is RunPolicy.ALWAYS or (spec.run is RunPolicy.ON_BOOT and there.boot_due)
    if kept_off or not wanted:
        return Decision()
    if there.missing:
        return Decision(waits=f"waits for {', '.join(there.missing)}")
    if there.namesake:
        return Decision(waits=f"waits for the end of {there.namesake}, which runs under this name")
    if record is None:
        return Decision(Trigger.START)
    return Decision(Trigger.START, Arguments(crashes=record.crashes, reboots=record.reboots))


def compare(
    running: DomainSpec, wanted: DomainSpec, features: frozenset[Feature], refused: Mapping[str, str]
) -> Difference:
    """Return what to change live and what waits. Equal specs cost one comparison."""
    if running is wanted or running == wanted:
        return Difference()
    live: list[LiveChange] = []
    pending: list[PendingChange] = []
    _memory(running, wanted, features, live)
    _cpus(running, wanted, features, live)
    for name in _DEVICES:
        _devices(name, running, wanted, features, refused, live, pending)
    taken = {change.type for change in live}
    for path, old, new in _differences(running, wanted):
        if path == "spec.memory.size_mib" and "memory" in taken:
            continue
        if path == "spec.cpu.count" and "cpus" in taken:
            continue
        pending.append(PendingChange(path=path, old=old, new=new))
    return Difference(tuple(live), tuple(pending))


def _memory(
    running: DomainSpec, wanted: DomainSpec, features: frozenset[Feature], live: list[LiveChange]
) -> None:
    size = wanted.memory.size_mib
    most = running.memory.max_mib or running.memory.size_mib
    if size != running.memory.size_mib and size <= most and Feature.BALLOON in features:
        live.append(LiveChange(type="memory", amount=size))


def _cpus(
    running: DomainSpec, wanted: DomainSpec, features: frozenset[Feature], live: list[LiveChange]
) -> None:
    count, now = wanted.cpu.count, running.cpu.count
    needed = Feature.CPU_PLUG if count > now else Feature.CPU_UNPLUG
    if count != now and count <= (running.cpu.max or now) and needed in features:
        live.append(LiveChange(type="cpus", amount=count))


def _devices(
    name: str,
    running: DomainSpec,
    wanted: DomainSpec,
    features: frozenset[Feature],
    refused: Mapping[str, str],
    live: list[LiveChange],
    pending: list[PendingChange],
) -> None:
    before = {device.id: device for device in getattr(running, name)}
    after = {device.id: device for device in getattr(wanted, name)}
    can = name in _PLUGS and _PLUGS[name] in features
    for device_id in before.keys() - after.keys():
        path = f"spec.{name}[{device_id}]"
        if device_id in refused:
            reason = f"refused: {refused[device_id]}"
            pending.append(PendingChange(path=path, old="attached", new=reason, applies="in-progress"))
        elif can:
            live.append(LiveChange(type="unplug", device=device_id))
        else:
            pending.append(PendingChange(path=path, old="attached", new=""))
    for device_id in after:
        if device_id in before:
            continue
        if can and _is_pluggable(after[device_id]):
            live.append(LiveChange(type="plug", device=device_id))
        else:
            pending.append(PendingChange(path=f"spec.{name}[{device_id}]", old="", new="attached"))


def _is_pluggable(device: object) -> bool:
    """Only buses that can take a device while the guest runs."""
    if isinstance(device, Disk):
        return device.device == "disk" and device.bus in ("virtio", "scsi", "usb", "xen")
    return isinstance(device, Nic)


def _differences(running: DomainSpec, wanted: DomainSpec) -> Iterator[tuple[str, str, str]]:
    """Yield the fields that differ and are neither in force at once nor a device that came or went."""
    for name in DomainSpec.__struct_fields__:
        if name in AT_ONCE:
            continue
        old, new = getattr(running, name), getattr(wanted, name)
        if old == new:
            continue
        if name in _DEVICES:
            before = {device.id: device for device in old}
            for device in new:
                if device.id in before and before[device.id] != device:
                    yield from _fields(f"spec.{name}[{device.id}]", before[device.id], device)
        else:
            yield from _fields(f"spec.{name}", old, new)


def _fields(path: str, old: Any, new: Any) -> Iterator[tuple[str, str, str]]:
    if isinstance(old, msgspec.Struct) and type(old) is type(new):
        for name in old.__struct_fields__:
            if getattr(old, name) != getattr(new, name):
                yield from _fields(f"{path}.{name}", getattr(old, name), getattr(new, name))
    else:
        yield path, _text(old), _text(new)


def _text(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= VALUE_CHARACTERS_MAX else text[: VALUE_CHARACTERS_MAX - 1] + "…"


def _as_pending(change: LiveChange, running: DomainSpec) -> PendingChange:
    match change.type:
        case "memory":
            path, old = "spec.memory.size_mib", str(running.memory.size_mib)
            return PendingChange(path=path, old=old, new=str(change.amount), applies="in-progress")
        case "cpus":
            path, old = "spec.cpu.count", str(running.cpu.count)
            return PendingChange(path=path, old=old, new=str(change.amount), applies="in-progress")
        case _:
            path = f"spec.devices[{change.device}]"
            plug = change.type == "plug"
            old, new = ("", "attached") if plug else ("attached", "")
            return PendingChange(path=path, old=old, new=new, applies="in-progress")


def applied(running: DomainSpec, wanted: DomainSpec, change: LiveChange) -> DomainSpec:
    """Return what the run has after one live change went well."""
    match change.type:
        case "memory":
            memory = msgspec.structs.replace(running.memory, size_mib=change.amount)
            return msgspec.structs.replace(running, memory=memory)
        case "cpus":
            cpu = msgspec.structs.replace(running.cpu, count=change.amount)
            return msgspec.structs.replace(running, cpu=cpu)
        case "unplug":
            return without(running, change.device)
        case "plug" | "reconnect":
            return _with(without(running, change.device), wanted, change.device)


def without(spec: DomainSpec, device: str) -> DomainSpec:
    """Return the spec without a device."""
    left = {name: tuple(d for d in getattr(spec, name) if d.id != device) for name in _DEVICES}
    return msgspec.structs.replace(spec, **left)


def _with(spec: DomainSpec, source: DomainSpec, device: str) -> DomainSpec:
    for name in _DEVICES:
        for found in getattr(source, name):
            if found.id == device:
                return msgspec.structs.replace(spec, **{name: (*getattr(spec, name), found)})
    return spec
