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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import msgspec

from manor_bus import VERSION, clock, keys
from manor_bus.peer import outcomes
from manor_bus.peer.calls import unreachable, unwelcome
from manor_bus.peer.session import Session
from manor_bus.settings import BusSettings
from manor_bus.wire import codec
from manor_bus.wire.envelope import Envelope
from manor_bus.wire.envelope import Kind as Frame
from manor_bus.wire.errors import Kind, ManorError, Origin
from manor_bus.wire.messages import Call, Message, bus, node

if TYPE_CHECKING:
    from manor_bus.peer.transport import BlockingLink
    from manor_bus.peer.view import Action, Change, Fetch, Synced, View

R = TypeVar("R", bound=Message)
Policy = Literal["coalesce", "gap", "kick"]
Item = tuple[str, Envelope]
SNAPSHOT_S: Final = 10.0
AGAIN_S: Final = 1.0  # before an owner is asked again, or a subscription begun anew
GREETING_S: Final = 5.0
SEND_S: Final = 0.2


@dataclass(frozen=True)
class _Listener:
    on_part: Callable[[Envelope], None] | None
    on_restart: Callable[[], None] | None


@dataclass
class _Following:
    """One watch: its view, the snapshots under way, and what the reader gets next."""

    sid: int
    pattern: str
    view: View | None
    asked: dict[int, tuple[Fetch, list[node.SnapshotItem]]] = field(default_factory=dict)
    ready: deque[Change | Synced] = field(default_factory=deque)
    renewing: bool = False
    renewed: float = float("-inf")


