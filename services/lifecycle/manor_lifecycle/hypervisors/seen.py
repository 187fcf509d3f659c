"""What a hypervisor says is there: the values that `look` answers. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import msgspec

from manor_bus.wire.messages.documents import Channel, Disk, DomainSpec, Nic

Device = Disk | Nic | Channel
IoStatus = Literal["ok", "failed", "nospace"]
LeftoverKind = Literal["variables", "console", "log", "record", "note"]


class Feature(StrEnum):
    """What can be done with a run beyond create, resume, pause, shutdown and destroy."""

    SAVE = "save"  # and restore
    BALLOON = "balloon"
    CPU_PLUG = "cpu-plug"
    CPU_UNPLUG = "cpu-unplug"
    DISK_PLUG = "disk-plug"
    NIC_PLUG = "nic-plug"
    RESET = "reset"
    COREDUMP = "coredump"
    CONSOLE = "console"
    SCREENSHOT = "screenshot"
    NMI = "nmi"
    RENAME = "rename"


class EndReason(StrEnum):
    """Why a run ended without `destroy`."""

    POWEROFF = "poweroff"
    REBOOT = "reboot"
    CRASH = "crash"  # the guest reported a panic or triple-faulted
    WATCHDOG = "watchdog"
    DEVICE_MODEL = "device-model"  # the process died without saying why
    KILLED = "killed"  # somebody on the node ended the process
    OUT_OF_MEMORY = "out-of-memory"  # the kernel ended it because the node had no memory left
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one domain. Messages about an older incarnation are about something that is no more."""

    uuid: str
    incarnation: int


class Activity(StrEnum):
    """What a run does."""

    RUNS = "runs"
    STANDS = "stands"  # the virtual CPUs do nothing; the cause says why
    SLEEPS = "sleeps"  # the guest suspended itself to memory; `resume` wakes it
    ENDED = "ended"  # its remains are kept until `destroy`


class CauseWord(StrEnum):
    """Why a run stands or ended, and what one that goes on suffers from."""

    NONE = "none"
    PERSON = "person"
    IO_ERROR = "io-error"
    NO_SPACE = "no-space"
    WATCHDOG = "watchdog"
    PANIC = "panic"
    INTERNAL_ERROR = "internal-error"
    SAVING = "saving"
    INCOMING = "incoming"
    MIGRATION = "migration"
    PRELAUNCH = "prelaunch"  # made, and never resumed
    UNKNOWN = "unknown"  # `detail` is the hypervisor's own word


@dataclass(frozen=True, slots=True)
class Cause:
    """A word, the id of the device it is about, and more for people."""

    word: CauseWord = CauseWord.NONE
    device: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class SeenDevice:
    """A device that the guest has now. `io`: `failed` and `nospace` are requests that did not get through."""

    id: str
    io: IoStatus = "ok"


@dataclass(frozen=True, slots=True)
class SeenRun:
    """One run as it is now.

    `born` is the incarnation that it was made under: a reset goes on under a new incarnation with the links
    of the old one. `spec` is what it has now, kept beside it and changed before each live change is made;
    None for what is not ours. `cpus` and `memory_mib` are what the guest really has. `started` is in seconds
    since 1970; `uptime_s` counts on a clock that nobody sets. `silent_for_s`: since it last answered.
    """

    run: Run
    born: int
    name: str
    activity: Activity
    cause: Cause = Cause()
    spec: DomainSpec | None = None
    devices: tuple[SeenDevice, ...] = ()
    cpus: int = 0
    memory_mib: int = 0
    started: float = 0.0
    uptime_s: float = 0.0
    features: frozenset[Feature] = frozenset()
    ours: bool = True
    end: EndReason | None = None  # when it ended
    end_detail: str = ""
    silent_for_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LastEnd:
    """How the last run ended, when nothing is kept of it."""

    incarnation: int
    reason: EndReason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class DiskIdentity:
    """Which container a disk had when its guest was saved, and when that was last written to."""

    id: str
    path: str
    device: int
    inode: int
    size: int
    modified_ns: int = 0  # 0: a device, whose node says nothing about its content


@dataclass(frozen=True, slots=True)
class SavedImage:
    """What a saved guest is: an id of its own, the run and spec it was, the containers that belong to it."""

    id: str
    uuid: str
    incarnation: int
    spec: DomainSpec
    disks: tuple[DiskIdentity, ...] = ()


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something of a domain that stays on the node when its run is gone."""

    kind: LeftoverKind
    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What is there under a uuid. `last` is the last incarnation that this adapter began to make, ever.

    `unknown` says why the hypervisor could not tell; `run` is then the last that was known of it.
    """

    uuid: str
    last: int = 0
    run: SeenRun | None = None
    ended: LastEnd | None = None
    unknown: str = ""


def devices_of(spec: DomainSpec) -> tuple[Device, ...]:
    """Return what can be attached and detached one by one."""
    return (*spec.disks, *spec.nics, *spec.channels)


def with_devices(spec: DomainSpec, devices: Iterable[Device]) -> DomainSpec:
    """Return a spec that has these and no others."""
    there = tuple(devices)
    return msgspec.structs.replace(
        spec,
        disks=tuple(one for one in there if isinstance(one, Disk)),
        nics=tuple(one for one in there if isinstance(one, Nic)),
        channels=tuple(one for one in there if isinstance(one, Channel)),
    )


def resized(spec: DomainSpec, memory_mib: int, cpus: int) -> DomainSpec:
    """Return a spec of that size."""
    return msgspec.structs.replace(
        spec,
        cpu=msgspec.structs.replace(spec.cpu, count=cpus),
        memory=msgspec.structs.replace(spec.memory, size_mib=memory_mib),
    )


def differences(saved: Iterable[DiskIdentity], now: Iterable[DiskIdentity]) -> tuple[str, ...]:
    """Say of each container what is different from when the guest was saved; empty when nothing is."""
    today = {one.id: one for one in now}
    found = []
    for before in saved:
        there = today.get(before.id)
        if there is None or before == there:
            continue
        if (before.device, before.inode) != (there.device, there.inode):
            found.append(f"disk {before.id}: {there.path} is another file than {before.path} was")
        elif before.size != there.size:
            found.append(f"disk {before.id}: {there.path} had {before.size} bytes and has {there.size}")
        elif before.modified_ns != there.modified_ns:
            found.append(f"disk {before.id}: {there.path} was written to")
    return tuple(found)
