"""What each kind of operation does, as a list of steps with their undo. Pure: a plan can be printed, tested
and reversed before anything happens.

`make(kind, arguments, observed)` returns the steps; the driver does them in order, journals each, and on
failure or cancellation undoes the done ones in reverse. Steps may be repeated: what is already so costs
nothing. Once a `commit` step has begun, what came before it is not undone any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Literal

from manor_bus.wire.messages import Message
from manor_bus.wire.messages.documents import Channel, Disk, DomainSpec, Nic
from manor_lifecycle.hypervisors import Device, GuestState


class Act(StrEnum):
    """What a step does. The driver has one coroutine for each."""

    REMEMBER_STOPPED = "remember that it was stopped"
    FORGET_STOPPED = "forget that it was stopped"
    WAIT = "wait before the next run"
    CLAIM = "claim the next incarnation"
    CONNECT = "connect the back end of"
    RELEASE = "release the back end of"
    CREATE = "create the guest"
    RESTORE = "load the saved state"
    ANNOUNCE = "report the connection of"
    RESUME = "let the guest run"
    PAUSE = "stop the virtual CPUs"
    ASK = "ask the guest to shut down"
    AWAIT_END = "wait for the guest"
    RESET = "press reset"
    DUMP = "write the guest's memory for a debugger"
    DESTROY = "end the run"
    RELEASE_ALL = "release all back ends"
    SAVE = "save memory and device state"
    UNSAVE = "remove the saved state and go on"
    KEEP = "record the saved state"
    FORGET_SAVED = "forget the saved state"
    REMOVE_SAVED = "remove the saved state"
    PLUG = "plug"
    BEGIN_DETACH = "begin to detach"
    FORCE_DETACH = "detach by force"
    UNPLUG = "unplug"
    FORCE_UNPLUG = "unplug by force"
    SET_MEMORY = "change the memory"
    SET_CPUS = "change the virtual CPUs"
    RENAME = "rename the document"
    MARK_DELETING = "mark the document: it is being deleted"
    UNMARK_DELETING = "take the mark off"
    RENAME_RUN = "rename the run"
    DELETE_DOCUMENT = "delete the document"
    DELETE_RECORD = "delete the ownership record"
    RECORD_FAILURE = "record that an operator must look"
    CLEAR_GUARDS = "clear the loop guards"
    ABANDON = "give the old run up"
    NMI = "send the interrupt"


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `timeout_s` bounds it; `weight` is its share of the progress.

    `cancellable`: may be interrupted by a cancellation (otherwise that waits for its end).
    `optional`: its failure is noted and the plan goes on. `commit`: once begun, nothing before it is undone,
    except what is undone `always`.
    """

    act: Act
    device: str = ""
    undo: Act | None = None
    weight: int = 1
    timeout_s: float = 15.0
    cancellable: bool = True
    optional: bool = False
    commit: bool = False
    always: bool = False
    amount: int = 0  # MiB or CPUs of SET_*; seconds of WAIT

    @property
    def text(self) -> str:
        """Say what the step does, for people."""
        return f"{self.act} {self.device}" if self.device else str(self.act)


class LiveChange(Message, frozen=True, kw_only=True):
    """One change that the running domain can take: see `reconcile`."""

    type: Literal["memory", "cpus", "plug", "unplug", "reconnect"]
    device: str = ""
    amount: int = 0


class Arguments(Message, frozen=True, kw_only=True):
    """What a caller may say beside the verb; journaled with the operation."""

    paused: bool = False
    timeout_s: float = 60.0
    force_after: bool = False
    force: bool = False
    new_name: str = ""
    device: str = ""
    changes: tuple[LiveChange, ...] = ()
    delay_s: int = 0  # before a restart, by the loop guard
    dump: bool = False
    stopped: bool = False  # somebody asked for the end: the run policy must not start it again
    failed: str = ""  # the loop guard gave up, and why
    crashes: int = 0  # short runs in succession, for the record of the next run
    reboots: int = 0


