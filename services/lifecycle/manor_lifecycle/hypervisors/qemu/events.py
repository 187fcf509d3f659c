"""What QEMU's words mean: one table over all its run states and one over all its events. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from manor_lifecycle.hypervisors.qemu.record import Trouble
from manor_lifecycle.hypervisors.seen import Activity, Cause, CauseWord, EndReason, IoStatus


@dataclass(frozen=True)
class Over:
    """The guest ended; the process is still there, stopped."""

    reason: EndReason
    detail: str = ""


@dataclass(frozen=True)
class Running:
    """The virtual CPUs run."""


@dataclass(frozen=True)
class UnplugAnswered:
    """The guest let a device go, asked or not, or said no."""

    name: str
    gone: bool


@dataclass(frozen=True)
class Ballooned:
    """The guest's memory is now this."""

    memory_mib: int


@dataclass(frozen=True)
class Answered:
    """The guest has seen the request to shut down."""


Meaning = Over | Running | UnplugAnswered | Ballooned | Trouble | Answered

# All run states of QEMU. What is not here stands, and its word is told: a newer QEMU knows it.
STATES: Final[Mapping[str, tuple[Activity, CauseWord]]] = MappingProxyType(
    {
        "running": (Activity.RUNS, CauseWord.NONE),
        "suspended": (Activity.SLEEPS, CauseWord.NONE),
        "prelaunch": (Activity.STANDS, CauseWord.PRELAUNCH),
        "paused": (Activity.STANDS, CauseWord.PERSON),
        "io-error": (Activity.STANDS, CauseWord.IO_ERROR),
        "debug": (Activity.STANDS, CauseWord.UNKNOWN),
        "inmigrate": (Activity.STANDS, CauseWord.INCOMING),
        "restore-vm": (Activity.STANDS, CauseWord.INCOMING),
        "save-vm": (Activity.STANDS, CauseWord.SAVING),
        "postmigrate": (Activity.STANDS, CauseWord.SAVING),  # `save` ends so
        "finish-migrate": (Activity.STANDS, CauseWord.MIGRATION),
        "colo": (Activity.STANDS, CauseWord.MIGRATION),
        "shutdown": (Activity.ENDED, CauseWord.NONE),
        "guest-panicked": (Activity.ENDED, CauseWord.PANIC),
        "watchdog": (Activity.ENDED, CauseWord.WATCHDOG),
        "internal-error": (Activity.ENDED, CauseWord.INTERNAL_ERROR),
    }
)
ENDS: Final[Mapping[CauseWord, EndReason]] = MappingProxyType(
    {
        CauseWord.PANIC: EndReason.CRASH,
        CauseWord.WATCHDOG: EndReason.WATCHDOG,
        CauseWord.INTERNAL_ERROR: EndReason.DEVICE_MODEL,
    }
)
SHUTDOWNS: Final[Mapping[str, EndReason]] = MappingProxyType(
    {
        "guest-shutdown": EndReason.POWEROFF,
        "guest-reset": EndReason.REBOOT,
        "guest-panic": EndReason.CRASH,
        "subsystem-reset": EndReason.REBOOT,
        "host-qmp-system-reset": EndReason.REBOOT,
        "host-qmp-quit": EndReason.KILLED,  # not by us: whoever destroys a guest does not listen to it
        "host-signal": EndReason.KILLED,
        "host-ui": EndReason.KILLED,
        "host-error": EndReason.DEVICE_MODEL,
    }
)
KILL: Final = 9
ENDING_SIGNALS: Final = frozenset({1, 2, 15})  # hang-up, interrupt, terminate
# QEMU's log tells each request to power off with the number of its cause, and of no reboot.
SHUTDOWN_TRACE: Final = "qemu_system_shutdown_request"
POWERED_OFF: Final = f"{SHUTDOWN_TRACE} reason=6"  # guest-shutdown
TOLD_TO_END: Final = re.compile(rf"terminating on signal|{SHUTDOWN_TRACE} reason=2\b")  # host-qmp-quit

Content = Mapping[str, Any]


def _panicked(content: Content) -> Meaning:
    said = content.get("info") or {}
    detail = " ".join(["the guest's kernel panicked", *(f"{name}={said[name]}" for name in sorted(said))])
    return Trouble("", detail) if content.get("action") == "run" else Over(EndReason.CRASH, detail)


