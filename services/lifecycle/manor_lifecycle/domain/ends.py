"""What becomes of a domain whose run ended by itself: the document's policies, the run policy and the loop
guard (rules L8 to L10). Pure.

A short run is one that ended within SHORT_RUN_S of its start. CRASHES_MAX short runs in succession that
crashed are a crash loop: an operator must look. Short runs that rebooted are restarted, each later than the
one before. The counters live in the owner record, so no restart of a service forgets them.
See docs/decisions for why the guard counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from manor_bus.wire.messages.documents import DomainSpec, OnEnd, RunPolicy
from manor_lifecycle.domain.values import Arguments, Core, Now
from manor_lifecycle.hypervisors.seen import Activity, EndReason

SHORT_RUN_S: Final = 120.0
CRASHES_MAX: Final = 3
REBOOT_DELAY_S: Final = 15
REBOOT_DELAY_S_MAX: Final = 900

CRASHES: Final = frozenset({EndReason.CRASH, EndReason.WATCHDOG, EndReason.DEVICE_MODEL})
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
RESTARTS: Final = frozenset({OnEnd.RESTART, OnEnd.COREDUMP_RESTART})
_DUMPS: Final = frozenset({OnEnd.COREDUMP_DESTROY, OnEnd.COREDUMP_RESTART})


@dataclass(frozen=True, slots=True)
class End:
    """A run that ended by itself, and whether its remains are kept."""

    incarnation: int
    reason: EndReason
    detail: str = ""
    remains: bool = False

    @property
    def text(self) -> str:
        """Say it for people."""
        return f"{self.reason}: {self.detail}" if self.detail else str(self.reason)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The kind of operation to begin; empty: the remains are preserved. `said` is for people."""

    kind: str
    arguments: Arguments
    said: str


def end(core: Core) -> End | None:
    """Return the end of our last run, if it is over by itself."""
    run, last = core.run, core.seen.ended
    if run is not None:
        if run.activity is Activity.ENDED and run.ours:
            return End(run.run.incarnation, run.end or EndReason.UNKNOWN, run.end_detail, remains=True)
        return None
    if last is not None and last.incarnation >= core.vanished:
        return End(last.incarnation, last.reason, last.detail)
    return (
        End(core.vanished, EndReason.DEVICE_MODEL, "it is gone, and nobody saw how")
        if core.vanished
        else None
    )


def untreated(core: Core) -> End | None:
    """Return the end that nobody has seen to yet."""
    found = end(core)
    return found if found is not None and found.incarnation > core.treated else None


def decide(core: Core, over: End, now: Now) -> Verdict:
    """Return what becomes of the domain. Without a document nothing is restarted, and remains are kept."""
    if core.wish is None:
        return Verdict("" if over.remains else "end", Arguments(), over.text)
    if over.incarnation <= core.kept.ended:
        return Verdict("end", Arguments(), over.text)
    spec = core.wish.spec
    policy = OnEnd.PRESERVE if over.reason not in _FIELDS else getattr(spec, _FIELDS[over.reason])
    said, dump = over.text, policy in _DUMPS
    if policy in (OnEnd.PRESERVE, OnEnd.RENAME_RESTART) and over.remains:
        note = (
            "; rename-restart needs a hypervisor that keeps the remains beside a new run; preserved instead"
        )
        return Verdict("", Arguments(), said + note * (policy is OnEnd.RENAME_RESTART))
    if dump and not over.remains:
        said, dump = f"{said}; no core dump: nothing of the run is left", False
    if not _goes_on(core, spec, over, policy):
        return Verdict("end", Arguments(dump=dump), said)
    return _guarded(core, over, now, said, dump)


def _goes_on(core: Core, spec: DomainSpec, over: End, policy: OnEnd) -> bool:
    if (
        core.place.phase != "open"
        or core.kept.stopped
        or core.kept.saved
        or core.kept.failed
        or spec.run is RunPolicy.HALTED
    ):
        return False
    crashed = over.reason in CRASHES or over.reason is EndReason.OUT_OF_MEMORY
    return policy in RESTARTS or spec.run is RunPolicy.ALWAYS or (spec.run is RunPolicy.ON_BOOT and crashed)


def _guarded(core: Core, over: End, now: Now, said: str, dump: bool) -> Verdict:
    kept = core.kept
    short = core.began is not None and now.at - core.began < SHORT_RUN_S
    if over.reason in CRASHES:
        crashes = kept.crashes + 1 if short else 0
        if crashes >= CRASHES_MAX:
            within = f"{crashes} runs in succession ended within {SHORT_RUN_S:.0f} s"
            loop = f"CRASH_LOOP: {within}; the last: {said}"
            return Verdict("end", Arguments(dump=dump, failed=loop, crashes=crashes), loop)
        return Verdict("restart", Arguments(dump=dump, crashes=crashes, reboots=kept.reboots), said)
    if over.reason not in (EndReason.POWEROFF, EndReason.REBOOT):  # ended from outside: no loop
        return Verdict("restart", Arguments(dump=dump, crashes=kept.crashes, reboots=kept.reboots), said)
    reboots = kept.reboots + 1 if short else 0
    delay_s = min(REBOOT_DELAY_S * 2 ** min(reboots - 2, 16), REBOOT_DELAY_S_MAX) if reboots > 1 else 0
    return Verdict("restart", Arguments(dump=dump, delay_s=delay_s, reboots=reboots), said)