@dataclass(frozen=True, slots=True)
class Observed:
    """What a plan depends on. `devices`: disks, nics and channels of the document, in order.

    `connected`: ids that have a back end connected; `renames_runs`: the adapter can show another name.
    `expected`: the journal knows of a run, there or not. `renewed`: the run is already the one that this
    operation made, before the service was restarted.
    """

    guest: GuestState | None = None
    devices: tuple[Device, ...] = ()
    connected: frozenset[str] = frozenset()
    saved: bool = False
    documented: bool = True
    keeps_running: bool = False  # run policy `always`
    stopped: bool = False  # what the ownership record says
    renames_runs: bool = False
    expected: bool = False
    renewed: bool = False

    @staticmethod
    def of_spec(spec: DomainSpec) -> Observed:
        """Return what there is before a first start."""
        return Observed(devices=devices_of(spec))


def devices_of(spec: DomainSpec) -> tuple[Device, ...]:
    """Return the devices that need a back end, in the order in which they are connected."""
    return (*spec.disks, *spec.nics, *spec.channels)


def type_of(device: Device) -> Literal["disk", "nic", "channel"]:
    """Return the word the devices service uses for it."""
    match device:
        case Disk():
            return "disk"
        case Nic():
            return "nic"
        case Channel():
            return "channel"


CONNECT_TIMEOUT_S: Final = 45.0
CREATE_TIMEOUT_S: Final = 90.0
DESTROY_TIMEOUT_S: Final = 35.0  # an adapter reports a zombie after 30 s
SAVE_TIMEOUT_S: Final = 1800.0
UNPLUG_TIMEOUT_S: Final = 20.0  # the guest has 10 s of it

_CLAIM: Final = Step(Act.CLAIM, timeout_s=30)
_RESUME: Final = Step(Act.RESUME, undo=Act.PAUSE)
_DESTROY: Final = Step(Act.DESTROY, weight=2, timeout_s=DESTROY_TIMEOUT_S, cancellable=False, commit=True)
_REMEMBER: Final = Step(Act.REMEMBER_STOPPED, undo=Act.FORGET_STOPPED)


def _connects(observed: Observed) -> tuple[Step, ...]:
    return tuple(
        Step(
            Act.CONNECT,
            device.id,
            undo=Act.RELEASE,
            weight=2,
            timeout_s=CONNECT_TIMEOUT_S,
            optional=not getattr(device, "required", True),
        )
        for device in observed.devices
    )


def _announces(observed: Observed) -> tuple[Step, ...]:
    return tuple(Step(Act.ANNOUNCE, device.id, optional=True) for device in observed.devices)


def _bring_up(paused: bool, observed: Observed) -> tuple[Step, ...]:
    """A new run; or, when it was made before a restart of the service, its steps again: a guest that runs is
    left alone, a paused one goes on and is taken back as a whole if that fails."""
    if observed.renewed and observed.guest is GuestState.RUNNING:
        return ()
    claim = () if observed.renewed else (_CLAIM,)
    create = Step(Act.CREATE, undo=Act.DESTROY, weight=4, timeout_s=CREATE_TIMEOUT_S)
    resume = () if paused else (_RESUME,)
    return (*claim, *_connects(observed), create, *_announces(observed), *resume)


def _tear_down(observed: Observed) -> tuple[Step, ...]:
    if observed.guest is None and not observed.connected and not observed.expected:
        return ()
    release = (Step(Act.RELEASE_ALL, optional=True, cancellable=False),) if observed.connected else ()
    return (_DESTROY, *release)


def _remember(arguments: Arguments, observed: Observed) -> tuple[Step, ...]:
    wanted = arguments.stopped and observed.keeps_running and not observed.stopped
    return (_REMEMBER,) if wanted else ()


def _ask(arguments: Arguments, observed: Observed) -> tuple[Step, ...]:
    awake = () if observed.guest is not GuestState.PAUSED else (_RESUME,)
    patience = Step(Act.AWAIT_END, weight=8, timeout_s=arguments.timeout_s, optional=arguments.force_after)
    return (*awake, Step(Act.ASK), patience)


def _start(arguments: Arguments, observed: Observed) -> tuple[Step, ...]:
    if observed.renewed:
        return _bring_up(arguments.paused, observed)
    if observed.guest in (GuestState.RUNNING, GuestState.PAUSED):
        stopped = (Step(Act.FORGET_STOPPED),) if observed.stopped else ()
        return (*stopped, *(() if arguments.paused else _resume(arguments, observed)))
    return (*_tear_down(observed), *_bring_up(arguments.paused, observed))