class Client:
    """One principal's blocking connection. Not for several threads."""

    def __init__(self, settings: BusSettings) -> None:
        from manor_bus.peer.transport import BlockingLink, Signal

        pair = keys.load(settings.key_file)
        public = settings.broker_key_file.read_text(encoding="ascii").strip()
        self._link: BlockingLink = BlockingLink(settings.endpoint, pair, public)
        self._signals = {Signal.UP: self._up, Signal.DOWN: self._down, Signal.REFUSED: self._refused}
        instance, count = os.urandom(8).hex(), iter(range(1, 1 << 62))
        self._session = Session(
            instance=instance, version=VERSION, pid=os.getpid(), boot_id=clock.boot_id(),
            new_id=lambda: f"{instance[:8]}{next(count):x}",
        )  # fmt: skip
        self._ended: dict[int, outcomes.Replied] = {}
        self._listeners: dict[int, _Listener] = {}
        self._arrived: deque[outcomes.Following] = deque()
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._turned: ManorError | None = None
        self._sids = iter(range(1, 1 << 31))

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

    # --- calls ----------------------------------------------------------------------------------------

    def call(
        self, request: Message, reply: type[R], *, timeout: float, key: str = "", at: str = "",
        on_part: Callable[[Any], None] | None = None, on_restart: Callable[[], None] | None = None,
    ) -> R:  # fmt: skip
        """Call and wait; the same contract as `Peer.call`."""
        call = _call_of(type(request))
        part = call.part

        def read(wire: Envelope) -> None:
            if on_part is not None and part is not None:
                on_part(codec.decode(wire.data, part))

        to = f"{call.subject}@{at}" if at else call.subject
        data = msgspec.Raw(codec.encode(request))
        done = self.exchange(to, call.type_name, data, timeout, key, read, on_restart)
        return codec.decode(done.data, reply)

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

        def read(wire: Envelope) -> None:
            if on_part is not None:
                on_part(codec.decode(wire.data, object))

        type_name = to.partition("@")[0] + ".v1"
        done = self.exchange(to, type_name, msgspec.Raw(codec.encode(data)), timeout, key, read)
        return codec.decode(done.data, object)

    def exchange(
        self, to: str, type_name: str, data: msgspec.Raw, timeout: float, key: str = "",
        on_part: Callable[[Envelope], None] | None = None, on_restart: Callable[[], None] | None = None,
        *, retry: bool = True,
    ) -> Envelope:  # fmt: skip
        """Post one request and wait for its terminal reply."""
        token = self._post(to, type_name, data, timeout, key, _Listener(on_part, on_restart), retry=retry)
        try:
            while token not in self._ended:
                self._turn()
        except BaseException:
            self._session.cancel(token)
            self._flush()
            raise
        finally:
            self._listeners.pop(token, None)
        ended = self._ended.pop(token)
        if ended.error is not None:
            raise ended.error
        assert ended.reply is not None
        return ended.reply

    def _post(
        self, to: str, type_name: str, data: msgspec.Raw, timeout: float, key: str, listener: _Listener,
        *, retry: bool,
    ) -> int:  # fmt: skip
        wire = Envelope(k=Frame.REQ, to=to, type=type_name, idempotencykey=key, data=data)
        token = self._session.call(wire, timeout, time.monotonic(), retry=retry)
        self._listeners[token] = listener
        return token

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
    ) -> Iterator[Change | Synced]:
        """Follow every object under a pattern; ends after `timeout` seconds, if given.

        A value that is not what its type says is left out.
        """
        from manor_bus.peer.view import View  # it knows every event; most commands only call

        mine = _Following(next(self._sids), pattern, View(pattern) if snapshot else None)
        for event in self._events(pattern, bus.Subscribe(sid=mine.sid, policy=policy), timeout):
            self._follow(mine, event)
            while mine.ready:
                yield mine.ready.popleft()
            if isinstance(event, outcomes.Arrived):
                self._session.consumed(event)

    def items(
        self, pattern: str, *, tap: bool = False, policy: Policy = "gap", timeout: float | None = None
    ) -> Iterator[Item]:
        """Follow a pattern as it passes, envelopes and all; `tap`: calls and replies, too."""
        for arrived in self._batches(pattern, policy, timeout, tap=tap):
            yield from arrived.items

    def frames(
        self, pattern: str, *, tap: bool = False, policy: Policy = "gap", timeout: float | None = None
    ) -> Iterator[bytes]:
        """Follow a pattern as it passes, every frame byte for byte (see `record`)."""
        for arrived in self._batches(pattern, policy, timeout, tap=tap):
            yield arrived.frame

    def _batches(
        self, pattern: str, policy: Policy, timeout: float | None, *, tap: bool
    ) -> Iterator[outcomes.Arrived]:
        wish = bus.Subscribe(sid=next(self._sids), policy=policy, tap=tap)
        for event in self._events(pattern, wish, timeout):
            if isinstance(event, outcomes.Arrived):
                yield event
                self._session.consumed(event)

    def _events(
        self, pattern: str, wish: bus.Subscribe, timeout: float | None
    ) -> Iterator[outcomes.Following | outcomes.Replied]:
        """Everything that concerns one subscription, until the time is over."""
        end = float("inf") if timeout is None else time.monotonic() + timeout
        self._greet(GREETING_S if timeout is None else min(timeout, GREETING_S))
        self._session.subscribe(pattern, wish)
        try:
            while time.monotonic() < end:
                self._turn(end)
                while self._arrived:
                    event = self._arrived.popleft()
                    if isinstance(event, outcomes.Barred):
                        raise event.error
                    yield event
                for token in list(self._ended):
                    yield self._ended.pop(token)
        finally:
            self._session.unsubscribe(wish.sid)
            self._later.clear()
            self._flush()

    def _follow(self, mine: _Following, event: outcomes.Following | outcomes.Replied) -> None:
        from manor_bus.peer import view

        match event:
            case outcomes.Live(_, owners):
                self._act(mine, mine.view.live(owners) if mine.view is not None else [view.AllKnown()])
            case outcomes.Missed() if mine.view is not None and not mine.renewing:
                mine.renewing = True
                self._at(mine.renewed + AGAIN_S, partial(self._renew, mine))
            case outcomes.Arrived(_, _, items):
                for sender, wire in items:
                    self._act(mine, view.reading(mine.view, sender, wire))
            case outcomes.Replied(token, reply, _) if token in mine.asked and mine.view is not None:
                self._listeners.pop(token, None)
                fetch, items_so_far = mine.asked.pop(token)
                if reply is None:
                    self._act(mine, mine.view.failed(fetch))
                else:
                    done = codec.decode(reply.data, node.SnapshotDone)
                    self._act(mine, mine.view.snapshot(fetch, done.epoch, done.rev, items_so_far))

    def _renew(self, mine: _Following) -> None:
        mine.renewing, mine.renewed = False, time.monotonic()
        self._session.renew(mine.sid)

    def _act(self, mine: _Following, actions: Sequence[Action]) -> None:
        from manor_bus.peer import view

        for action in actions:
            match action:
                case view.News():
                    try:
                        mine.ready.append(view.change_of(action))
                    except ManorError:
                        continue  # left out, as the contract says
                case view.AllKnown():
                    mine.ready.append(view.Synced())
                case view.Fetch(again=True):
                    self._at(time.monotonic() + AGAIN_S, partial(self._fetch, mine, action))
                case view.Fetch():
                    self._fetch(mine, action)

    def _fetch(self, mine: _Following, fetch: Fetch) -> None:
        items: list[node.SnapshotItem] = []

        def part(wire: Envelope) -> None:
            items.extend(codec.decode(wire.data, node.SnapshotPart).items)

        data = msgspec.Raw(codec.encode(node.Snapshot(pattern=mine.pattern)))
        to = f"srv.snapshot@{fetch.address.partition('@')[2]}"
        listener = _Listener(part, None)
        token = self._post(to, "srv.snapshot.v1", data, SNAPSHOT_S, "", listener, retry=False)
        mine.asked[token] = (fetch, items)

    # --- one thread, one loop -------------------------------------------------------------------------

    def _at(self, when: float, action: Callable[[], None]) -> None:
        self._later.append((when, action))

    def _greet(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        while not self._session.greeted:
            self._turn(end)
            if time.monotonic() >= end:
                raise unreachable()

    def _flush(self) -> None:
        out = self._session.out
        while out:
            wait = max(0.0, min(SEND_S, self._session.next_timer() - time.monotonic()))
            if not self._link.send(out[0], wait):
                return  # it is kept for the next turn, unless the connection turns out to be gone
            del out[0]

    def _turn(self, end: float = float("inf")) -> None:
        """Send what is to be sent, wait for one frame, signal or timer, take what happened."""
        self._flush()
        now = time.monotonic()
        due = min(self._session.next_timer(), end, now + 1.0, *(when for when, _ in self._later))
        frame = self._link.receive(max(0.0, due - now))
        now = time.monotonic()
        if isinstance(frame, bytes):
            self._session.receive(frame, now)
        elif frame is not None:
            self._signals[frame](now)
        self._session.advance(now)
        for entry in [entry for entry in self._later if entry[0] <= now]:
            self._later.remove(entry)
            entry[1]()
        while self._session.events:
            self._take(self._session.events.popleft(), now)
        if self._turned is not None:
            raise self._turned

    def _up(self, now: float) -> None:
        self._session.connected(now)

    def _down(self, now: float) -> None:
        self._session.out.clear()
        self._session.lost()

    def _refused(self, now: float) -> None:
        self._turned = unwelcome()

    def _take(self, event: outcomes.Event, now: float) -> None:
        match event:
            case outcomes.Replied(token, _, _):
                self._ended[token] = event
            case outcomes.Parted() | outcomes.Restarted():
                self._part(event)
            case outcomes.Turned(error):
                self._turned = error
            case outcomes.Dead():
                self._session.connected(now)  # the socket reconnects by itself
            case outcomes.Arrived() | outcomes.Live() | outcomes.Missed() | outcomes.Barred():
                self._arrived.append(event)
            case outcomes.Greeted() | outcomes.Asked() | outcomes.Withdrawn() | outcomes.Drained():
                pass  # a client serves nothing

    def _part(self, event: outcomes.Parted | outcomes.Restarted) -> None:
        listener = self._listeners.get(event.token)
        if listener is None:
            return
        try:
            if isinstance(event, outcomes.Parted) and listener.on_part is not None:
                listener.on_part(event.part)
            elif isinstance(event, outcomes.Restarted) and listener.on_restart is not None:
                listener.on_restart()
        except ManorError as error:  # the part is not what its type says
            self._session.cancel(event.token)
            self._ended[event.token] = outcomes.Replied(event.token, None, error)


def _call_of(request: type[Message]) -> Call:
    """Return a request's entry of the catalogue, from its own module: the whole takes long to import."""
    calls: tuple[Call, ...] = sys.modules[request.__module__].CALLS
    return next(call for call in calls if call.request is request)
