"""The connection machine: one front end, one back end, one table.

Source: design page "Domain life cycle, devices, migration", section 2; the rules D1 to D13 are its rows.

Rules of this file:

1. Everything that changes the state of a connection is a row of TABLE. What is not there is denied and
   changes nothing.
2. What is stamped with another (epoch, generation) than the connection has is STALE and changes nothing.
   The generation grows with every attempt to prepare; an epoch of 0 means that nobody serves. A front end
   that lets go may quote any generation since it came: it need not have heard of a reconnect. A detach that
   quotes none means whatever there is.
3. The one effect of a step depends only on the state entered (ENTRY). Every state in which we owe somebody
   something has an effect or a timer whose outcome leaves it: there is no limbo. The other states are at rest
   and say in `reason` whose turn it is.

Pure: no I/O, no clock, no randomness. `docs/devices.md` is made from the tables below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from manor_bus.wire.messages.devices import ConnectionState
from manor_devices.connection import CLOSE_WAIT_S, STAMPED, Connection, Effect, Event, Step, Trigger, Verdict

S = ConnectionState
T = Trigger

ENTRY: Final[Mapping[S, Effect]] = MappingProxyType(
    {
        S.WAITING: Effect.ASK,
        S.REQUESTED: Effect.REQUEST,
        S.PREPARING: Effect.PREPARE,
        S.ORPHANED: Effect.ASK,
        S.CLOSED: Effect.RELEASE,
        S.REFUSED: Effect.SETTLE,
    }
)


Guard = Callable[[Connection, Event], bool]


def alive(connection: Connection, event: Event) -> bool:
    """The provider is there."""
    return event.epoch > 0


def attached(connection: Connection, event: Event) -> bool:
    """A front end uses it."""
    return connection.attached


def unserved(connection: Connection, event: Event) -> bool:
    """Its generation was revoked: nobody serves it now."""
    return connection.epoch == 0


def kept(connection: Connection, event: Event) -> bool:
    """The front end finds the new back end where the old one was."""
    old, new = connection.descriptor, event.descriptor
    same = old is not None and new is not None and (old.type, old.args) == (new.type, new.args)
    return connection.attached and same


def kept_pending(connection: Connection, event: Event) -> bool:
    """As `kept`, and a refused detach still waits for the guest."""
    return connection.pending and kept(connection, event)


def pending(connection: Connection, event: Event) -> bool:
    """The detach shall complete when the guest lets go."""
    return connection.pending


def leaving(connection: Connection, event: Event) -> bool:
    """Only the release is left to do."""
    return connection.leaving


@dataclass(frozen=True, slots=True)
class Row:
    """One transition. `target` None: it is so already. The first row whose guard holds is taken."""

    target: ConnectionState | None
    rule: str  # of the design page
    guard: Guard | None = None


_CLOSE: Final = (T.DETACH_FORCE, T.FRONT_RELEASED, T.DOMAIN_GONE)


def _ways_out(state: ConnectionState) -> dict[tuple[ConnectionState, Trigger], tuple[Row, ...]]:
    """Rows of a state in which something may be held: force, a closed front end, the end of the run."""
    rules = {T.DETACH_FORCE: "D6", T.FRONT_RELEASED: "D5", T.DOMAIN_GONE: "D10"}
    return {(state, trigger): (Row(S.CLOSED, rules[trigger]),) for trigger in _CLOSE}


ENDS: Final = frozenset({*_CLOSE, T.DETACH_SAFE})
_ALREADY: Final = (Row(None, "idempotent"),)
_ORPHAN_OR_FAIL: Final = (Row(S.ORPHANED, "D8", attached), Row(S.FAILED, "D2"))
_ORPHAN_OR_WAIT: Final = (Row(S.ORPHANED, "D8", attached), Row(S.WAITING, "D1"))
_DETACH_BY_GUEST_OR_CLOSE: Final = (Row(S.CLOSING, "D5", attached), Row(S.CLOSED, "D5"))

TABLE: Final[Mapping[tuple[S, T], tuple[Row, ...]]] = MappingProxyType(
    {
        (S.ABSENT, T.DETACH_SAFE): _ALREADY,
        (S.ABSENT, T.DETACH_FORCE): _ALREADY,
        (S.ABSENT, T.FRONT_RELEASED): _ALREADY,
        (S.ABSENT, T.DOMAIN_GONE): _ALREADY,
        (S.ABSENT, T.ATTACH): (Row(S.REQUESTED, "D1", alive), Row(S.WAITING, "D1")),
        **_ways_out(S.WAITING),
        (S.WAITING, T.DETACH_SAFE): (Row(S.CLOSED, "D5"),),
        (S.WAITING, T.ATTACH): _ALREADY,
        (S.WAITING, T.PROVIDER_UP): (Row(S.REQUESTED, "D1"),),
        (S.WAITING, T.PROVIDER_LOST): _ALREADY,
        (S.WAITING, T.FOUND): (Row(S.WAITING, "D12"),),
        (S.WAITING, T.MISSING): (Row(S.WAITING, "D12"),),
        **_ways_out(S.REQUESTED),
        (S.REQUESTED, T.ATTACH): _ALREADY,
        (S.REQUESTED, T.ACCEPTED): (Row(S.PREPARING, "D2"),),
        (S.REQUESTED, T.PREPARE_FAILED): _ORPHAN_OR_FAIL,
        (S.REQUESTED, T.PROVIDER_LOST): _ORPHAN_OR_WAIT,
        (S.REQUESTED, T.DETACH_SAFE): _DETACH_BY_GUEST_OR_CLOSE,
        (S.REQUESTED, T.GIVE_UP): (Row(S.BROKEN, "D8", attached),),
        (S.REQUESTED, T.FOUND): _ORPHAN_OR_WAIT,
        (S.REQUESTED, T.MISSING): _ORPHAN_OR_WAIT,
        **_ways_out(S.PREPARING),
        (S.PREPARING, T.ATTACH): _ALREADY,
        (S.PREPARING, T.PREPARED): (
            Row(S.DETACH_PENDING, "D8", kept_pending),
            Row(S.CONNECTED, "D8", kept),
            Row(S.READY, "D2"),
        ),
        (S.PREPARING, T.PREPARE_FAILED): _ORPHAN_OR_FAIL,
        (S.PREPARING, T.PROVIDER_LOST): _ORPHAN_OR_WAIT,
        (S.PREPARING, T.DETACH_SAFE): _DETACH_BY_GUEST_OR_CLOSE,
        (S.PREPARING, T.GIVE_UP): (Row(S.BROKEN, "D8", attached),),
        (S.PREPARING, T.FOUND): _ORPHAN_OR_WAIT,
        (S.PREPARING, T.MISSING): _ORPHAN_OR_WAIT,
        **_ways_out(S.READY),
        (S.READY, T.ATTACH): _ALREADY,
        (S.READY, T.FRONT_CONNECTING): (Row(S.CONNECTING, "D3"),),
        (S.READY, T.FRONT_CONNECTED): (Row(S.CONNECTED, "D3"),),
        (S.READY, T.DETACH_SAFE): _DETACH_BY_GUEST_OR_CLOSE,
        (S.READY, T.PROVIDER_LOST): _ORPHAN_OR_WAIT,
        (S.READY, T.RESOURCE_GONE): (Row(S.BROKEN, "D9"),),
        (S.READY, T.FOUND): _ALREADY,
        (S.READY, T.MISSING): _ORPHAN_OR_WAIT,
        **_ways_out(S.CONNECTING),
        (S.CONNECTING, T.ATTACH): _ALREADY,
        (S.CONNECTING, T.FRONT_CONNECTING): _ALREADY,
        (S.CONNECTING, T.FRONT_CONNECTED): (Row(S.CONNECTED, "D4"),),
        (S.CONNECTING, T.DETACH_SAFE): (Row(S.CLOSING, "D5"),),
        (S.CONNECTING, T.PROVIDER_LOST): (Row(S.ORPHANED, "D8"),),
        (S.CONNECTING, T.RESOURCE_GONE): (Row(S.BROKEN, "D9"),),
        (S.CONNECTING, T.FOUND): _ALREADY,
        (S.CONNECTING, T.MISSING): (Row(S.ORPHANED, "D12"),),
        **_ways_out(S.CONNECTED),
        (S.CONNECTED, T.ATTACH): _ALREADY,
        (S.CONNECTED, T.FRONT_CONNECTING): _ALREADY,
        (S.CONNECTED, T.FRONT_CONNECTED): _ALREADY,
        (S.CONNECTED, T.FRONT_REFUSED): _ALREADY,
        (S.CONNECTED, T.DETACH_SAFE): (Row(S.CLOSING, "D5"),),
        (S.CONNECTED, T.PROVIDER_LOST): (Row(S.ORPHANED, "D8"),),
        (S.CONNECTED, T.RESOURCE_GONE): (Row(S.BROKEN, "D9"),),
        (S.CONNECTED, T.TIMEOUT): (Row(S.CONNECTED, "D8"),),
        (S.CONNECTED, T.FOUND): _ALREADY,
        (S.CONNECTED, T.MISSING): (Row(S.ORPHANED, "D12"),),
        **_ways_out(S.CLOSING),
        (S.CLOSING, T.DETACH_SAFE): _ALREADY,
        (S.CLOSING, T.FRONT_CONNECTED): _ALREADY,
        (S.CLOSING, T.FRONT_REFUSED): (Row(S.REFUSED, "D5"),),
        (S.CLOSING, T.TIMEOUT): (Row(S.REFUSED, "D5"),),
        (S.CLOSING, T.PROVIDER_LOST): (Row(S.CLOSING, "D8"),),
        (S.CLOSING, T.RESOURCE_GONE): (Row(S.BROKEN, "D9"),),
        (S.CLOSING, T.FOUND): _ALREADY,
        (S.CLOSING, T.MISSING): (Row(S.CLOSING, "D12"),),
        **_ways_out(S.REFUSED),
        (S.REFUSED, T.SETTLE): (
            Row(S.ORPHANED, "D8", unserved),
            Row(S.DETACH_PENDING, "D5", pending),
            Row(S.CONNECTED, "D5"),
        ),
        (S.REFUSED, T.PROVIDER_LOST): (Row(S.ORPHANED, "D8"),),
        (S.REFUSED, T.FOUND): (Row(S.REFUSED, "D12"),),
        (S.REFUSED, T.MISSING): (Row(S.ORPHANED, "D12"),),
        **_ways_out(S.DETACH_PENDING),
        (S.DETACH_PENDING, T.ATTACH): (Row(S.CONNECTED, "D5"),),
        (S.DETACH_PENDING, T.DETACH_SAFE): (Row(S.CLOSING, "D5"),),
        (S.DETACH_PENDING, T.FRONT_REFUSED): _ALREADY,
        (S.DETACH_PENDING, T.PROVIDER_LOST): (Row(S.ORPHANED, "D8"),),
        (S.DETACH_PENDING, T.RESOURCE_GONE): (Row(S.BROKEN, "D9"),),
        (S.DETACH_PENDING, T.FOUND): _ALREADY,
        (S.DETACH_PENDING, T.MISSING): (Row(S.ORPHANED, "D12"),),
        **_ways_out(S.BROKEN),
        (S.BROKEN, T.DETACH_SAFE): (Row(S.CLOSED, "D9"),),
        (S.BROKEN, T.TIMEOUT): (Row(S.CLOSED, "D9"),),
        (S.BROKEN, T.RESOURCE_GONE): _ALREADY,
        (S.BROKEN, T.PROVIDER_LOST): _ALREADY,
        (S.BROKEN, T.FOUND): _ALREADY,
        (S.BROKEN, T.MISSING): _ALREADY,
        **_ways_out(S.ORPHANED),
        (S.ORPHANED, T.ATTACH): _ALREADY,
        (S.ORPHANED, T.FRONT_CONNECTED): (Row(S.ORPHANED, "D8"),),
        (S.ORPHANED, T.PROVIDER_UP): (Row(S.REQUESTED, "D8"),),
        (S.ORPHANED, T.PROVIDER_LOST): _ALREADY,
        (S.ORPHANED, T.DETACH_SAFE): (Row(S.CLOSING, "D5"),),
        (S.ORPHANED, T.GIVE_UP): (Row(S.BROKEN, "D8"),),
        (S.ORPHANED, T.FOUND): (Row(S.ORPHANED, "D12"),),
        (S.ORPHANED, T.MISSING): (Row(S.ORPHANED, "D12"),),
        (S.CLOSED, T.DETACH_SAFE): _ALREADY,
        (S.CLOSED, T.DETACH_FORCE): _ALREADY,
        (S.CLOSED, T.FRONT_RELEASED): _ALREADY,
        (S.CLOSED, T.DOMAIN_GONE): _ALREADY,
        (S.CLOSED, T.RELEASED): (Row(S.ABSENT, "D7"),),
        (S.CLOSED, T.RELEASE_FAILED): (Row(S.FAILED, "D7"),),
        (S.CLOSED, T.PROVIDER_LOST): (Row(S.ABSENT, "D7"),),
        (S.CLOSED, T.FOUND): (Row(S.CLOSED, "D12"),),
        (S.CLOSED, T.MISSING): (Row(S.CLOSED, "D12"),),
        **_ways_out(S.FAILED),
        (S.FAILED, T.ATTACH): (
            Row(S.CLOSED, "D7", leaving),
            Row(S.REQUESTED, "D1", alive),
            Row(S.WAITING, "D1"),
        ),
        (S.FAILED, T.DETACH_SAFE): (Row(S.CLOSED, "D2"),),
        (S.FAILED, T.TIMEOUT): (Row(S.CLOSED, "D7", leaving),),
        (S.FAILED, T.PROVIDER_LOST): (Row(S.ABSENT, "D7", leaving), Row(None, "idempotent")),
        (S.FAILED, T.FOUND): _ALREADY,
        (S.FAILED, T.MISSING): _ALREADY,
    }
)

RESTING: Final = frozenset(
    {S.ABSENT, S.WAITING, S.READY, S.CONNECTING, S.CONNECTED, S.DETACH_PENDING, S.ORPHANED, S.FAILED}
)
SERVED: Final = frozenset({S.READY, S.CONNECTING, S.CONNECTED, S.DETACH_PENDING})
WISHES: Final = (T.ATTACH, T.DETACH_SAFE, T.DETACH_FORCE)


def step(connection: Connection, event: Event) -> Step:
    """Return what the event makes of the connection, the answer, and what the driver must do now."""
    if _stale(connection, event):
        return Step(connection, Verdict.STALE)
    for row in TABLE.get((connection.state, event.trigger), ()):
        if row.guard is None or row.guard(connection, event):
            if row.target is None:
                return Step(connection, Verdict.ALREADY)
            entered = _enter(connection, event, row.target)
            return Step(entered, Verdict.DONE, ENTRY.get(row.target))
    return Step(connection, Verdict.DENIED)


def allowed(state: ConnectionState) -> tuple[str, ...]:
    """Return the wishes that are legal in a state, for the answer to one that is not."""
    return tuple(wish.value for wish in WISHES if (state, wish) in TABLE)


def _stale(connection: Connection, event: Event) -> bool:
    detach = event.trigger in (T.DETACH_SAFE, T.DETACH_FORCE) and event.generation > 0
    if detach or (event.trigger in (T.FRONT_RELEASED, T.FRONT_REFUSED) and connection.since):
        # The same front end, whatever reconnect it has not heard of yet; an earlier one is stale.
        return not (connection.since or connection.generation) <= event.generation <= connection.generation
    if event.trigger in STAMPED and event.generation != connection.generation:
        return True
    if event.trigger is T.PROVIDER_LOST and event.generation not in (0, connection.generation):
        return True
    carries_new = event.trigger in (T.ATTACH, T.PROVIDER_UP)
    return not carries_new and event.epoch not in (0, connection.epoch)


def _enter(connection: Connection, event: Event, target: ConnectionState) -> Connection:
    entered = replace(connection, state=target, reason=event.reason, error=event.error)
    return _ENTERING.get(target, _as_it_is)(connection, event, entered)


def _as_it_is(old: Connection, event: Event, entered: Connection) -> Connection:
    return entered


def _connecting(old: Connection, event: Event, entered: Connection) -> Connection:
    return replace(entered, since=old.since or old.generation)


def _absent(old: Connection, event: Event, entered: Connection) -> Connection:
    return Connection(request=old.request, target=old.target, generation=old.generation)


def _waiting(old: Connection, event: Event, entered: Connection) -> Connection:
    return replace(entered, epoch=0, descriptor=None, claims=())


def _requested(old: Connection, event: Event, entered: Connection) -> Connection:
    return replace(entered, epoch=event.epoch, generation=old.generation + 1)


def _preparing(old: Connection, event: Event, entered: Connection) -> Connection:
    return replace(entered, claims=event.claims)


def _ready(old: Connection, event: Event, entered: Connection) -> Connection:
    return replace(entered, descriptor=event.descriptor, notes=event.notes)


def _connected(old: Connection, event: Event, entered: Connection) -> Connection:
    match event.trigger:
        case T.PREPARED:
            return replace(entered, descriptor=event.descriptor, notes=event.notes)
        case T.FRONT_CONNECTED:
            return replace(entered, attached=True, since=old.since or old.generation)
        case T.TIMEOUT:
            return replace(entered, attempts=0)
        case T.ATTACH:
            return replace(entered, pending=False)
        case _:  # a refused detach: what the guest said stays visible
            return replace(entered, reason=old.reason)


def _closing(old: Connection, event: Event, entered: Connection) -> Connection:
    interrupted = event.trigger is not T.DETACH_SAFE or old.state in (S.REQUESTED, S.PREPARING)
    return replace(entered, epoch=0 if interrupted else old.epoch, pending=False)


def _refused(old: Connection, event: Event, entered: Connection) -> Connection:
    reason = event.reason or old.reason or f"the guest did not answer within {CLOSE_WAIT_S:.0f} s"
    return replace(entered, pending=event.pending or old.pending, reason=reason)


def _orphaned(old: Connection, event: Event, entered: Connection) -> Connection:
    if event.trigger is T.FRONT_CONNECTED:
        return replace(old, attached=True)
    lost = event.trigger in (T.PROVIDER_LOST, T.PREPARE_FAILED, T.MISSING)
    return replace(entered, epoch=0, attempts=old.attempts + lost, reason=event.reason or old.reason)


def _closed(old: Connection, event: Event, entered: Connection) -> Connection:
    return replace(entered, leaving=True, pending=False, reason=event.reason or old.reason)


def _failed(old: Connection, event: Event, entered: Connection) -> Connection:
    if event.trigger is T.RELEASE_FAILED or not event.undone:
        return replace(entered, leaving=True, attempts=old.attempts + 1)
    return replace(entered, epoch=0, descriptor=None, notes={}, claims=())


_ENTERING: Final[Mapping[S, Callable[[Connection, Event, Connection], Connection]]] = MappingProxyType(
    {
        S.ABSENT: _absent,
        S.WAITING: _waiting,
        S.REQUESTED: _requested,
        S.PREPARING: _preparing,
        S.READY: _ready,
        S.CONNECTING: _connecting,
        S.CONNECTED: _connected,
        S.DETACH_PENDING: _connected,
        S.CLOSING: _closing,
        S.REFUSED: _refused,
        S.ORPHANED: _orphaned,
        S.CLOSED: _closed,
        S.FAILED: _failed,
    }
)
