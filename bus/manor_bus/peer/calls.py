"""The calls a peer makes: budgets, retries with one idempotency key, and what is known of the outcome. Pure.

A call survives a restarting service or broker: `unavailable` is tried again until the budget is over, at once
when the broker says that the service is back. Every call ends exactly once.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Final

import msgspec

from manor_bus.peer.events import Event, Parted, Replied, Restarted
from manor_bus.wire import codec
from manor_bus.wire.envelope import Envelope
from manor_bus.wire.envelope import Kind as Frame
from manor_bus.wire.errors import Kind, ManorError, Origin, bad_request

RETRY_FIRST_S: Final = 0.01
RETRY_MAX_S: Final = 0.25


class _Call(msgspec.Struct, eq=False):
    token: int
    wire: Envelope  # as the application gave it: to, type, data, maybe key and on_behalf_of
    deadline: float
    retry: bool
    part: Any
    id: str = ""  # of the attempt under way
    tries: int = 0
    parted: bool = False
    maybe_ran: bool = False
    last: ManorError | None = None


class ClientCalls:
    """Calls under way. `send` tells whether a message fits a frame; `tell` takes what the shell must know."""

    def __init__(
        self, new_id: Callable[[], str], send: Callable[[Envelope], bool], tell: Callable[[Event], None]
    ) -> None:
        self._new_id, self._send, self._tell = new_id, send, tell
        self._calls: dict[int, _Call] = {}
        self._by_id: dict[str, _Call] = {}
        self._timers: list[tuple[float, int]] = []
        self._count = 0
        self._greeted = self._same_clock = False

    # --- the connection -------------------------------------------------------------------------------

    def greeted(self, now: float, *, same_clock: bool) -> None:
        """The broker takes calls now."""
        self._greeted, self._same_clock = True, same_clock
        self.wake(now)

    def lost(self) -> None:
        """The broker has forgotten us: what was under way has an unknown outcome."""
        self._greeted = False
        self._by_id.clear()
        for call in list(self._calls.values()):
            if call.id:
                call.id, call.maybe_ran = "", True
                if not call.retry:
                    lost = _unknown(Kind.UNAVAILABLE, f"{call.wire.to}: the connection was lost")
                    self._end(call, None, lost)

    def wake(self, now: float) -> None:
        """Try everything that waits."""
        for call in list(self._calls.values()):
            if not call.id:
                self._attempt(call, now)

    # --- what the application wants -------------------------------------------------------------------

    def call(
        self, wire: Envelope, timeout: float, now: float, *, retry: bool = True, part: Any = None
    ) -> int:
        """Start a call; `wire` holds to, type, data and maybe a key and on_behalf_of. Returns its token.

        Without `retry` it is tried once, or waits for the connection. Parts are told as `part`, if given.
        """
        self._count += 1
        made = _Call(self._count, wire, now + timeout, retry, part)
        self._calls[made.token] = made
        heapq.heappush(self._timers, (made.deadline, made.token))
        if self._greeted:
            self._attempt(made, now)
        return made.token

    def cancel(self, token: int) -> None:
        """Withdraw a call: the callee is told, nothing more is heard of it here."""
        call = self._calls.pop(token, None)
        if call is not None:
            self._withdraw(call)

    # --- time -----------------------------------------------------------------------------------------

    def next_timer(self) -> float:
        """Return when `advance` wants to be called."""
        while self._timers and self._timers[0][1] not in self._calls:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else float("inf")

    def advance(self, now: float) -> None:
        """End calls whose budget is over, try others again."""
        while self._timers and self._timers[0][0] <= now:
            call = self._calls.get(heapq.heappop(self._timers)[1])
            if call is None:
                continue
            if now >= call.deadline:
                self._expire(call)
            elif self._greeted and not call.id:
                self._attempt(call, now)

    def _attempt(self, call: _Call, now: float) -> None:
        if now >= call.deadline:
            return  # its timer ends it
        if call.parted:
            call.parted = False
            self._tell(Restarted(call.token))
        call.id = self._new_id()
        call.tries += 1
        self._by_id[call.id] = call
        call.wire = msgspec.structs.replace(
            call.wire, k=Frame.REQ, id=call.id, timeout=max(1, int((call.deadline - now) * 1000)),
            idempotencykey=call.wire.idempotencykey or call.id,
            deadline=int(call.deadline * 1000) if self._same_clock else 0,
        )  # fmt: skip
        if not self._send(call.wire):
            del self._by_id[call.id]
            self._end(call, None, _mine(bad_request(f"the request {call.wire.to} is larger than a frame")))

    def _again(self, call: _Call, now: float) -> None:
        delay = min(RETRY_FIRST_S * 2 ** min(call.tries, 8), RETRY_MAX_S)
        heapq.heappush(self._timers, (min(now + delay, call.deadline), call.token))

    def _expire(self, call: _Call) -> None:
        waiting = not call.id
        self._withdraw(call)
        if call.last is not None and waiting and not call.maybe_ran:
            error = call.last
        elif not call.tries and self._greeted:
            error = _mine(ManorError(Kind.TIMEOUT, f"{call.wire.to}: the budget was over before it was sent"))
        elif not call.tries:
            error = unreachable()
        else:
            error = _unknown(Kind.TIMEOUT, f"{call.wire.to}: no reply in time")
        self._end(call, None, error)

    def _withdraw(self, call: _Call) -> None:
        if self._by_id.pop(call.id, None) is not None:
            self._send(Envelope(k=Frame.CANCEL, id=self._new_id(), re=call.id))

    def _end(self, call: _Call, reply: Envelope | None, error: ManorError | None) -> None:
        del self._calls[call.token]
        self._tell(Replied(call.token, reply, error))

    # --- replies --------------------------------------------------------------------------------------

    def reply(self, wire: Envelope, now: float) -> None:
        """Take a (partial) reply; what nobody waits for any more is dropped."""
        call = self._by_id.get(wire.re)
        if call is None:
            return
        if wire.k == Frame.PART:
            self._parted(call, wire)
            return
        del self._by_id[wire.re]
        if wire.err is None:
            self._end(call, wire, None)
            return
        error = ManorError.from_body(wire.err)
        if error.kind is Kind.UNAVAILABLE and call.retry and error.origin is not Origin.SERVICE:
            call.id, call.last = "", error
            call.maybe_ran = call.maybe_ran or error.delivered is not False
            self._again(call, now)
            return
        if call.maybe_ran and error.delivered is False:
            error.delivered = None  # this attempt did not run, but an earlier one may have
        self._end(call, None, error)

    def _parted(self, call: _Call, wire: Envelope) -> None:
        if call.part is None:
            return
        try:
            part = codec.read_body(wire.data, call.part)
        except ManorError as error:  # it is not what its type says
            self._withdraw(call)
            self._end(call, None, error)
        else:
            call.parted = True
            self._tell(Parted(call.token, part))


def unreachable() -> ManorError:
    """Return the error of a call that never left."""
    return ManorError(
        Kind.UNAVAILABLE, "the bus cannot be reached", delivered=False, origin=Origin.LIBRARY,
        hint="Start it: manor up",
    )  # fmt: skip


def unwelcome() -> ManorError:
    """Return the error of a peer whose key the broker does not know."""
    return ManorError(
        Kind.FORBIDDEN, "the broker does not know this key", delivered=False, origin=Origin.LIBRARY,
        hint="Compare with: manor credential list",
    )  # fmt: skip


def _unknown(kind: Kind, message: str) -> ManorError:
    return ManorError(
        kind, message, delivered=None, origin=Origin.LIBRARY,
        hint="The outcome is unknown: ask for the state before you try again.",
    )  # fmt: skip


def _mine(error: ManorError) -> ManorError:
    error.origin, error.delivered = Origin.LIBRARY, False
    return error
