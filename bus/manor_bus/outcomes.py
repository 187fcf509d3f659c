"""What a session tells its shell. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from manor_bus.envelope import Envelope
from manor_bus.errors import ManorError
from manor_bus.messages.bus import Owner, Welcome


@dataclass(frozen=True)
class Greeted:
    """The broker knows us; `welcome.address` is our name."""

    welcome: Welcome


@dataclass(frozen=True)
class Turned:
    """The broker refused the greeting."""

    error: ManorError


@dataclass(frozen=True)
class Replied:
    """A call ended: exactly one of reply and error."""

    token: int
    reply: Envelope | None
    error: ManorError | None


@dataclass(frozen=True)
class Parted:
    """A partial reply."""

    token: int
    part: Envelope


@dataclass(frozen=True)
class Restarted:
    """The call is tried again: the partial replies so far are void."""

    token: int


@dataclass(frozen=True)
class Asked:
    """Somebody calls us; `deadline` is on our clock."""

    sender: str
    request: Envelope
    deadline: float


@dataclass(frozen=True)
class Withdrawn:
    """The caller of `id` gave up."""

    sender: str
    id: str


@dataclass(frozen=True)
class Live:
    """A subscription is live (again): what came before is unknown."""

    sid: int
    owners: tuple[Owner, ...]


@dataclass(frozen=True)
class Arrived:
    """Items of a subscription, in `size` bytes; give it to `consumed` when the application is done with them.

    `life` numbers the subscription on the wire: it changes with every new connection. `frame` is what came.
    """

    sid: int
    life: int
    items: tuple[tuple[str, Envelope], ...]
    size: int
    frame: bytes = b""


@dataclass(frozen=True)
class Missed:
    """Items of a subscription were dropped: ask the owners."""

    sid: int
    count: int


@dataclass(frozen=True)
class Barred:
    """A subscription was refused."""

    sid: int
    error: ManorError


@dataclass(frozen=True)
class Drained:
    """The broker sends us no more calls."""


@dataclass(frozen=True)
class Dead:
    """No frame for too long: the shell must open a new connection."""


Following = Live | Arrived | Missed | Barred
Calling = Replied | Parted | Restarted
Event = Greeted | Turned | Calling | Asked | Withdrawn | Following | Drained | Dead