def _unfed(content: Content) -> Meaning:
    detail = "the guest did not feed its watchdog"
    return Trouble("", detail) if content.get("action") == "none" else Over(EndReason.WATCHDOG, detail)


def _disk_failed(content: Content) -> Meaning | None:
    if content.get("action") == "ignore":
        return None  # it is set to: nobody is told of anything
    detail = f"{content.get('operation')}: {content.get('reason', 'error')}"
    io: IoStatus = "nospace" if content.get("nospace") else "failed"
    return Trouble(_node(content), detail, io, stays=content.get("action") != "stop")


def _corrupted(content: Content) -> Meaning:
    said = str(content.get("msg", ""))
    harm = "the image is corrupt" if content.get("fatal") else "the image has an error that can be lived with"
    return Trouble(_node(content), f"{harm}: {said}")


def _node(content: Content) -> str:
    path = str(content.get("qom-path", "")).split("/")
    front = next((part for part in path if part.startswith("dev")), "")
    return front or str(content.get("node-name") or content.get("device", ""))


def _seen(content: Content) -> None:
    """A look shows what it is about."""


def _unplug(*, gone: bool) -> Callable[[Content], Meaning | None]:
    return lambda content: UnplugAnswered(content["device"], gone) if "device" in content else None


USED: Final[Mapping[str, Callable[[Content], Meaning | None]]] = {
    "SHUTDOWN": lambda said: Over(SHUTDOWNS[said["reason"]]) if said.get("reason") in SHUTDOWNS else None,
    "GUEST_PANICKED": _panicked,
    "GUEST_CRASHLOADED": lambda said: Trouble("", "the guest's kernel crashed, and another writes its dump"),
    "GUEST_PVSHUTDOWN": lambda said: Answered(),
    "WATCHDOG": _unfed,
    "STOP": _seen,
    "RESUME": lambda said: Running(),
    "SUSPEND": _seen,
    "WAKEUP": _seen,
    "DEVICE_DELETED": _unplug(gone=True),
    "DEVICE_UNPLUG_GUEST_ERROR": _unplug(gone=False),
    "DEVICE_TRAY_MOVED": _seen,
    "ACPI_DEVICE_OST": _seen,
    "BALLOON_CHANGE": lambda said: Ballooned(said["actual"] >> 20),
    "BLOCK_IO_ERROR": _disk_failed,
    "BLOCK_IMAGE_CORRUPTED": _corrupted,
    "MEMORY_FAILURE": lambda said: Trouble(
        "", f"memory of the node failed under the {said.get('recipient')}: {said.get('action')}"
    ),
}
_NOT_BUILT: Final = "nothing of this is ever put into a machine or asked of it"
_ASKED: Final = "whoever began it asks for its progress and its end"
_SCREEN: Final = "visitors of a screen change nothing about a domain"
IGNORED: Final[Mapping[str, str]] = {
    "POWERDOWN": "an echo of our own request, whatever the guest makes of it",
    "RESET": "with reboot=shutdown a reset by the guest is a SHUTDOWN; this one follows a wake-up",
    "SUSPEND_DISK": "the power-off that follows is a SHUTDOWN",
    "RTC_CHANGE": "the clock of the next start follows the document",
    "VSERPORT_CHANGE": "the other end of a channel sees for itself who is there",
    "NIC_RX_FILTER_CHANGED": "the node's network takes every address of a card",
    "DUMP_COMPLETED": _ASKED,
    "MIGRATION": _ASKED,
    "MIGRATION_PASS": _ASKED,
    "JOB_STATUS_CHANGE": _ASKED,
    "BLOCK_EXPORT_DELETED": _NOT_BUILT,
    "BLOCK_JOB_CANCELLED": _NOT_BUILT,
    "BLOCK_JOB_COMPLETED": _NOT_BUILT,
    "BLOCK_JOB_ERROR": _NOT_BUILT,
    "BLOCK_JOB_PENDING": _NOT_BUILT,
    "BLOCK_JOB_READY": _NOT_BUILT,
    "BLOCK_WRITE_THRESHOLD": _NOT_BUILT,
    "COLO_EXIT": _NOT_BUILT,
    "CPU_POLARIZATION_CHANGE": _NOT_BUILT,
    "FAILOVER_NEGOTIATED": _NOT_BUILT,
    "HV_BALLOON_STATUS_REPORT": _NOT_BUILT,
    "MEMORY_DEVICE_SIZE_CHANGE": _NOT_BUILT,
    "MEM_UNPLUG_ERROR": _NOT_BUILT,
    "NETDEV_STREAM_CONNECTED": _NOT_BUILT,
    "NETDEV_STREAM_DISCONNECTED": _NOT_BUILT,
    "NETDEV_VHOST_USER_CONNECTED": _NOT_BUILT,
    "NETDEV_VHOST_USER_DISCONNECTED": _NOT_BUILT,
    "PR_MANAGER_STATUS_CHANGED": _NOT_BUILT,
    "QUORUM_FAILURE": _NOT_BUILT,
    "QUORUM_REPORT_BAD": _NOT_BUILT,
    "RDMA_GID_STATUS_CHANGED": _NOT_BUILT,
    "UNPLUG_PRIMARY": _NOT_BUILT,
    "VFIO_MIGRATION": _NOT_BUILT,
    "VFU_CLIENT_HANGUP": _NOT_BUILT,
    "SPICE_CONNECTED": _SCREEN,
    "SPICE_DISCONNECTED": _SCREEN,
    "SPICE_INITIALIZED": _SCREEN,
    "SPICE_MIGRATE_COMPLETED": _SCREEN,
    "VNC_CONNECTED": _SCREEN,
    "VNC_DISCONNECTED": _SCREEN,
    "VNC_INITIALIZED": _SCREEN,
}


