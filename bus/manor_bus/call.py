"""The bus for one thread that waits: the command line, scripts, a Python prompt. Imports zmq only to connect.

with Client(BusSettings.from_environment("operator/admin")) as client:
    status = client.call(DomainShow(name="web"), DomainStatus, timeout=5)
    for change in client.watch("domain.*"): ...
"""

from __future__ import annotations

import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from manor_bus import VERSION, clock, codec, keys, session
from manor_bus.envelope import Envelope
from manor_bus.envelope import Kind as Frame
from manor_bus.errors import Kind, ManorError
from manor_bus.messages import Message, node
from manor_bus.messages.bus import Subscribe
from manor_bus.messages.catalogue import CALL_BY_REQUEST
from manor_bus.settings import BusSettings
from manor_bus.view import Action, Change, Fetch, News, Synced, View, change_of, reading

if TYPE_CHECKING:
    from manor_bus.transport import BlockingLink

R = TypeVar("R", bound=Message)
Policy = Literal["coalesce", "gap", "kick"]
Item = tuple[str, Envelope]


class Client:
    """One principal's blocking connection. Not for several threads."""

    def __init__(self, settings: BusSettings) -> None:
        from manor_bus.transport import BlockingLink

        pair = keys.load(settings.key_file)
        public = settings.broker_key_file.read_text(encoding="ascii").strip()
        self._link: BlockingLink = BlockingLink(settings.endpoint, pair, public)
        instance, count = secrets.token_hex(8), iter(range(1, 1 << 62))
        self._session = session.Session(
            instance=instance, version=VERSION, pid=os.getpid(), boot_id=clock.boot_id(),
            new_id=lambda: f"{instance[:8]}{next(count):x}",
        )  # fmt: skip
        self._ended: dict[int, session.Replied] = {}
        self._on_part: dict[int, Callable[[Envelope], None]] = {}
        self._arrived: deque[session.Event] = deque()
        self._turned: ManorError | None = None
        self._sids = iter(range(1, 1 << 31))
        self._session.connected(time.monotonic())

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

    def call(
        self, request: Message, reply: type[R], *, timeout: float, key: str = "", at: str = "",
        on_part: Callable[[Any], None] | None = None,
    ) -> R:  # fmt: skip
        """Call and wait; the same contract as `Peer.call`."""
        call = CALL_BY_REQUEST[type(request)]
        part = call.part

        def read(wire: Envelope) -> None:
            if on_part is not None and part is not None:
                on_part(codec.decode(wire.data, part))

        to = f"{call.subject}@{at}" if at else call.subject
        data = msgspec.Raw(codec.encode(request))
        return codec.decode(self.exchange(to, call.type_name, data, timeout, key, read).data, reply)

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
        on_part: Callable[[Envelope], None] | None = None, *, retry: bool = True,
    ) -> Envelope:  # fmt: skip
        """Post one request and wait for its terminal reply."""
        token = self._post(to, type_name, data, timeout, key, on_part, retry=retry)
        try:
            while token not in self._ended:
                self._turn()
        except BaseException:
            self._session.cancel(token)
            self._flush()
            raise
        return self._result(token)

    def publish(self, subject: str, type_name: str, data: Any, *, timeout: float = 5.0) -> None:
        """Publish passing news; raises when the broker cannot be reached."""
        self._greet(timeout)
        wire = Envelope(
            k=Frame.PUB, id=self._session.new_id(), subject=subject, type=type_name, time=time.time(),
            data=msgspec.Raw(codec.encode(data)),
        )  # fmt: skip
        self._session.publish(wire)
        self._flush()
        self._post("bus.stats", "bus.stats.v1", msgspec.Raw(b"\x80"), timeout, "", None, retry=False)
        while not self._ended:  # a reply proves that the broker took what came before
            self._turn()
        self._ended.clear()

    def watch(
        self,
        pattern: str,
        *,
        policy: Policy = "coalesce",
        snapshot: bool = True,
        timeout: float | None = None,
    ) -> Iterator[Change | Synced]:
        """Follow every object under a pattern; ends after `timeout` seconds, if given."""
        view = View(pattern) if snapshot else None
        fetches: dict[int, tuple[str, list[node.SnapshotItem]]] = {}
        ready: deque[Change | Synced] = deque()
        for actions in self._follow(pattern, policy, view, fetches, timeout):
            for action in actions:
                if isinstance(action, Fetch):
                    self._fetch(pattern, action.address, fetches)
                else:
                    ready.append(change_of(action) if isinstance(action, News) else Synced())
            while ready:
                yield ready.popleft()

    def items(
        self, pattern: str, *, tap: bool = False, policy: Policy = "gap", timeout: float | None = None
    ) -> Iterator[Item]:
        """Follow a pattern as it passes, envelopes and all; `tap`: calls and replies, too."""
        for event in self._events(pattern, Subscribe(sid=next(self._sids), policy=policy, tap=tap), timeout):
            if isinstance(event, session.Arrived):
                yield from event.items
                self._session.consumed(event.sid, len(event.items), event.size)

    # --- one thread, one loop -------------------------------------------------------------------------

    def _follow(
        self, pattern: str, policy: Policy, view: View | None,
        fetches: dict[int, tuple[str, list[node.SnapshotItem]]], timeout: float | None,
    ) -> Iterator[list[Action]]:  # fmt: skip
        wish = Subscribe(sid=next(self._sids), policy=policy)
        for event in self._events(pattern, wish, timeout):
            if isinstance(event, session.Live):
                yield view.live(event.owners) if view is not None else []
            elif isinstance(event, session.Missed):
                yield view.missed() if view is not None else []
            elif isinstance(event, session.Arrived):
                yield [action for sender, wire in event.items for action in reading(view, sender, wire)]
                self._session.consumed(event.sid, len(event.items), event.size)
            elif isinstance(event, session.Replied) and event.token in fetches and view is not None:
                address, items = fetches.pop(event.token)
                if event.reply is None:
                    yield view.failed(address)
                else:
                    done = codec.decode(event.reply.data, node.SnapshotDone)
                    yield view.snapshot(address, done.epoch, done.rev, items)

    def _fetch(
        self, pattern: str, address: str, fetches: dict[int, tuple[str, list[node.SnapshotItem]]]
    ) -> None:
        items: list[node.SnapshotItem] = []
        data = msgspec.Raw(codec.encode(node.Snapshot(pattern=pattern)))
        to = f"srv.snapshot@{address.partition('@')[2]}"
        read = lambda wire: items.extend(codec.decode(wire.data, node.SnapshotPart).items)  # noqa: E731
        token = self._post(to, "srv.snapshot.v1", data, 10.0, "", read, retry=False)
        fetches[token] = (address, items)

    def _events(self, pattern: str, wish: Subscribe, timeout: float | None) -> Iterator[session.Event]:
        """Everything that concerns one subscription, until the time is over."""
        end = float("inf") if timeout is None else time.monotonic() + timeout
        self._greet(5.0 if timeout is None else min(timeout, 5.0))
        self._session.subscribe(pattern, wish)
        try:
            while time.monotonic() < end:
                self._turn(end)
                while self._arrived:
                    event = self._arrived.popleft()
                    if isinstance(event, session.Barred):
                        raise event.error
                    yield event
                for token in list(self._ended):
                    yield self._ended.pop(token)
        finally:
            self._session.unsubscribe(wish.sid)
            self._flush()

    def _post(
        self, to: str, type_name: str, data: msgspec.Raw, timeout: float, key: str,
        on_part: Callable[[Envelope], None] | None, *, retry: bool,
    ) -> int:  # fmt: skip
        wire = Envelope(k=Frame.REQ, to=to, type=type_name, idempotencykey=key, data=data)
        token = self._session.call(wire, timeout, time.monotonic(), retry=retry)
        if on_part is not None:
            self._on_part[token] = on_part
        return token

    def _result(self, token: int) -> Envelope:
        self._on_part.pop(token, None)
        ended = self._ended.pop(token)
        if ended.error is not None:
            raise ended.error
        assert ended.reply is not None
        return ended.reply

    def _greet(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        while not self._session.greeted:
            self._turn(end)
            if time.monotonic() >= end:
                message = "the bus cannot be reached"
                raise ManorError(Kind.UNAVAILABLE, message, delivered=False, hint="Start it: manor up")

    def _flush(self) -> None:
        out, self._session.out = self._session.out, []
        for frame in out:
            if not self._link.send(frame, max(0.0, min(0.2, self._session.next_timer() - time.monotonic()))):
                break  # no connection: the session greets and asks again by its timers

    def _turn(self, end: float = float("inf")) -> None:
        """Send what is to be sent, wait for one frame or timer, take what happened."""
        self._flush()
        now = time.monotonic()
        due = min(self._session.next_timer(), end, now + 1.0)
        frame = self._link.receive(max(0.0, due - now))
        now = time.monotonic()
        if frame is not None:
            self._session.receive(frame, now)
        self._session.advance(now)
        while self._session.events:
            self._take(self._session.events.popleft(), now)
        if self._turned is not None:
            raise self._turned

    def _take(self, event: session.Event, now: float) -> None:
        match event:
            case session.Replied(token, _, _):
                self._ended[token] = event
            case session.Parted(token, part):
                if token in self._on_part:
                    self._on_part[token](part)
            case session.Turned(error):
                self._turned = error
            case session.Dead():
                self._session.connected(now)  # the socket reconnects by itself
            case session.Arrived() | session.Live() | session.Missed() | session.Barred():
                self._arrived.append(event)
            case session.Greeted() | session.Asked() | session.Withdrawn() | session.Drained():
                pass  # a client serves nothing