def _shutdown(arguments: Arguments, observed: Observed) -> tuple[Step, ...]:
    asks = _ask(arguments, observed) if observed.guest in (GuestState.RUNNING, GuestState.PAUSED) else ()
    return (*_remember(arguments, observed), *asks, *_tear_down(observed))


def _reboot(arguments: Arguments, observed: Observed) -> tuple[Step, ...]:
    if observed.renewed:
        return _bring_up(False, observed)
    asks = _ask(arguments, observed) if observed.guest in (GuestState.RUNNING, GuestState.PAUSED) else ()
    return (*asks, *_tear_down(observed), *_bring_up(False, observed))


def _reset(arguments: Arguments, observed: Observed) -> tuple[Step, ...]:
    return (Step(Act.RESET, timeout_s=30, cancellable=False),)


def _pause(arguments: Arguments, observed: Observed) -> tuple[Step, ...]:
    return (Step(Act.PAUSE, undo=Act.RESUME),) if observed.guest is GuestState.RUNNING else ()


def _resume(arguments: Arguments, observed: Observed) -> tuple[Step, ...]:
    return (_RESUME,) if observed.guest is GuestState.PAUSED else ()


def _destroy(arguments: Arguments, observed: Observed) -> tuple[Step, ...]:
    remember = (replace(step, optional=True) for step in _remember(arguments, observed))
    return (*remember, *_tear_down(observed))


def _save(arguments: Arguments, observed: Observed) -> tuple[Step, ...]:
    if observed.saved or observed.guest is None:
        return _tear_down(observed)
    save = Step(Act.SAVE, undo=Act.UNSAVE, weight=20, timeout_s=SAVE_TIMEOUT_S)
    keep = Step(Act.KEEP, undo=Act.FORGET_SAVED, timeout_s=30, cancellable=False)
    return (save, keep, *_tear_down(observed))


def _restore(arguments: Arguments, observed: Observed) -> tuple[Step, ...]:
    remove = Step(Act.REMOVE_SAVED, optional=True, cancellable=False)
    if not observed.saved:  # the run is there, and the saved state must not be used again
        return (*(() if arguments.paused else _resume(arguments, observed)), remove)
    load = Step(Act.RESTORE, undo=Act.DESTROY, weight=20, timeout_s=SAVE_TIMEOUT_S)
    forget = Step(Act.FORGET_SAVED, undo=Act.KEEP, timeout_s=30, cancellable=False)
    # Once its CPUs ran, the guest has changed its disks: the saved state must never be used again.
    resume = () if arguments.paused else (Step(Act.RESUME, commit=True, cancellable=False),)
    return (_CLAIM, *_connects(observed), load, *_announces(observed), forget, *resume, remove)


def _discard(arguments: Arguments, observed: Observed) -> tuple[Step, ...]:
    forget = (Step(Act.FORGET_SAVED, timeout_s=30, cancellable=False),) if observed.saved else ()
    return (*forget, Step(Act.REMOVE_SAVED, optional=True, cancellable=False))


def _rename(arguments: Arguments, observed: Observed) -> tuple[Step, ...]:
    run = observed.guest in (GuestState.RUNNING, GuestState.PAUSED) and observed.renames_runs
    shown = (Step(Act.RENAME_RUN, optional=True),) if run else ()
    return (Step(Act.RENAME, timeout_s=30, cancellable=False), *shown)


def _delete(arguments: Arguments, observed: Observed) -> tuple[Step, ...]:
    document = (Step(Act.DELETE_DOCUMENT, timeout_s=30, cancellable=False),) if observed.documented else ()
    record = Step(Act.DELETE_RECORD, timeout_s=30, cancellable=False)
    mark = Step(Act.MARK_DELETING, undo=Act.UNMARK_DELETING, timeout_s=30, always=True)
    marks = (mark,) if observed.documented else ()
    return (*marks, *_tear_down(observed), *_discard(arguments, observed), *document, record)