def state(status: str) -> tuple[Activity, Cause]:
    """Return what a run state of QEMU means."""
    activity, word = STATES.get(status, (Activity.STANDS, CauseWord.UNKNOWN))
    return activity, Cause(word, detail=status if word is CauseWord.UNKNOWN else "")


def with_troubles(cause: Cause, troubles: Iterable[Trouble], io: Mapping[str, IoStatus]) -> Cause:
    """Return the cause with the disk that it is about, or with what a guest suffers from that goes on."""
    if cause.word not in (CauseWord.IO_ERROR, CauseWord.NONE):
        return cause
    told = sorted(troubles, key=lambda one: not one.device)
    if not told and (failed := next((device for device, how in io.items() if how != "ok"), "")):
        told = [Trouble(failed, "", io[failed])]
    if not told:
        return cause
    if not told[0].device:
        return Cause(CauseWord.UNKNOWN, detail=told[0].detail)
    word = CauseWord.NO_SPACE if told[0].io == "nospace" else CauseWord.IO_ERROR
    return Cause(word, told[0].device, told[0].detail)


def meaning(event: Mapping[str, Any]) -> Meaning | None:
    """Return what an event of the monitor says, or None when it says nothing to us."""
    used = USED.get(event["event"])
    return used(event.get("data", {})) if used else None


def known(name: str) -> bool:
    """Say whether an event is in the tables."""
    return name in USED or name in IGNORED


def ended(status: str, words: str) -> Over:
    """Return why a guest ended, from the run state it ended in, and from its log."""
    _, cause = state(status)
    if cause.word in ENDS:
        return Over(ENDS[cause.word], f"QEMU's run state is {status}")
    return Over(EndReason.POWEROFF if POWERED_OFF in words else EndReason.REBOOT)


def process_ended(status: int | None, words: str, *, starved: bool = False) -> Over:
    """Return why a process is no more. `status`: as of waitid, negative for a signal; None if not told.

    `words`: the end of its log. `starved`: the kernel ended some process for want of memory just then.
    """
    how = "" if status is None else f" with status {status}"
    last = words.rpartition("\n")[2]
    if POWERED_OFF in words:
        return Over(EndReason.POWEROFF, "seen afterwards")
    if TOLD_TO_END.search(words) or (status is not None and -status in ENDING_SIGNALS):
        return Over(EndReason.KILLED, f"somebody ended the process{how} {last}".strip())
    if starved and status in (None, -KILL):
        return Over(EndReason.OUT_OF_MEMORY, "the kernel ended the process for want of memory")
    if status == -KILL:
        return Over(EndReason.KILLED, f"somebody killed the process{how}")
    return Over(EndReason.DEVICE_MODEL, f"the process ended{how} {last}".strip())
