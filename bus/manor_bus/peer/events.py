"""What a session tells its shell: session events. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from manor_bus.wire.envelope import Envelope, Item
from manor_bus.wire.errors import ManorError
from manor_bus.wire.messages.bus import Owner, Welcome


class Greeted(msgspec.Struct, frozen=True):
    """The broker knows us; `welcome.address` is our name."""

    welcome: Welcome


class Turned(msgspec.Struct, frozen=True):
    """The broker refused the greeting."""

    error: ManorError


class Replied(msgspec.Struct, frozen=True):
    """A call ended: exactly one of reply and error."""

    token: int
    reply: Envelope | None
    error: ManorError | None


class Parted(msgspec.Struct, frozen=True):
    """A partial reply, of the type the caller named."""

    token: int
    part: Any


class Restarted(msgspec.Struct, frozen=True):
    """The call is tried again: the partial replies so far are void."""

    token: int


class Asked(msgspec.Struct, frozen=True):
    """Somebody calls us; `deadline` is on our clock."""

    sender: str
    request: Envelope
    deadline: float


class Withdrawn(msgspec.Struct, frozen=True):
    """The caller of `id` gave up."""

    sender: str
    id: str


class Live(msgspec.Struct, frozen=True):
    """A subscription is live (again): what came before is unknown."""

    sid: int
    owners: tuple[Owner, ...]


class Arrived(msgspec.Struct, frozen=True):
    """Items of a subscription, in `size` bytes; give it to `consumed` when the application is done with them.

    `life` numbers the subscription on the wire: it changes with every new connection.
    """

    sid: int
    life: int
    items: tuple[Item, ...]
    size: int


class Missed(msgspec.Struct, frozen=True):
    """Items of a subscription were dropped."""

    sid: int
    count: int


class Barred(msgspec.Struct, frozen=True):
    """A subscription was refused."""

    sid: int
    error: ManorError


class Change(msgspec.Struct, frozen=True):
    """What an application sees: a new value of one object.

    `value` is None when the object is gone, and plain builtins when its type is not in the catalogue.
    """

    subject: str
    value: Any
    sender: str = ""
    epoch: str = ""
    rev: int = 0
    type: str = ""


class Synced(msgspec.Struct, frozen=True):
    """What an application sees when everything that is there now has been told."""


class OwnerSeen(msgspec.Struct, frozen=True):
    """Where an owner of the watched state stands, for an application that asked for it.

    `heard`: it is attached, and the view equals its state; else it is attached and not heard (again) yet, or
    gone. `address` is that of its newest instance.
    """

    address: str
    present: bool
    heard: bool
    reason: str = ""


Told = Change | Synced


class Watched(msgspec.Struct, frozen=True):
    """What a watch has to tell; give `batch`, if any, to `consumed` when the application is done with it."""

    sid: int
    changes: list[Told | OwnerSeen]
    batch: Arrived | None


class Noted(msgspec.Struct, frozen=True):
    """Something for the log."""

    text: str


class Drained(msgspec.Struct, frozen=True):
    """The broker sends us no more calls."""


class Dead(msgspec.Struct, frozen=True):
    """No frame for too long: the shell must open a new connection."""


Subscribing = Live | Arrived | Missed | Barred
Calling = Replied | Parted | Restarted
Event = Greeted | Turned | Calling | Asked | Withdrawn | Subscribing | Watched | Noted | Drained | Dead
