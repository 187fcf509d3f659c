"""One connection between a front end and a back end, and what can happen to it: values, no rules.

Pure: no I/O, no clock, no randomness. The rules are in `machine.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from manor_bus.wire.errors import ErrorBody
from manor_bus.wire.messages.devices import Connect, ConnectionState, Descriptor, DeviceStatus
from manor_bus.wire.messages.documents import Disk, Nic
from manor_devices.backends import WARNING, Claim, Order, Target

S = ConnectionState

CLOSE_WAIT_S: Final = (
    30.0  # the lifecycle service gives the guest 10 s, then says Refused; this is the net under it
)
BROKEN_WAIT_S: Final = 10.0  # the front end is told first, then the back end goes by force
GIVE_UP_S: Final = 60.0  # on_provider_loss "detach": how long an orphan waits for its provider
STEADY_S: Final = 60.0  # connected this long, earlier losses are forgotten
BACKOFF_MAX_S: Final = 60.0


class Trigger(StrEnum):
    """What can happen to a connection."""

    ATTACH = "attach"  # wish; carries the provider's epoch, 0 when it is not there
    RECONFIGURE = "reconfigure"  # wish: the same device with other settings
    DETACH_SAFE = "detach-safe"  # wish: with the guest's consent
    DETACH_FORCE = "detach-force"  # wish: without it
    DOMAIN_GONE = "domain-gone"  # the run ended
    PROVIDER_UP = "provider-up"  # carries the epoch
    PROVIDER_LOST = "provider-lost"
    ACCEPTED = "accepted"  # the provider takes the request; carries the claims
    PREPARED = "prepared"  # carries the descriptor
    PREPARE_FAILED = "prepare-failed"
    RELEASED = "released"
    RELEASE_FAILED = "release-failed"
    RESOURCE_GONE = "resource-gone"
    FRONT_CONNECTING = "front-connecting"  # the front end holds the descriptor
    FRONT_CONNECTED = "front-connected"
    FRONT_REFUSED = "front-refused"  # the guest does not let go
    FRONT_RELEASED = "front-released"  # the front end is gone
    SETTLE = "settle"
    TIMEOUT = "timeout"
    GIVE_UP = "give-up"  # the policy of the device: detach after a long loss
    FOUND = "found"  # after a restart of the service: the back end still serves
    MISSING = "missing"  # after a restart of the service: it does not


T = Trigger

STAMPED: Final = frozenset(
    {
        T.ACCEPTED,
        T.PREPARED,
        T.PREPARE_FAILED,
        T.RELEASED,
        T.RELEASE_FAILED,
        T.RESOURCE_GONE,
        T.FRONT_CONNECTING,
        T.FRONT_CONNECTED,
        T.FRONT_REFUSED,
        T.FRONT_RELEASED,
        T.TIMEOUT,
    }
)


class Effect(StrEnum):
    """What the driver does when a state is entered; each one ends in one of the named triggers."""

    REQUEST = "request"  # accepted, prepare-failed or provider-lost
    PREPARE = "prepare"  # prepared, prepare-failed or provider-lost
    RELEASE = "release"  # released, release-failed or provider-lost
    ASK = "ask"  # provider-up, now (after the back-off) or when the provider comes
    SETTLE = "settle"  # settle, at once


class Verdict(StrEnum):
    """The answer to an event."""

    DONE = "done"
    ALREADY = "already"  # it is so, or on its way
    DENIED = "denied"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. Fields a trigger does not carry keep their defaults."""

    trigger: Trigger
    generation: int = 0
    epoch: int = 0
    reason: str = ""
    pending: bool = False
    undone: bool = True  # a failed preparation left nothing behind
    error: ErrorBody | None = None
    descriptor: Descriptor | None = None
    notes: dict[str, str] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True, slots=True)
class Connection:
    """All that is known about one connection; exactly this is stored."""

    request: Connect
    target: Target
    state: ConnectionState = S.ABSENT
    generation: int = 0
    epoch: int = 0
    since: int = 0  # the generation the present front end began with; 0: none has a descriptor yet
    attached: bool = False  # a front end uses the back end of some generation
    pending: bool = False  # a refused detach completes when the guest lets go
    leaving: bool = False  # the front end is gone or given up: only the release is left
    attempts: int = 0  # losses and failed reconnects since it was steady
    reason: str = ""
    error: ErrorBody | None = None
    descriptor: Descriptor | None = None
    notes: dict[str, str] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()

    def order(self) -> Order:
        """Return what the back end is told."""
        return Order(self.request, self.target, self.generation, self.epoch, self.notes, self.attached)

    def status(self) -> DeviceStatus:
        """Return what is published."""
        return DeviceStatus(
            key=self.request.key,
            domain=self.request.domain,
            type=self.request.type,
            state=self.state,
            generation=self.generation,
            provider=self.target.provider,
            provider_epoch=self.epoch,
            reason=self.reason or self.notes.get(WARNING, ""),
            descriptor=self.descriptor,
        )


@dataclass(frozen=True, slots=True)
class Step:
    """The outcome of one event."""

    connection: Connection
    verdict: Verdict
    effect: Effect | None = None


def backoff(attempts: int) -> float:
    """Return how long to wait before the next attempt: at once after the first loss, then doubling."""
    return 0.0 if attempts <= 1 else min(BACKOFF_MAX_S, float(2 ** min(attempts - 2, 10)))


def timer(connection: Connection) -> float | None:
    """Return after how many seconds in this state TIMEOUT is due; None: never."""
    match connection.state:
        case S.CLOSING:
            return CLOSE_WAIT_S
        case S.BROKEN:
            return BROKEN_WAIT_S
        case S.CONNECTED if connection.attempts:
            return STEADY_S
        case S.FAILED if connection.leaving:
            return max(1.0, backoff(connection.attempts))
        case _:
            return None


def gives_up(connection: Connection) -> bool:
    """Return whether GIVE_UP is due GIVE_UP_S after the provider was lost."""
    device = connection.request.device
    lost = connection.state in (S.ORPHANED, S.REQUESTED, S.PREPARING) and connection.attached
    return lost and isinstance(device, Disk | Nic) and device.on_provider_loss == "detach"
