"""The bus for one thread that waits: the command line, scripts, a Python prompt. Imports zmq only to connect.

with Client(BusSettings.from_environment("operator/admin")) as client:
    status = client.call(DomainShow(name="web"), DomainStatus, timeout=5)
    for change in client.watch("domain.*"): ...
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import msgspec

from manor_bus import VERSION, keys
from manor_bus.peer.calls import unreachable, unwelcome
from manor_bus.peer.events import (
    Arrived,
    Barred,
    Dead,
    Event,
    Parted,
    Replied,
    Restarted,
    Told,
    Turned,
    Watched,
)
from manor_bus.peer.session import Policy, Session
from manor_bus.settings import BusSettings
from manor_bus.wire import codec
from manor_bus.wire.envelope import Envelope
from manor_bus.wire.envelope import Kind as Frame
from manor_bus.wire.errors import Kind, ManorError, Origin
from manor_bus.wire.messages import Call, Message, bus
from manor_host import clock

if TYPE_CHECKING:
    from manor_bus.peer.transport import BlockingLink

R = TypeVar("R", bound=Message)
FOREVER: Final = float("inf")
GREETING_S: Final = 5.0
SEND_S: Final = 0.2


class Client:
    """One principal's blocking connection. Not for several threads."""

    def __init__(self, settings: BusSettings) -> None:
        from manor_bus.peer.transport import BlockingLink, Signal

        pair = keys.load(settings.key_file)
        public = keys.load_public(settings.broker_key_file)
        self._link: BlockingLink = BlockingLink(settings.endpoint, pair, public)
        self._signals = {Signal.UP: self._up, Signal.DOWN: self._down, Signal.REFUSED: self._refused}
        instance, count = os.urandom(8).hex(), iter(range(1, 1 << 62))
        self._session = Session(
            instance=instance, version=VERSION, pid=os.getpid(), boot_id=clock.boot_id(),
            new_id=lambda: f"{instance[:8]}{next(count):x}",
        )  # fmt: skip
        self._out: list[bytes] = []
        self._ended: dict[int, Replied] = {}
        self._on_part: dict[int, Callable[[Any], None]] = {}
        self._on_restart: dict[int, Callable[[], None]] = {}
        self._told: deque[Arrived | Watched | Barred] = deque()
        self._turned: ManorError | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bus."""
        self._link.close()

    @property
    def address(self) -> str:
        """Our verified address; empty before the first exchange."""
        return self._session.address

    @property
    def same_clock(self) -> bool:
        """Whether the broker has our monotonic clock; no before the first exchange."""
        return self._session.same_clock

    # --- calls ----------------------------------------------------------------------------------------

    def call(
        self, request: Message, reply: type[R], *, timeout: float, key: str = "", at: str = "",
        on_part: Callable[[Any], None] | None = None, on_restart: Callable[[], None] | None = None,
    ) -> R:  # fmt: skip
        """Call and wait; the same contract as `Peer.call`."""
        call = _call_of(type(request))
        wire = _request(f"{call.subject}@{at}" if at else call.subject, call.type_name, key, request)
        return codec.read_body(self._exchange(wire, timeout, call.part, on_part, on_restart), reply)

    def raw_call(
        self,
        to: str,
        data: Any,
        *,
        timeout: float,
        key: str = "",
        on_part: Callable[[Any], None] | None = None,
    ) -> Any:
        """Call any subject with plain values; the reply comes as plain values."""
        wire = _request(to, to.partition("@")[0] + ".v1", key, data)
        return codec.read_body(self._exchange(wire, timeout, object, on_part, None), object)

    def _exchange(
        self, wire: Envelope, timeout: float, part: type[Any] | None, on_part: Callable[[Any], None] | None,
        on_restart: Callable[[], None] | None,
    ) -> msgspec.Raw:  # fmt: skip
        wanted = None if on_part is None else part
        token = self._session.calls.call(wire, timeout, time.monotonic(), part=wanted)
        if on_part is not None:
            self._on_part[token] = on_part
        if on_restart is not None:
            self._on_restart[token] = on_restart
        try:
            while token not in self._ended:
                self._turn()
        except BaseException:
            self._session.calls.cancel(token)
            self._flush()
            raise
        finally:
            self._on_part.pop(token, None)
            self._on_restart.pop(token, None)
        ended = self._ended.pop(token)
        if ended.error is not None:
            raise ended.error
        assert ended.reply is not None
        return ended.reply.data

    def publish(self, subject: str, type_name: str, data: Any, *, timeout: float = 5.0) -> None:
        """Publish passing news; raises when the broker cannot be reached or the policy denies it."""
        self._greet(timeout)
        wire = Envelope(
            k=Frame.PUB, id=self._session.new_id(), subject=subject, type=type_name, time=time.time(),
            data=msgspec.Raw(codec.encode(data)),
        )  # fmt: skip
        self._session.publish(wire)
        label = self.address.partition("@")[0]
        ask = bus.Explain(label=label, verb="publish", subject=subject)
        told = self.call(ask, bus.Explained, timeout=timeout)  # its reply comes after what was sent before
        if not told.allowed:
            message = f"{label} may not publish {subject} ({told.rule})"
            raise ManorError(Kind.FORBIDDEN, message, delivered=False, origin=Origin.BROKER)

    # --- subscriptions --------------------------------------------------------------------------------

    def watch(
        self,
        pattern: str,
        *,
        policy: Policy = "coalesce",
        snapshot: bool = True,
        timeout: float | None = None,
    ) -> Iterator[Told]:
        """Follow every object under a pattern; ends after `timeout` seconds, if given.

        A value that is not what its type says is left out.
        """
        for event in self._follow(
            lambda: self._session.watch(pattern, policy=policy, snapshot=snapshot), timeout
        ):
            if isinstance(event, Watched):
                yield from cast("list[Told]", event.changes)
                if event.batch is not None:
                    self._session.subscriptions.consumed(event.batch)

    def items(
        self, pattern: str, *, tap: bool = False, policy: Policy = "gap", timeout: float | None = None
    ) -> Iterator[tuple[str, Envelope]]:
        """Follow a pattern as it passes, envelopes and all; `tap`: calls and replies, too."""
        for event in self._follow(lambda: self._session.subscribe(pattern, policy=policy, tap=tap), timeout):
            if isinstance(event, Arrived):
                yield from ((item.sender, item.envelope) for item in event.items)
                self._session.subscriptions.consumed(event)

    def _follow(self, subscribe: Callable[[], int], timeout: float | None) -> Iterator[Arrived | Watched]:
        """Everything that one subscription tells, until the time is over."""
        end = FOREVER if timeout is None else time.monotonic() + timeout
        self._greet(GREETING_S if timeout is None else min(timeout, GREETING_S))
        sid = subscribe()
        try:
            while time.monotonic() < end:
                self._turn(end)
                while self._told:
                    event = self._told.popleft()
                    if isinstance(event, Barred):
                        raise event.error
                    if event.sid == sid:
                        yield event
        finally:
            self._session.unsubscribe(sid)
            self._flush()

    # --- one thread, one loop -------------------------------------------------------------------------

    def _greet(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        while not self._session.greeted:
            self._turn(end)
            if time.monotonic() >= end:
                raise unreachable()

    def _flush(self) -> None:
        self._out += self._session.take()
        while self._out:
            wait = max(0.0, min(SEND_S, self._session.next_timer() - time.monotonic()))
            if not self._link.send(self._out[0], wait):
                return  # it is kept for the next turn, unless the connection turns out to be gone
            del self._out[0]

    def _turn(self, end: float = FOREVER) -> None:
        """Send what is to be sent, wait for one frame, signal or timer, take what happened."""
        self._flush()
        now = time.monotonic()
        frame = self._link.receive(max(0.0, min(self._session.next_timer(), end, now + 1.0) - now))
        now = time.monotonic()
        if isinstance(frame, bytes):
            self._session.receive(frame, now)
        elif frame is not None:
            self._signals[frame](now)
        self._session.advance(now)
        while self._session.events:
            self._take(self._session.events.popleft(), now)
        if self._turned is not None:
            raise self._turned

    def _up(self, now: float) -> None:
        self._session.connected(now)

    def _down(self, now: float) -> None:
        self._session.lost()
        self._out.clear()

    def _refused(self, now: float) -> None:
        self._turned = unwelcome()

    def _take(self, event: Event, now: float) -> None:
        """Take one event; what concerns those who serve does not come to a client."""
        match event:
            case Replied(token, _, _):
                self._ended[token] = event
            case Parted(token, part):
                if token in self._on_part:
                    self._on_part[token](part)
            case Restarted(token):
                if token in self._on_restart:
                    self._on_restart[token]()
            case Turned(error):
                self._turned = error
            case Dead():
                self._session.connected(now)  # the socket reconnects by itself
            case Arrived() | Watched() | Barred():
                self._told.append(event)
            case _:
                pass


def _request(to: str, type_name: str, key: str, data: object) -> Envelope:
    body = msgspec.Raw(codec.encode(data))
    return Envelope(k=Frame.REQ, to=to, type=type_name, idempotencykey=key, data=body)


def _call_of(request: type[Message]) -> Call:
    """Return a request's entry of the catalogue, from its own module: the whole takes long to import."""
    calls: tuple[Call, ...] = sys.modules[request.__module__].CALLS
    return next(call for call in calls if call.request is request)
