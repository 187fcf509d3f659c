"""What the fake hypervisor keeps of a guest, and how that looks from outside. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from manor_bus.wire.messages.documents import DomainSpec
from manor_lifecycle.hypervisors.seen import (
    Activity,
    Cause,
    CauseWord,
    Device,
    EndReason,
    Feature,
    IoStatus,
    LastEnd,
    Run,
    Seen,
    SeenDevice,
    SeenRun,
    devices_of,
    resized,
    with_devices,
)

FEATURES: Final = frozenset(Feature)  # everything is possible


class Guest(msgspec.Struct, omit_defaults=True):
    """What the file of a domain holds. `devices`: id -> generation of the connected back end.

    `gone`: the run is over and nothing is kept of it but its number, and how it ended. `cause` and
    `silent_since` are set by tests; `io`: device -> what became of its requests.
    """

    uuid: str
    name: str
    incarnation: int
    activity: Activity
    started: float
    cpus: int = 1
    memory_mib: int = 256
    ours: bool = True
    ended: EndReason | None = None
    devices: dict[str, int] = {}
    told: dict[str, Any] = {}
    born: int = 0
    boot: str = ""
    up_since: float = 0.0  # on the clock of that boot
    lasted_s: float = 0.0
    spec: DomainSpec | None = None
    detail: str = ""
    gone: bool = False
    cause: CauseWord = CauseWord.NONE
    io: dict[str, IoStatus] = {}
    silent_since: float = 0.0  # 0: it answers

    def attach(self, device: Device, generation: int) -> None:
        """It has a device, or a new back end of one."""
        self.detach(device.id)
        self.devices[device.id] = generation
        if self.spec is not None:
            self.spec = with_devices(self.spec, [*devices_of(self.spec), device])

    def detach(self, device: str) -> None:
        """It has a device no more."""
        self.devices.pop(device, None)
        if self.spec is not None:
            self.spec = with_devices(self.spec, [one for one in devices_of(self.spec) if one.id != device])

    def go(self) -> bool:
        """It runs; says whether it did not before."""
        began = self.activity is Activity.STANDS
        self.activity, self.cause, self.io = Activity.RUNS, CauseWord.NONE, {}
        return began

    def stand(self, why: CauseWord) -> None:
        """It stands."""
        self.activity, self.cause = Activity.STANDS, why

    def resize(self, memory_mib: int, cpus: int) -> None:
        """It has so much now."""
        self.memory_mib, self.cpus = memory_mib, cpus
        if self.spec is not None:
            self.spec = resized(self.spec, memory_mib, cpus)


def seen(uuid: str, guest: Guest | None, now: float, unknown: str = "") -> Seen:
    """Return what `look` says about a domain."""
    if guest is None:
        return Seen(uuid, unknown=unknown)
    if guest.gone:
        ended = LastEnd(guest.incarnation, guest.ended, guest.detail) if guest.ended else None
        return Seen(uuid, guest.incarnation, None, ended, unknown)
    return Seen(uuid, guest.incarnation if guest.ours else 0, _run(guest, now), unknown=unknown)


def _run(guest: Guest, now: float) -> SeenRun:
    fresh = CauseWord.PRELAUNCH if guest.activity is Activity.STANDS else CauseWord.NONE
    failed = next((device for device, io in guest.io.items() if io != "ok"), "")
    return SeenRun(
        run=Run(guest.uuid, guest.incarnation if guest.ours else 0),
        born=guest.born or guest.incarnation,
        name=guest.name,
        activity=guest.activity,
        cause=Cause(fresh if guest.cause is CauseWord.NONE else guest.cause, failed),
        spec=guest.spec,
        devices=tuple(SeenDevice(one, guest.io.get(one, "ok")) for one in guest.devices),
        cpus=guest.cpus,
        memory_mib=guest.memory_mib,
        started=guest.started,
        uptime_s=now - guest.up_since if guest.ended is None else guest.lasted_s,
        features=FEATURES,
        ours=guest.ours,
        end=guest.ended,
        end_detail=guest.detail,
        silent_for_s=max(0.0, now - guest.silent_since) if guest.silent_since else 0.0,
    )
