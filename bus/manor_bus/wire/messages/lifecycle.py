"""Calls and events of the lifecycle service: the life of each domain."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal

from manor_bus.wire.errors import ErrorBody
from manor_bus.wire.messages import Call, Done, Event, Message


class State(StrEnum):
    """The states of a domain (design page "Domain life cycle", section 1)."""

    DEFINED = "DEFINED"
    STARTING = "STARTING"
    PAUSED = "PAUSED"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    SUSPENDING = "SUSPENDING"
    SUSPENDED = "SUSPENDED"
    RESTORING = "RESTORING"
    REBOOTING = "REBOOTING"
    CRASHED = "CRASHED"
    DYING = "DYING"
    LOST = "LOST"
    FAILED = "FAILED"
    DELETED = "DELETED"
    FOREIGN = "FOREIGN"  # not ours: listed, never touched


class OperationState(StrEnum):
    """Where an operation stands."""

    PENDING = "pending"
    RUNNING = "running"
    CANCELLING = "cancelling"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED: Final = frozenset({OperationState.DONE, OperationState.FAILED, OperationState.CANCELLED})


class PendingChange(Message, frozen=True, kw_only=True):
    """A change of the document that the running domain does not have yet, and what brings it.

    `asked` is repeated by itself; `refused` is tried again only when the document or the run changes.
    """

    path: str
    old: str
    new: str
    applies: Literal["next-start", "in-progress", "asked", "refused"] = "next-start"
    reason: str = ""  # the last answer, when it was asked for or refused


class DeviceView(Message, frozen=True, kw_only=True):
    """One device of a domain as the domain's status shows it."""

    id: str
    type: Literal["disk", "nic", "channel", "console", "pci", "usb"]
    state: str
    provider: str = ""
    generation: int = 0
    reason: str = ""
    io: Literal["", "ok", "failed", "nospace"] = ""  # of its last requests, where the hypervisor can tell


class LastFailure(Message, frozen=True, kw_only=True):
    """The last operation of a domain that failed; a later one of the same kind that went well clears it."""

    operation: str  # its id
    kind: str
    at: float  # seconds since 1970
    what: str


class StoryEntry(Message, frozen=True, kw_only=True):
    """Something that happened to a domain, and the state that it was in afterwards."""

    at: float  # seconds since 1970
    event: str
    state: str


class DomainStatus(Message, frozen=True, kw_only=True, tag_field="kind", tag="domain"):
    """What is observed of one domain, under `domain.<uuid>`. `generation` grows with every published change
    of it.

    `reason` is for people: what it waits for, else the cause, else the last failure. `cause`: why it stands
    or ended. `conditions` hold beside the state: NO DOCUMENT, ASLEEP, ZOMBIE,
    IMAGE MISSING, DELETING, NOT KNOWN, and DUE: something is about to be begun.
    """

    name: str
    uuid: str
    state: State
    generation: int
    node: str
    hypervisor: str
    incarnation: int = 0  # number of this run; grows with every start
    revision: int = 0  # of the document this status has taken into account
    cpus: int = 0
    memory_mib: int = 0
    started: float = 0.0  # seconds since 1970; 0 when not running
    reason: str = ""
    pending: tuple[PendingChange, ...] = ()
    devices: tuple[DeviceView, ...] = ()
    allowed: tuple[str, ...] = ()  # verbs that are legal now
    operation: str = ""  # id of the running one
    run: str = ""
    restarts: int = 0
    labels: dict[str, str] = {}  # of its document
    cause: str = ""
    last_failure: LastFailure | None = None
    not_answering_since: float = 0.0  # seconds since 1970; 0: it answers
    conditions: tuple[str, ...] = ()
    uptime_s: float = 0.0  # of this run when this was told, on a clock that nobody sets
    began_s: float = 0.0  # of this run, on the monotonic clock of its node, which nobody sets; 0: no run


class NodeStatus(Message, frozen=True, kw_only=True, tag_field="kind", tag="node"):
    """A node under `node.<name>`: its capacity and what really works on it."""

    name: str
    boot_id: str = ""
    cpus: int = 0
    memory_mib: int = 0
    memory_free_mib: int = 0
    accelerators: tuple[str, ...] = ()  # those that ran guest code: `kvm`, `tcg`
    hypervisors: dict[str, str] = {}  # adapter -> version
    version: str = ""
    labels: dict[str, str] = {}


class Operation(Message, frozen=True, kw_only=True):
    """Something that takes time. `id` is the idempotency key its caller chose."""

    id: str
    kind: str  # `start`, `shutdown`, …, `reconcile`
    target: str  # name of the domain
    uuid: str
    state: OperationState
    step: str = ""
    steps: tuple[str, ...] = ()
    progress: float = 0.0  # 0 to 1
    error: ErrorBody | None = None
    who: str = ""
    reason: str = ""
    cancellable: bool = True
    created: float = 0.0  # seconds since 1970
    ended: float = 0.0
    deadline: float = 0.0  # seconds since 1970; 0 = none
    result: dict[str, str] = {}  # what the operation made: `path` of a save, `coredump`


class DomainStart(Message, frozen=True, kw_only=True):
    """Start a domain. `dry_run` answers with an operation that lists the steps and was never begun."""

    name: str
    paused: bool = False
    dry_run: bool = False
    reason: str = ""


class DomainShutdown(Message, frozen=True, kw_only=True):
    """Ask the guest to shut down. Not done in `timeout_s`: the operation fails and the domain stays RUNNING,
    unless `force_after` says to destroy it then."""

    name: str
    timeout_s: float | None = None  # default: the document's shutdown_timeout_s
    force_after: bool = False
    with_users: bool = False  # those that depend on it first; without, it is refused while they run
    reason: str = ""