def _end(arguments: Arguments, observed: Observed) -> tuple[Step, ...]:
    dump = Step(Act.DUMP, weight=10, timeout_s=SAVE_TIMEOUT_S, optional=True)
    record = Step(Act.RECORD_FAILURE, timeout_s=30, cancellable=False)
    first = *((record,) if arguments.failed else ()), *((dump,) if arguments.dump else ())
    return (*first, *_tear_down(observed))


def _restart(arguments: Arguments, observed: Observed) -> tuple[Step, ...]:
    if observed.renewed:
        return _bring_up(False, observed)
    wait = (
        (Step(Act.WAIT, weight=2, timeout_s=arguments.delay_s + 60, amount=arguments.delay_s),)
        if arguments.delay_s
        else ()
    )
    return (*_end(arguments, observed), *wait, *_bring_up(False, observed))


def _unplug(arguments: Arguments, observed: Observed) -> tuple[Step, ...]:
    return _detach(arguments.device, force=arguments.force)


def _detach(device: str, *, force: bool) -> tuple[Step, ...]:
    unplug = Step(Act.FORCE_UNPLUG if force else Act.UNPLUG, device, weight=4, timeout_s=UNPLUG_TIMEOUT_S)
    release = Step(Act.RELEASE, device, timeout_s=30, cancellable=False, optional=True)
    begin = Step(Act.FORCE_DETACH if force else Act.BEGIN_DETACH, device, optional=force)
    return (begin, unplug, release)


def _attach(device: str) -> tuple[Step, ...]:
    return (
        Step(Act.CONNECT, device, undo=Act.RELEASE, weight=2, timeout_s=CONNECT_TIMEOUT_S),
        Step(Act.PLUG, device, undo=Act.FORCE_UNPLUG, weight=2, timeout_s=30),
        Step(Act.ANNOUNCE, device, optional=True),
    )


def _configure(arguments: Arguments, observed: Observed) -> tuple[Step, ...]:
    steps: list[Step] = []
    for change in arguments.changes:
        match change.type:
            case "memory":
                steps.append(Step(Act.SET_MEMORY, amount=change.amount))
            case "cpus":
                steps.append(Step(Act.SET_CPUS, amount=change.amount))
            case "unplug":
                steps += _detach(change.device, force=False)
            case "plug":
                steps += _attach(change.device)
            case "reconnect":
                steps += (replace(step, undo=None) for step in _attach(change.device))
    return tuple(steps)


def _clear(arguments: Arguments, observed: Observed) -> tuple[Step, ...]:
    abandon = () if observed.guest is None else (Step(Act.ABANDON),)
    return (*abandon, Step(Act.CLEAR_GUARDS, timeout_s=30))


def _nmi(arguments: Arguments, observed: Observed) -> tuple[Step, ...]:
    return (Step(Act.NMI),)


Make = Callable[[Arguments, Observed], tuple[Step, ...]]
KINDS: Final[Mapping[str, Make]] = MappingProxyType(
    {
        "start": _start,
        "shutdown": _shutdown,
        "reboot": _reboot,
        "reset": _reset,
        "pause": _pause,
        "resume": _resume,
        "destroy": _destroy,
        "save": _save,
        "restore": _restore,
        "discard": _discard,
        "rename": _rename,
        "delete": _delete,
        "end": _end,
        "restart": _restart,
        "unplug": _unplug,
        "configure": _configure,
        "clear": _clear,
        "nmi": _nmi,
    }
)


def make(kind: str, arguments: Arguments, observed: Observed) -> tuple[Step, ...]:
    """Return the steps of an operation; none when everything is so already."""
    return KINDS[kind](arguments, observed)


def describe(steps: tuple[Step, ...]) -> tuple[str, ...]:
    """Return the plan as a person reads it."""
    return tuple(step.text for step in steps)


def progress(steps: tuple[Step, ...], done: int, within: float = 0.0) -> float:
    """Return 0 to 1: the weights of the first `done` steps, plus a part of the one under way."""
    total = sum(step.weight for step in steps)
    if total == 0:
        return 1.0
    reached = sum(step.weight for step in steps[:done])
    current = steps[done].weight * min(max(within, 0.0), 1.0) if done < len(steps) else 0.0
    return round((reached + current) / total, 4)
