"""What can happen to a domain, and what its core wants done about it. Pure: values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from manor_bus.wire.errors import ErrorBody
from manor_bus.wire.messages.config import OwnerRecord
from manor_bus.wire.messages.devices import DeviceStatus
from manor_bus.wire.messages.documents import Domain
from manor_bus.wire.messages.lifecycle import OperationState
from manor_lifecycle.domain.steps import Step
from manor_lifecycle.domain.values import Doing, Held, Place
from manor_lifecycle.hypervisors.seen import SavedImage, Seen

# --- events ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """Somebody asks for an operation, and it was admitted."""

    doing: Doing


@dataclass(frozen=True, slots=True)
class Cancelled:
    """An operation is to end."""

    id: str
    error: ErrorBody


@dataclass(frozen=True, slots=True)
class WishIs:
    """The document is this; None: there is none."""

    document: Domain | None


@dataclass(frozen=True, slots=True)
class KeptIs:
    """The owner record is this, at this revision of the store."""

    record: OwnerRecord | None
    revision: int


@dataclass(frozen=True, slots=True)
class SeenIs:
    """The hypervisor was looked at; `kept`: the owner record was read again before."""

    hypervisor: str
    seen: Seen
    image: SavedImage | None = None
    kept: KeptIs | None = None


@dataclass(frozen=True, slots=True)
class LinkIs:
    """A connection is in another state; `status` None: the connection `key` is no more."""

    key: tuple[int, str]
    status: DeviceStatus | None


@dataclass(frozen=True, slots=True)
class StepEnded:
    """A step plainly worked (`error` None), or did not: then what came of it is not known."""

    step: Step
    error: ErrorBody | None = None
    held: Held | None = None
    kept: KeptIs | None = None
    result: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NeedsAre:
    """Domains that must run before this one and do not, and those that run and depend on it; the uuid of
    another that lives under its name."""

    missing: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    name_taken: str = ""


@dataclass(frozen=True, slots=True)
class PlaceIs:
    """The node is different."""

    place: Place


@dataclass(frozen=True, slots=True)
class Hint:
    """Something about the run is different: look again. `heard`: the guest answered."""

    heard: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """The step under way is so far, 0 to 1."""

    within: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = (
    Asked
    | Cancelled
    | WishIs
    | KeptIs
    | SeenIs
    | LinkIs
    | StepEnded
    | NeedsAre
    | PlaceIs
    | Hint
    | Progress
    | Tick
)

# --- actions -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Do:
    """Carry a step out; its end comes back as `StepEnded`."""

    step: Step
    doing: Doing | None


@dataclass(frozen=True, slots=True)
class Stop:
    """The step under way is not to go on; its end still comes back."""


@dataclass(frozen=True, slots=True)
class Look:
    """Ask the hypervisor, and the store too if `kept`; the answer comes back as `SeenIs`."""

    kept: bool = False


@dataclass(frozen=True, slots=True)
class Journal:
    """Write down where an operation stands, before the next step is carried out."""

    doing: Doing


@dataclass(frozen=True, slots=True)
class Close:
    """An operation has ended."""

    doing: Doing
    state: OperationState
    error: ErrorBody | None = None


@dataclass(frozen=True, slots=True)
class Tell:
    """An operation looks different."""

    doing: Doing


@dataclass(frozen=True, slots=True)
class Publish:
    """The domain may look different."""


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Say `Tick` at that time of the loop; an earlier wish of that kind is void."""

    at: float


Action = Do | Stop | Look | Journal | Close | Tell | Publish | WakeAt