class DomainReboot(Message, frozen=True, kw_only=True):
    """Ask the guest to shut down, then start it again as a new incarnation."""

    name: str
    timeout_s: float | None = None
    force_after: bool = False
    reason: str = ""


class DomainReset(Message, frozen=True, kw_only=True):
    """Reset the machine as its reset button does; the incarnation grows."""

    name: str
    reason: str = ""


class DomainPause(Message, frozen=True, kw_only=True):
    """Stop the virtual CPUs. Already paused: nothing changes."""

    name: str
    reason: str = ""


class DomainResume(Message, frozen=True, kw_only=True):
    """Let the virtual CPUs run. Already running: nothing changes."""

    name: str
    reason: str = ""


class DomainDestroy(Message, frozen=True, kw_only=True):
    """End the domain at once, without asking the guest."""

    name: str
    reason: str = ""


class DomainSave(Message, frozen=True, kw_only=True):
    """Save the domain's memory and device state to the node and end it; disks stay as they are."""

    name: str
    reason: str = ""


class DomainRestore(Message, frozen=True, kw_only=True):
    """Continue a SUSPENDED domain from its saved state. On failure it stays SUSPENDED, the image intact."""

    name: str
    paused: bool = False
    reason: str = ""


class DomainDiscard(Message, frozen=True, kw_only=True):
    """Throw the saved state of a SUSPENDED domain away."""

    name: str
    reason: str = ""


class DomainRename(Message, frozen=True, kw_only=True):
    """Give a domain another name; its uuid and its run stay."""

    name: str
    new_name: str
    reason: str = ""


class DomainUnplug(Message, frozen=True, kw_only=True):
    """Detach a device that the document no longer has, again or by `force` (the guest is not asked).

    The usual way is to change the document; this is for a device that the guest did not let go. Refused with
    `denied_state` while the document still has the device.
    """

    name: str
    device: str
    force: bool = False
    reason: str = ""


class DomainDelete(Message, frozen=True, kw_only=True):
    """Delete the domain's document; refused while it is alive or SUSPENDED unless `force`."""

    name: str
    force: bool = False
    reason: str = ""


class DomainNmi(Message, frozen=True, kw_only=True):
    """Send a non-maskable interrupt."""

    name: str
    reason: str = ""


class DomainScreenshot(Message, frozen=True, kw_only=True):
    """Ask for a picture of the graphical console."""

    name: str


class Screenshot(Message, frozen=True, kw_only=True):
    """A PNG image."""

    content: bytes


class DomainShow(Message, frozen=True, kw_only=True):
    """Ask for the whole status of one domain, by name or uuid."""

    name: str


class DomainClear(Message, frozen=True, kw_only=True):
    """Clear FAILED after an operator has looked: the domain is DEFINED again, loop guards start anew."""

    name: str
    reason: str = ""


class DomainStory(Message, frozen=True, kw_only=True):
    """Ask for what happened to a domain lately, since its service was started."""

    name: str


class Story(Message, frozen=True, kw_only=True):
    """The last things that happened, oldest first."""

    entries: tuple[StoryEntry, ...]


class OperationList(Message, frozen=True, kw_only=True):
    """Ask for operations, newest first; `target` and `state` narrow it."""

    target: str = ""
    active: bool = False
    limit: int = 200


class OperationsListed(Message, frozen=True, kw_only=True):
    """Operations, newest first."""

    operations: tuple[Operation, ...]


class OperationShow(Message, frozen=True, kw_only=True):
    """Ask for one operation."""

    id: str


class OperationFollow(Message, frozen=True, kw_only=True):
    """Follow an operation: a part at every change, the reply when it has ended."""

    id: str


class OperationCancel(Message, frozen=True, kw_only=True):
    """Ask for an operation to end. Answered within 5 s: cancelled, or why not yet."""

    id: str


class DomainsList(Message, frozen=True, kw_only=True):
    """Ask the owning service itself for the status of its domains; they come as parts of up to 200."""


class DomainsPart(Message, frozen=True, kw_only=True):
    """Some of the answer."""

    domains: tuple[DomainStatus, ...]


_VERBS: Final = (
    ("start", DomainStart),
    ("shutdown", DomainShutdown),
    ("reboot", DomainReboot),
    ("reset", DomainReset),
    ("pause", DomainPause),
    ("resume", DomainResume),
    ("destroy", DomainDestroy),
    ("save", DomainSave),
    ("restore", DomainRestore),
    ("discard", DomainDiscard),
    ("rename", DomainRename),
    ("unplug", DomainUnplug),
    ("delete", DomainDelete),
    ("nmi", DomainNmi),
    ("clear", DomainClear),
)
CALLS: Final = (
    *(Call(f"lifecycle.domain.{verb}", request, Operation, changes=True) for verb, request in _VERBS),
    Call("lifecycle.domain.screenshot", DomainScreenshot, Screenshot),
    Call("lifecycle.domain.show", DomainShow, DomainStatus),
    Call("lifecycle.domain.story", DomainStory, Story),
    Call("lifecycle.domain.list", DomainsList, Done, part=DomainsPart),
    Call("lifecycle.operation.list", OperationList, OperationsListed),
    Call("lifecycle.operation.show", OperationShow, Operation),
    Call("lifecycle.operation.follow", OperationFollow, Operation, part=Operation),
    Call("lifecycle.operation.cancel", OperationCancel, Operation, changes=True),
)
EVENTS: Final = (
    Event(("domain.*",), DomainStatus, "lifecycle", "lifecycle.domain"),
    Event(("node.*",), NodeStatus, "lifecycle", "lifecycle.node"),
    Event(("operation.*",), Operation, "lifecycle", "lifecycle.operation"),
)
