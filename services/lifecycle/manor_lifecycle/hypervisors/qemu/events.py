"""What QEMU's words mean. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from manor_lifecycle.hypervisors import Activity, Cause, CauseWord, EndReason


@dataclass(frozen=True)
class Over:
    """The guest ended; the process is still there, stopped."""

    reason: EndReason
    detail: str = ""


@dataclass(frozen=True)
class Halted:
    """The virtual CPUs stopped; `status` must be asked for why."""


@dataclass(frozen=True)
class Running:
    """The virtual CPUs run."""


@dataclass(frozen=True)
class FrontEndGone:
    """The guest let a device go."""

    name: str


@dataclass(frozen=True)
class UnplugRefused:
    """The guest said no to an unplug."""

    name: str


@dataclass(frozen=True)
class Ballooned:
    """The guest's memory is now this."""

    memory_mib: int


@dataclass(frozen=True)
class IoFailed:
    """A request failed and stops the guest; said before it halts."""

    detail: str


Meaning = Over | Halted | Running | FrontEndGone | UnplugRefused | Ballooned | IoFailed

SHUTDOWNS: Final[Mapping[str, EndReason]] = MappingProxyType(
    {
        "guest-shutdown": EndReason.POWEROFF,
        "guest-reset": EndReason.REBOOT,
        "guest-panic": EndReason.CRASH,
        "subsystem-reset": EndReason.REBOOT,
    }
)
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


def state(status: str) -> tuple[Activity, Cause]:
    """Return what a run state of QEMU means."""
    activity, word = STATES.get(status, (Activity.STANDS, CauseWord.UNKNOWN))
    return activity, Cause(word, detail=status if word is CauseWord.UNKNOWN else "")


def meaning(event: Mapping[str, Any]) -> Meaning | None:
    """Return what an event of the monitor says, or None when it says nothing to us."""
    content: Mapping[str, Any] = event.get("data", {})
    match event["event"]:
        case "SHUTDOWN" if content.get("reason") in SHUTDOWNS:
            return Over(SHUTDOWNS[content["reason"]])
        case "GUEST_PANICKED" if content.get("action") != "run":
            return Over(EndReason.CRASH, "the guest's kernel panicked")
        case "WATCHDOG" if content.get("action") != "none":
            return Over(EndReason.WATCHDOG, "the guest did not feed its watchdog")
        case "STOP":
            return Halted()
        case "RESUME":
            return Running()
        case "DEVICE_DELETED" if "device" in content:
            return FrontEndGone(content["device"])
        case "DEVICE_UNPLUG_GUEST_ERROR" if "device" in content:
            return UnplugRefused(content["device"])
        case "BALLOON_CHANGE":
            return Ballooned(content["actual"] >> 20)
        case "BLOCK_IO_ERROR" if content.get("action") == "stop":
            return IoFailed(f"{content.get('operation')}: {content.get('reason', 'error')}")
    return None


def ended(status: str, log: str, trace: str) -> Over | None:
    """Return why a guest ended while nobody listened, from its run state and its log; None: it did not."""
    activity, cause = state(status)
    if activity is not Activity.ENDED:
        return None
    if cause.word in ENDS:
        return Over(ENDS[cause.word], f"QEMU's run state is {status}")
    off = f"{trace} reason=" in log  # a power-off leaves a line in the log, a reboot does not
    return Over(EndReason.POWEROFF if off else EndReason.REBOOT, "seen afterwards")
