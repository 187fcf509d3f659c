"""The seam to back ends: what one must offer, the values it speaks, and how it is found.

A back end is an entry point of the group `manor.backends`: a factory
`open_backend(settings: BackendSettings) -> Backend` that does no I/O beyond reading what is installed and
raises `ManorError` when this machine cannot offer it (no privileges, a missing program). Rules every back
end keeps:

- It executes and observes; it decides nothing. States, retries and policies are the service's.
- What it prepares outlives the service. `observe` is the first call after opening and finds it again.
- Every call may be repeated and may be cancelled at any point (deadline, detach). What a cancelled or failed
  `prepare` left, `release` of the same device removes; `release` of what is not there returns normally.
- A `prepare` with a higher generation replaces what an older generation of the same device left. Where it
  can, it answers the same place (socket path, interface name), so that the front end reconnects by itself.
- It touches only what carries its own mark, and says `ours=False` of anything else it finds in its place.
- What happens to it unasked it tells through `BackendSettings.notify`, at once, with the epoch and generation
  the thing was prepared with.
- Only `ManorError` is raised for what can go wrong outside; anything else is a bug.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Protocol

from manor_bus.wire.messages.devices import Connect, DeviceKey
from manor_bus.wire.messages.documents import NetworkSpec

ENTRY_POINTS: Final = "manor.backends"
WARNING: Final = "warning"

DescriptorType = Literal["file", "nbd", "tap", "user", "console", "channel", "fake"]
Arguments = dict[str, str | int | bool]


@dataclass(frozen=True, slots=True)
class Target:
    """What a device's names resolve to on this node: made once, stored with the connection."""

    provider: str
    path: str = ""  # of an image: a source, or the file behind a volume; always absolute
    format: str = "raw"
    network: NetworkSpec | None = None
    volume: str = ""  # the uuid of the volume


@dataclass(frozen=True, slots=True)
class Claim:
    """One resource a connection uses. `resource` is its identity (`8:1:1234` = device and inode)."""

    resource: str
    name: str  # for people
    write: bool
    shareable: bool = False
    founded: bool = False  # a volume's, whose content would go with the resource's


@dataclass(frozen=True, slots=True)
class Order:
    """One device to serve. `notes` are what the last `prepare` of it asked to be remembered."""

    request: Connect
    target: Target
    generation: int
    epoch: int
    notes: Mapping[str, str] = field(default_factory=dict)
    attached: bool = False  # a front end has it open

    @property
    def key(self) -> DeviceKey:
        """Which device of which run."""
        return self.request.key


@dataclass(frozen=True, slots=True)
class Prepared:
    """A back end that waits for its front end: type and arguments of the descriptor, and what to remember.

    What is noted under `warning` is shown with the device.
    """

    type: DescriptorType
    args: Arguments
    notes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something found that no known device explains. `ours`: it carries this service's own mark.
    `used`: a front end is connected to it right now, so it is not removed whoever made it."""

    name: str
    detail: str
    ours: bool
    used: bool = False


@dataclass(frozen=True, slots=True)
class Observation:
    """What is there: which of the known devices are still served, and what nobody asked for."""

    present: tuple[DeviceKey, ...] = ()
    leftovers: tuple[Leftover, ...] = ()


@dataclass(frozen=True, slots=True)
class Notice:
    """News from a back end. `lost`: it no longer serves (`key` None: nothing at all any more);
    `gone`: it serves, but the resource behind it went away; `silent`: that cannot be asked now; `answers`: it
    can again."""

    what: Literal["lost", "gone", "silent", "answers"]
    reason: str
    key: DeviceKey | None = None
    generation: int = 0
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """What a factory gets. `mark` is this installation's own random name, put on whatever is made."""

    provider: str
    directory: Path  # its own; may not exist yet
    mark: str
    notify: Callable[[Notice], None]
    values: Mapping[str, str] = field(default_factory=dict)  # of the Provider document


class Backend(Protocol):
    """One loaded back end."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Which devices it serves: some of `disk`, `nic`, `channel`, `console`."""
        ...

    async def observe(self, known: Sequence[Order]) -> Observation:
        """Find again what was prepared before the service restarted; watch what is found from now on."""
        ...

    async def claim(self, order: Order) -> tuple[Claim, ...]:
        """Check the order and name the resources it will use; nothing is changed.

        Raises `bad_request` or `not_found` for what cannot be served, naming field and reason.
        """
        ...

    async def prepare(self, order: Order) -> Prepared:
        """Make the device reachable for the front end of `order.request.uid`."""
        ...

    async def release(self, order: Order) -> None:
        """Take it away, whether or not the front end still uses it. Not there: nothing to do."""
        ...

    async def discard(self, leftover: Leftover) -> None:
        """Remove a leftover that is `ours`."""
        ...

    async def close(self) -> None:
        """Stop watching. What is prepared stays."""
        ...


Factory = Callable[[BackendSettings], Backend]
