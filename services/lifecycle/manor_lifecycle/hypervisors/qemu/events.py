"""What QEMU's words mean. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from manor_lifecycle.hypervisors import EndReason


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
# Run states in which the run is over (but `shutdown`, which has several causes), and why.
OVER: Final[Mapping[str, EndReason]] = MappingProxyType(
    {
        "guest-panicked": EndReason.CRASH,
        "watchdog": EndReason.WATCHDOG,
        "internal-error": EndReason.DEVICE_MODEL,
    }
)
STOPPED: Final[Mapping[str, str]] = MappingProxyType({"io-error": "a disk failed"})


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
    if status == "shutdown":  # a power-off leaves a line in the log, a reboot does not
        off = f"{trace} reason=" in log
        return Over(EndReason.POWEROFF if off else EndReason.REBOOT, "seen afterwards")
    if status in OVER:
        return Over(OVER[status], f"QEMU's run state is {status}")
    return None
