"""What is known of one domain, each fact with its one source. Pure: immutable values, no I/O.

Wish comes from config, Kept from the owner record, Seen from the hypervisor, Links from devices, Doing from
the journal. Nothing else is kept of a domain; what follows from these is computed when it is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import msgspec

from manor_bus.wire.errors import ErrorBody
from manor_bus.wire.messages import Message
from manor_bus.wire.messages.config import OwnerRecord
from manor_bus.wire.messages.devices import ConnectionState, Descriptor, DeviceStatus
from manor_bus.wire.messages.documents import Domain, DomainSpec
from manor_bus.wire.messages.lifecycle import LastFailure, State, StoryEntry
from manor_lifecycle.hypervisors.seen import Activity, Device, Feature, Run, SavedImage, Seen, SeenRun

STORY_LENGTH: Final = 50
ALIVE: Final = frozenset({Activity.RUNS, Activity.STANDS, Activity.SLEEPS})
UNREADABLE: Final = "?"  # the node of a record that cannot be read; no node has this name


@dataclass(frozen=True, slots=True)
class Now:
    """`at` never goes back and counts while this process lives; `wall` is seconds since 1970."""

    at: float
    wall: float


Phase = Literal["open", "closing", "closed"]


@dataclass(frozen=True)
class Place:
    """Where a domain lives: the node, this boot of it, and what its hypervisors can do. `booted`: uuids of
    the domains that are to be started because the node was started; `session` names that start. `closing`:
    all guests are being shut down; `closed`: they were, so nothing starts by itself."""

    node: str
    boot_id: str = ""
    hypervisors: Mapping[str, frozenset[Feature]] = field(default_factory=dict)
    default_hypervisor: str = ""
    booted: frozenset[str] = frozenset()
    session: str = ""
    phase: Phase = "open"


@dataclass(frozen=True, slots=True)
class Link:
    """One connection at devices. `born`: the run that it was made for, by its first incarnation."""

    born: int
    id: str
    generation: int = 0
    status: DeviceStatus | None = None

    @property
    def state(self) -> ConnectionState:
        """Where it stands, as devices said last."""
        return self.status.state if self.status is not None else ConnectionState.READY


class Arguments(Message, frozen=True, kw_only=True):
    """What a caller may say beside the verb; journaled with the operation."""

    paused: bool = False
    timeout_s: float = 60.0
    force_after: bool = False
    force: bool = False
    new_name: str = ""
    device: str = ""
    amount: int = 0  # MiB or CPUs of a resize
    delay_s: float = 0.0  # before a restart, by the loop guard
    dump: bool = False
    with_users: bool = False  # whoever depends on it goes first
    stopped: bool = False  # somebody asked for the end: the run policy must not start it again
    failed: str = ""  # the loop guard gave up, and why
    crashes: int = 0  # short runs in succession, for the record of the next run
    reboots: int = 0
    uuid: str = ""  # of a delete: no other domain may be meant
    revision: int = 0


NOTHING_SAID: Final = Arguments()
NOT_SEEN: Final = Seen("")


@dataclass(frozen=True, slots=True)
class Held:
    """A device of the document with the descriptor of the back end that was prepared for it."""

    device: Device
    descriptor: Descriptor


@dataclass(frozen=True, slots=True)
class Doing:
    """One operation. The journal has all but what a restart makes anew: `past` (what is done once only),
    `held`, tries and times. `back`: why it goes back; `unsettled`: the revision of Kept at a guarded write
    whose outcome is not known; `before`: the state in which it began."""

    id: str
    kind: str
    arguments: Arguments = NOTHING_SAID
    who: str = ""
    actor: str = ""  # the address for which config is told that we act
    reason: str = ""
    created: float = 0.0
    internal: bool = False  # nobody asked for it, so nobody waits for its outcome
    begun: bool = False
    incarnation: int = 0
    before: State = State.DEFINED
    back: ErrorBody | None = None
    cancelled: bool = False
    unsettled: int = -1
    attempts: int = 0  # how often the service was started anew meanwhile
    # not in the journal
    past: frozenset[str] = frozenset()
    held: Mapping[str, Held] = field(default_factory=dict)
    result: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[tuple[str, int], ...] = ()  # what was planned when it began, with weights
    step: str = ""  # the last one begun
    firm: bool = False  # a cancellation waits for the end of that
    within: float = 0.0
    failed: str = ""  # the step that did not plainly work, until the next look shows more
    tries: int = 0
    failing_since: float = 0.0
    error: ErrorBody | None = None  # the last one of the step that is tried
    not_before: float = 0.0
    asked: int = 0
    asked_at: float = 0.0
    until: float = 0.0
    watched: bool = False  # it stood because of its disks: see that it holds


@dataclass(frozen=True, slots=True)
class Ask:
    """An open wish: how often it was asked for, when next, the last answer, and under what circumstances.
    With other circumstances it is asked for at once; `barred`: only then."""

    count: int
    next_at: float
    answer: str
    circumstances: tuple[Any, ...]
    barred: bool = False


@dataclass(frozen=True)
class Core:
    """Everything that is known of one domain, and nothing derived."""

    uuid: str
    place: Place
    name: str = ""
    wish: Domain | None = None
    record: OwnerRecord | None = None
    revision: int = 0  # of the stored record; 0: there is none
    owed: Mapping[str, Any] = field(default_factory=dict)  # of the record: what could not be written yet
    hypervisor: str = ""
    seen: Seen = NOT_SEEN
    image: SavedImage | None = None
    links: Mapping[tuple[int, str], Link] = field(default_factory=dict)
    attached: Mapping[str, int] = field(
        default_factory=dict
    )  # generations that the front ends have, where known
    doing: Doing | None = None
    waiting: tuple[Doing, ...] = ()
    asks: Mapping[str, Ask] = field(default_factory=dict)
    story: tuple[StoryEntry, ...] = ()
    missing: tuple[str, ...] = ()  # domains that must run before this one, and do not
    users: tuple[str, ...] = ()  # domains that run and depend on this one
    name_taken: str = ""  # uuid of another domain that lives under our name
    treated: int = 0  # the end of runs up to this one was seen to
    vanished: int = 0  # a run that was there and is gone, and nobody knows why
    began: float | None = None  # on the clock of `at`: when the last run that was seen started
    last_end: str = ""  # how the last run ended by itself, when it is over
    failure: LastFailure | None = None
    notes: str = ""  # what did not work in the last operation, although it went well
    silent_since: float = 0.0  # on the wall, 0: it answers
    silent_at: float = 0.0  # the same on the clock of `at`
    not_answering: bool = False
    busy: Literal["", "do", "look"] = ""  # what is under way outside
    stale: bool = True  # something happened since the last look
    kept_stale: bool = False  # the answer to a guarded write was lost
    heard: bool = True  # the last look was answered
    tidied: int = 0  # clean-ups in succession that failed
    tidy_at: float = 0.0
    hold_starts_until: float = 0.0

    @property
    def kept(self) -> OwnerRecord:
        """The record as it is meant: with what could not be written yet, and a new one when there is none."""
        record = self.record or OwnerRecord(node=self.place.node)
        return msgspec.structs.replace(record, **self.owed) if self.owed else record

    @property
    def run(self) -> SeenRun | None:
        """The run that the hypervisor shows."""
        return self.seen.run

    @property
    def living(self) -> SeenRun | None:
        """Our run, when it has not ended."""
        run = self.seen.run
        return run if run is not None and run.ours and run.activity in ALIVE else None

    @property
    def spec(self) -> DomainSpec:
        """What is wished; without a document, what runs."""
        if self.wish is not None:
            return self.wish.spec
        return (self.run.spec if self.run else None) or DomainSpec()

    @property
    def mine(self) -> bool:
        """Whether this node owns the domain, or may because nobody does."""
        return self.record is None or self.record.node == self.place.node

    @property
    def anothers(self) -> bool:
        """Whether another node owns it: nothing is begun here, and nothing goes on."""
        return not self.mine and self.kept.node != UNREADABLE

    @property
    def key(self) -> Run:
        """The present run, as adapters name it."""
        return self.run.run if self.run is not None else Run(self.uuid, self.kept.incarnation)


def changed(doing: Doing, **fields: Any) -> Doing:
    """Return the operation with other values."""
    return replace(doing, **fields)


def told(core: Core, now: Now, event: str, state: State) -> Core:
    """Return the core with one more line in its story."""
    entry = StoryEntry(at=round(now.wall, 3), event=event[:200], state=state.value)
    return replace(core, story=(*core.story, entry)[-STORY_LENGTH:])
