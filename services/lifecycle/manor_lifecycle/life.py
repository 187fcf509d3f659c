"""What this service knows of one domain, and how that looks from outside. Pure: values, no I/O.

`Life` is changed by the domain's own task and by the events about it, all in one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from manor_bus.wire.errors import ErrorBody
from manor_bus.wire.messages.config import DocumentChanged
from manor_bus.wire.messages.devices import Descriptor, DeviceStatus
from manor_bus.wire.messages.documents import Domain, DomainSpec
from manor_bus.wire.messages.lifecycle import DeviceView, DomainStatus, LastFailure, PendingChange, State
from manor_lifecycle.hypervisors import (
    Activity,
    Cause,
    CauseWord,
    Device,
    Ended,
    EndReason,
    Feature,
    GuestState,
    Run,
    SavedImage,
    Seen,
    SeenRun,
)
from manor_lifecycle.ledger import Lived
from manor_lifecycle.machine import LIVE, verbs
from manor_lifecycle.operations import Waiting
from manor_lifecycle.plan import Act, Arguments, Observed, Step, devices_of, type_of

DeviceType = Literal["disk", "nic", "channel", "console"]
HAS_TIMES: Final = LIVE | {State.STOPPING, State.SUSPENDING, State.CRASHED}


def _unheard(within: float) -> None:
    """Nobody listens to the progress of this work."""


@dataclass(slots=True)
class Work:
    """One operation on its way. `enter` False: the machine stands in its transient state already."""

    id: str
    kind: str
    arguments: Arguments
    internal: bool = False  # nobody asked for it, so nobody waits for its outcome
    enter: bool = True
    renewed: bool = False  # the run that it made before a restart of the service is there
    stuck: bool = False  # something could be neither done nor undone
    undo_first: tuple[Act, ...] = ()
    close_with: ErrorBody | None = None  # after `undo_first`, instead of beginning it
    attempt: int = 1
    steps: tuple[Step, ...] = ()
    cancel: ErrorBody | None = None
    interruptible: bool = False
    turn: bool = False
    incarnation: int = 0
    descriptors: dict[str, Descriptor] = field(default_factory=dict)
    result: dict[str, str] = field(default_factory=dict)
    progress: Callable[[float], None] = _unheard


@dataclass(frozen=True, slots=True)
class Connection:
    """A back end that is connected for the present run."""

    device: Device
    generation: int


@dataclass(slots=True, eq=False)
class Life:
    """One domain. `guest`, `incarnation`, `running` and `connections` are about the present run."""

    uuid: str
    name: str
    document: Domain | None = None
    state: State = State.DELETED
    reason: str = ""
    hypervisor: str = ""
    features: frozenset[Feature] = frozenset()
    guest: GuestState | None = None
    incarnation: int = 0
    born: int = 0
    paused: bool = False  # on purpose
    running: DomainSpec | None = None
    cpus: int = 0
    memory_mib: int = 0
    started: float = 0.0
    saved: bool = False
    stopped: bool = False
    ending: Ended | None = None
    acknowledged: bool = False
    silent: str = ""  # the device model does not answer
    silent_since: float = 0.0  # seconds since 1970
    unknown: str = ""  # why the hypervisor could not say what is there; asked again until it can
    look: bool = False  # something may be different from what is known: ask first
    cause: Cause = field(default_factory=Cause)  # why the run stands
    last_failure: LastFailure | None = None
    image: SavedImage | None = None  # what a restore under way continues
    connections: dict[str, Connection] = field(default_factory=dict)
    views: dict[str, DeviceStatus] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    asked: int = 0  # how often in a row a guest was asked in vain; the pauses grow with it
    asks: bool = False  # it is asked again in time
    barred: tuple[int, int, str] | None = None  # revision and run to which a change was refused, and why
    due: bool = False  # something is about to be begun: who waits for rest must not take this for it
    boot_due: bool = False  # the node was started, and this is to start with it
    works: list[Work] = field(default_factory=list)
    pending: tuple[PendingChange, ...] = ()
    generation: int = 0
    reserved: int = 0  # up to this generation the journal knows that they may be used
    failures: int = 0
    retry_at: float = 0.0  # on the loop's clock; 0: not set, below 0: it is time
    tried: tuple[int, int] = (-1, 0)  # the halted policy asks a guest once for each revision of the document
    restarts: int = 0
    status: DomainStatus | None = None
    bell: Callable[[], None] | None = None  # rung when something happened to the run

    @property
    def run(self) -> Run:
        """The present run, as adapters name it."""
        return Run(self.uuid, self.incarnation)

    @property
    def spec(self) -> DomainSpec:
        """What is wanted; without a document, what runs."""
        if self.document is not None:
            return self.document.spec
        return self.running or DomainSpec()

    @property
    def made_of(self) -> DomainSpec:
        """What a run is made of now: a saved one of what it had, whatever the document says meanwhile."""
        return self.image.spec if self.image is not None else self.spec

    @property
    def revision(self) -> int:
        """The revision of the document that is known."""
        return self.document.metadata.revision if self.document is not None else 0

    def waiting(self) -> tuple[Waiting, ...]:
        """Return the operations under way and queued."""
        return tuple(Waiting(work.id, work.kind, work.arguments) for work in self.works)

    def device(self, device: str) -> Device | None:
        """Return a device by its id: as connected, else as wanted."""
        found = self.connections.get(device)
        if found is not None:
            return found.device
        return next((d for d in devices_of(self.spec) if d.id == device), None)


def learn(life: Life, there: Seen) -> None:
    """Take what the hypervisor shows for what is so, whatever was answered or remembered.

    What it cannot tell stays as it was, marked: no conclusion is drawn from silence.
    """
    life.look, life.unknown = False, there.unknown
    if there.unknown:
        return
    if there.run is not None and there.run.activity is not Activity.ENDED:
        _learn_run(life, there.run)
    elif life.guest in (GuestState.RUNNING, GuestState.PAUSED) and life.ending is None:
        kept = there.run is not None
        reason, detail = EndReason.DEVICE_MODEL, "its end was not noticed"
        if there.run is not None and there.run.end is not None:
            reason, detail = there.run.end, there.run.end_detail
        elif there.ended is not None and there.ended.incarnation == life.incarnation:
            reason, detail = there.ended.reason, there.ended.detail
        life.ending = Ended(life.run, reason, detail, kept)
        life.guest = GuestState.ENDED if kept else None


def _learn_run(life: Life, run: SeenRun) -> None:
    stands = run.activity is Activity.STANDS
    life.guest = GuestState.PAUSED if stands else GuestState.RUNNING
    life.incarnation, life.cause = run.run.incarnation, run.cause
    life.cpus, life.memory_mib, life.features = run.cpus, run.memory_mib, run.features
    life.running = run.spec or life.running
    if not run.silent_for_s:
        life.silent, life.silent_since = "", 0.0
    for device in devices_of(life.running) if life.running is not None else ():
        if device.id in {there.id for there in run.devices} and device.id not in life.connections:
            life.connections[device.id] = Connection(device, 0)


def said(cause: Cause) -> str:
    """Say why a run stands, for people; empty when somebody paused it, or nothing is to be said."""
    if cause.word in (CauseWord.NONE, CauseWord.PERSON, CauseWord.PRELAUNCH):
        return ""
    about = f" on disk {cause.device}" if cause.device else ""
    return f"{cause.word}{about}" + (f": {cause.detail}" if cause.detail else "")


def observed(life: Life, *, keeps_running: bool, expected: bool = False, renewed: bool = False) -> Observed:
    """Return what a plan depends on."""
    return Observed(
        guest=life.guest,
        devices=devices_of(life.made_of),
        connected=frozenset(life.connections),
        saved=life.saved,
        documented=life.document is not None,
        keeps_running=keeps_running,
        stopped=life.stopped,
        renames_runs=Feature.RENAME in life.features,
        expected=expected,
        renewed=renewed,
    )


def lived(life: Life, boot_id: str) -> Lived:
    """Return the record of the present run, or that there is none."""
    if life.guest is None and life.state is not State.CRASHED:
        return Lived(uuid=life.uuid, live=False)
    return Lived(
        uuid=life.uuid,
        name=life.name,
        incarnation=life.incarnation,
        born=life.born,
        paused=life.paused,
        crashed=life.state is State.CRASHED,
        started=life.started,
        boot_id=boot_id,
    )


def status(life: Life, node: str) -> DomainStatus:
    """Return what others see; its generation is the last published one."""
    first = life.works[0] if life.works else None
    return DomainStatus(
        name=life.name,
        uuid=life.uuid,
        state=life.state,
        generation=life.generation,
        node=node,
        hypervisor=life.hypervisor,
        incarnation=life.incarnation,
        revision=life.revision,
        cpus=life.cpus or life.spec.cpu.count,
        memory_mib=life.memory_mib or life.spec.memory.size_mib,
        started=life.started if life.state in HAS_TIMES else 0.0,
        reason=(life.unknown and f"not known: {life.unknown}") or life.silent or life.reason,
        cause=said(life.cause) if life.guest is GuestState.PAUSED else "",
        not_answering_since=life.silent_since,
        last_failure=life.last_failure,
        pending=life.pending,
        devices=tuple(_devices(life)),
        allowed=verbs(life.state),
        operation=first.id if first is not None else "",
        run=life.document.spec.run.value if life.document is not None else "",
        restarts=life.restarts,
        conditions=tuple(_conditions(life)),
        labels=life.document.metadata.labels if life.document is not None else {},
    )


def _conditions(life: Life) -> Iterator[str]:
    if life.document is None and life.guest is not None:
        yield "NO DOCUMENT"
    if life.due and not life.works:
        yield "DUE"


def _devices(life: Life) -> Iterator[DeviceView]:
    spec = life.running or life.spec
    kinds: tuple[tuple[DeviceType, tuple[Device, ...]], ...] = (
        ("disk", spec.disks),
        ("nic", spec.nics),
        ("channel", spec.channels),
    )
    shown = set()
    for kind, devices in kinds:
        for device in devices:
            shown.add(device.id)
            yield _view(life, device.id, kind)
    for name in life.connections.keys() - shown:
        yield _view(life, name, type_of(life.connections[name].device))
    for pci in spec.pci:
        yield DeviceView(id=pci.id, type="pci", state=_passed_through(life))
    for usb in spec.usb:
        yield DeviceView(id=usb.id, type="usb", state=_passed_through(life))


def _passed_through(life: Life) -> str:
    return "CONNECTED" if life.guest is not None else "ABSENT"


def _view(life: Life, name: str, kind: DeviceType) -> DeviceView:
    seen = life.views.get(name)
    if seen is not None:
        return DeviceView(
            id=name,
            type=seen.type,
            state=seen.state.value,
            provider=seen.provider,
            generation=seen.generation,
            reason=seen.reason,
        )
    connection = life.connections.get(name)
    state = "CONNECTED" if connection is not None else "ABSENT"
    return DeviceView(id=name, type=kind, state=state, generation=connection.generation if connection else 0)


def document_of(value: object) -> Domain | None:
    """Return the Domain document of a watched change, or None."""
    found = value.document if isinstance(value, DocumentChanged) else None
    return found if isinstance(found, Domain) else None
