"""What becomes of a domain whose run ended by itself: the document's policies, the run policy and the loop
guard (rules L8 to L10). Pure.

A short run is one that ended within SHORT_RUN_S of its start. CRASHES_MAX short runs in succession that
crashed are a crash loop: an operator must look. Short runs that rebooted are restarted, each later than the
one before. The counters live in the ownership record, so no restart of a service forgets them.
See docs/decisions for why the guard counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from manor_bus.wire.messages.documents import DomainSpec, OnEnd, RunPolicy
from manor_lifecycle.hypervisors import EndReason
from manor_lifecycle.machine import Trigger

SHORT_RUN_S: Final = 120.0
CRASHES_MAX: Final = 3
REBOOT_DELAY_S: Final = 15
REBOOT_DELAY_S_MAX: Final = 900

CRASHES: Final = frozenset({EndReason.CRASH, EndReason.WATCHDOG, EndReason.DEVICE_MODEL})
ENDED_FROM_OUTSIDE: Final = frozenset({EndReason.KILLED, EndReason.OUT_OF_MEMORY})
_FIELDS: Final = MappingProxyType(
    {
        EndReason.POWEROFF: "on_poweroff",
        EndReason.REBOOT: "on_reboot",
        EndReason.CRASH: "on_crash",
        EndReason.WATCHDOG: "on_watchdog",
        EndReason.DEVICE_MODEL: "on_device_model_crash",
        EndReason.KILLED: "on_device_model_crash",
        EndReason.OUT_OF_MEMORY: "on_device_model_crash",
    }
)
_RESTARTS: Final = frozenset({OnEnd.RESTART, OnEnd.COREDUMP_RESTART})
_DUMPS: Final = frozenset({OnEnd.COREDUMP_DESTROY, OnEnd.COREDUMP_RESTART})


@dataclass(frozen=True, slots=True)
class Ending:
    """What to do. `reason` is for people; the counters go into the record of the next run."""

    trigger: Trigger
    reason: str
    dump: bool = False
    delay_s: int = 0
    crashes: int = 0
    reboots: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """The run that ended: for how long it ran, what is left, and the counters before it."""

    reason: EndReason
    detail: str
    ran_s: float
    kept: bool
    stopped: bool
    crashes: int
    reboots: int


def decide(run: Run, spec: DomainSpec | None) -> Ending:
    """Return what becomes of the domain. Without a document nothing is restarted, and remains are kept."""
    said = f"{run.reason}: {run.detail}" if run.detail else str(run.reason)
    if spec is None:
        return Ending(Trigger.PRESERVE if run.kept else Trigger.END, said)
    policy = OnEnd.PRESERVE if run.reason is EndReason.UNKNOWN else getattr(spec, _FIELDS[run.reason])
    if policy is OnEnd.PRESERVE:
        return Ending(Trigger.PRESERVE, said)
    if policy is OnEnd.RENAME_RESTART:
        note = "rename-restart needs a hypervisor that keeps the remains beside a new run; preserved instead"
        return Ending(Trigger.PRESERVE, f"{said}; {note}")
    dump = policy in _DUMPS
    if dump and not run.kept:
        said, dump = f"{said}; no core dump: nothing of the run is left", False
    always = spec.run is RunPolicy.ALWAYS or (spec.run is RunPolicy.ON_BOOT and run.reason in CRASHES)
    wanted = policy in _RESTARTS or always
    if not wanted or run.stopped or spec.run is RunPolicy.HALTED:
        return Ending(Trigger.END, said, dump=dump)
    return _guarded(run, said, dump)


def _guarded(run: Run, said: str, dump: bool) -> Ending:
    short = run.ran_s < SHORT_RUN_S
    if run.reason in ENDED_FROM_OUTSIDE:  # it says nothing about the guest, so it counts for nothing
        return Ending(Trigger.RESTART, said, dump=dump, crashes=run.crashes, reboots=run.reboots)
    if run.reason in CRASHES:
        crashes = run.crashes + 1 if short else 0
        if crashes >= CRASHES_MAX:
            loop = (
                f"CRASH_LOOP: {crashes} runs in succession ended within {SHORT_RUN_S:.0f} s; the last: {said}"
            )
            return Ending(Trigger.GIVE_UP, loop, dump=dump, crashes=crashes)
        return Ending(Trigger.RESTART, said, dump=dump, crashes=crashes, reboots=run.reboots)
    reboots = run.reboots + 1 if short else 0
    delay_s = min(REBOOT_DELAY_S * 2 ** min(reboots - 2, 16), REBOOT_DELAY_S_MAX) if reboots > 1 else 0
    return Ending(Trigger.RESTART, said, dump=dump, delay_s=delay_s, crashes=0, reboots=reboots)
