"""What the document asks of a domain at rest, and what of it the run does not have yet. Pure.

A difference between the spec of the run and the wished one is *live* (it can be changed while the guest
runs), *asked* (it was asked for, and is asked for again at a known time), *refused* (for a reason that does
not pass: until the document or the run is another one) or waits for the *next start*. What only this service
reads is in force at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from manor_bus.wire.messages.devices import ConnectionState
from manor_bus.wire.messages.documents import Disk, DomainSpec, Nic, RunPolicy
from manor_bus.wire.messages.lifecycle import PendingChange, State
from manor_lifecycle.domain.pieces import has_device
from manor_lifecycle.domain.states import LIVE, state
from manor_lifecycle.domain.steps import Wait
from manor_lifecycle.domain.values import Arguments, Ask, Core, Now
from manor_lifecycle.hypervisors.seen import Activity, Feature, SeenRun

PAUSES_S: Final = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
VALUE_CHARACTERS_MAX: Final = 200
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
class Wanted:
    """An operation to begin because the document, a provider or a policy wants it. `key` names the wish."""

    kind: str
    arguments: Arguments
    key: str
    why: str = "the document says so"


@dataclass(frozen=True, slots=True)
class Difference:
    """A field or device that the run has otherwise. `kind`: of the operation that changes it live."""

    path: str
    old: str
    new: str
    kind: str = ""
    device: str = ""
    amount: int = 0

    @property
    def key(self) -> str:
        """The name of this wish."""
        return f"{self.kind}:{self.device}"


# --- asking again ------------------------------------------------------------------------------------------


def circumstances(core: Core, kind: str) -> tuple[Any, ...]:
    """Return what must change so that something is asked for at once again."""
    revision = core.wish.metadata.revision if core.wish is not None else 0
    if kind == "start":
        return (revision, core.missing, core.name_taken, core.place.hypervisors)
    return (revision, core.key.incarnation, core.not_answering)


def asked(core: Core, wanted: Wanted, now: Now, answer: str, *, barred: bool) -> Ask:
    """Return what is remembered of a wish that was not fulfilled."""
    before = core.asks.get(wanted.key)
    count = before.count + 1 if before is not None else 1
    next_at = now.at + PAUSES_S[min(count, len(PAUSES_S)) - 1]
    return Ask(count, next_at, answer, circumstances(core, wanted.kind), barred)


def may_ask(core: Core, wanted: Wanted, now: Now) -> float:
    """Return 0 when it is time to ask for a wish, else that time; infinity: when something has changed."""
    ask = core.asks.get(wanted.key)
    if ask is None or ask.circumstances != circumstances(core, wanted.kind):
        return 0.0
    if ask.barred:
        return float("inf")
    return 0.0 if now.at >= ask.next_at else ask.next_at


# --- what is due -------------------------------------------------------------------------------------------


def due(core: Core, now: Now) -> Wanted | Wait | None:
    """Return what to begin now, or when to look again."""
    later = float("inf")
    for wanted in _wishes(core, now):
        at = wanted.until if isinstance(wanted, Wait) else may_ask(core, wanted, now)
        if at == 0.0 and isinstance(wanted, Wanted):
            return wanted
        later = min(later, at)
    return Wait(later) if later < float("inf") else None


def _wishes(core: Core, now: Now) -> Iterator[Wanted | Wait]:
    there = state(core)
    if there is State.DEFINED:
        yield from _starts(core, now)
    elif there in LIVE and core.run is not None:
        yield from _silence(core, now)
        if core.wish is not None and core.wish.spec.run is RunPolicy.HALTED:
            patience = core.wish.spec.shutdown_timeout_s
            yield Wanted("shutdown", Arguments(timeout_s=patience), "shutdown:")
            return
        yield from _providers(core, core.run)
        yield from _changes(core, core.run)


def wants_to_run(core: Core) -> bool:
    """Say whether the document wants a domain without a run to have one."""
    kept, wish = core.kept, core.wish
    if wish is None or kept.failed or core.place.phase != "open":
        return False
    if wish.spec.run is RunPolicy.ALWAYS:
        return not kept.stopped
    first = kept.boot != core.place.session and core.uuid in core.place.booted
    return wish.spec.run is RunPolicy.ON_BOOT and first


def _starts(core: Core, now: Now) -> Iterator[Wanted | Wait]:
    if not wants_to_run(core) or core.missing:
        return
    if now.at < core.hold_starts_until:
        yield Wait(core.hold_starts_until)
        return
    kept = core.kept
    yield Wanted("start", Arguments(crashes=kept.crashes, reboots=kept.reboots), "start:")


def _silence(core: Core, now: Now) -> Iterator[Wanted | Wait]:
    """Silence is a condition; only a policy in the document makes an action of it."""
    if not core.not_answering or core.wish is None:
        return
    policy = core.wish.spec.on_silence
    if policy.action == "never":
        return
    acts_at = core.silent_at + policy.after_s
    if now.at < acts_at:
        yield Wait(acts_at)
        return
    kind = "end" if policy.action == "destroy" else "restart"
    yield Wanted(kind, Arguments(), f"{kind}:", f"it has not answered for {policy.after_s:g} s")


def _providers(core: Core, run: SeenRun) -> Iterator[Wanted]:
    """A provider that came back is connected to again; one that is gone for good is let go."""
    for (born, name), link in core.links.items():
        if born != run.born or link.status is None or not has_device(core, name):
            continue
        why = link.status.reason or f"device {name} is {link.state}"
        if link.state is ConnectionState.BROKEN:
            arguments = Arguments(device=name, force=True)
            yield Wanted("unplug", arguments, f"broken:{name}", why)
        elif link.state is ConnectionState.READY and core.attached.get(name) != link.generation:
            yield Wanted("reconnect", Arguments(device=name), f"reconnect:{name}", why)


def _changes(core: Core, run: SeenRun) -> Iterator[Wanted]:
    for found in differences(core):
        if found.kind == "unplug" and run.activity is not Activity.RUNS:
            continue  # a guest that stands does not hear it
        if found.kind:
            arguments = Arguments(device=found.device, amount=found.amount)
            yield Wanted(found.kind, arguments, found.key)


# --- differences -------------------------------------------------------------------------------------------


def pending(core: Core) -> tuple[PendingChange, ...]:
    """Return what the run does not have yet, and what brings it."""
    if core.run is None or state(core) not in LIVE:
        return ()
    return tuple(_as_pending(core, found) for found in differences(core))


def _as_pending(core: Core, found: Difference) -> PendingChange:
    if not found.kind:
        return PendingChange(path=found.path, old=found.old, new=found.new)
    ask = core.asks.get(found.key)
    same = ask is not None and ask.circumstances == circumstances(core, found.kind)
    applies: Any = "in-progress" if ask is None else "refused" if ask.barred and same else "asked"
    reason = ask.answer if ask is not None else ""
    stands = found.kind == "unplug" and core.run is not None and core.run.activity is not Activity.RUNS
    if stands:
        applies, reason = "asked", reason or "the guest is asked when it runs"
    return PendingChange(path=found.path, old=found.old, new=found.new, applies=applies, reason=reason)


def differences(core: Core) -> tuple[Difference, ...]:
    """Return what the run has otherwise than the document says. Equal specs cost one comparison."""
    run, wish = core.run, core.wish
    if run is None or run.spec is None or wish is None or run.spec == wish.spec:
        return ()
    return tuple(_compare(run.spec, wish.spec, run.features))


def _compare(running: DomainSpec, wanted: DomainSpec, features: frozenset[Feature]) -> Iterator[Difference]:
    live = [*_memory(running, wanted, features), *_cpus(running, wanted, features)]
    yield from live
    taken = {found.path for found in live}
    for name in _DEVICES:
        yield from _devices(name, running, wanted, features)
    for path, old, new in _fields_that_differ(running, wanted):
        if path not in taken:
            yield Difference(path, old, new)


def _memory(running: DomainSpec, wanted: DomainSpec, features: frozenset[Feature]) -> Iterator[Difference]:
    size, now = wanted.memory.size_mib, running.memory.size_mib
    if size != now and size <= (running.memory.max_mib or now) and Feature.BALLOON in features:
        yield Difference("spec.memory.size_mib", str(now), str(size), "resize", "memory", size)


def _cpus(running: DomainSpec, wanted: DomainSpec, features: frozenset[Feature]) -> Iterator[Difference]:
    count, now = wanted.cpu.count, running.cpu.count
    needed = Feature.CPU_PLUG if count > now else Feature.CPU_UNPLUG
    if count != now and count <= (running.cpu.max or now) and needed in features:
        yield Difference("spec.cpu.count", str(now), str(count), "resize", "cpus", count)


def _devices(
    name: str, running: DomainSpec, wanted: DomainSpec, features: frozenset[Feature]
) -> Iterator[Difference]:
    before = {device.id: device for device in getattr(running, name)}
    after = {device.id: device for device in getattr(wanted, name)}
    can = name in _PLUGS and _PLUGS[name] in features
    for device in before.keys() - after.keys():
        yield Difference(f"spec.{name}[{device}]", "attached", "", "unplug" if can else "", device)
    for device in after:
        if device not in before:
            kind = "plug" if can and _is_pluggable(after[device]) else ""
            yield Difference(f"spec.{name}[{device}]", "", "attached", kind, device)


def _is_pluggable(device: object) -> bool:
    """Only buses that can take a device while the guest runs."""
    if isinstance(device, Disk):
        return device.device == "disk" and device.bus in ("virtio", "scsi", "usb", "xen")
    return isinstance(device, Nic)


def _fields_that_differ(running: DomainSpec, wanted: DomainSpec) -> Iterator[tuple[str, str, str]]:
    """Yield the fields that are neither in force at once nor a device that came or went."""
    for name in DomainSpec.__struct_fields__:
        old, new = getattr(running, name), getattr(wanted, name)
        if name in AT_ONCE or old == new:
            continue
        if name not in _DEVICES:
            yield from _fields(f"spec.{name}", old, new)
            continue
        before = {device.id: device for device in old}
        for device in new:
            if device.id in before and before[device.id] != device:
                yield from _fields(f"spec.{name}[{device.id}]", before[device.id], device)


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
