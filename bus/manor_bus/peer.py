"""A peer of the bus on asyncio: call, answer, publish, watch. A shell around `session` and `view`.

Service authors need this module, `service.py` and the messages, nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

import msgspec

from manor_bus import codec, session
from manor_bus.answering import Answering
from manor_bus.envelope import Envelope
from manor_bus.envelope import Kind as Frame
from manor_bus.errors import Kind, ManorError, Origin
from manor_bus.messages import Message, node
from manor_bus.messages.bus import Subscribe
from manor_bus.messages.catalogue import CALL_BY_REQUEST, EVENT_BY_BODY
from manor_bus.state import State
from manor_bus.transport import Connect, Link
from manor_bus.view import AllKnown, Fetch, News, View, change_of, reading
from manor_bus.view import Change as Change
from manor_bus.view import Synced as Synced

R = TypeVar("R", bound=Message)
Answer = Callable[[Any, "Context"], Awaitable[Message]]
Policy = Literal["coalesce", "gap", "kick"]

SNAPSHOT_TIMEOUT_S: Final = 10.0
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Context:
    """Who calls, and until when. `caller` is the verified address, `deadline` is on the loop's clock."""

    caller: str
    label: str
    key: str
    deadline: float
    correlationid: str
    cancelled: asyncio.Event
    send_part: Callable[[Message], None]

    async def part(self, message: Message) -> None:
        """Send a partial reply."""
        self.send_part(message)
        await asyncio.sleep(0)


@dataclass
class _Call:
    done: asyncio.Future[Envelope]
    on_part: Callable[[Envelope], None] | None


@dataclass
class _Watch:
    view: View | None
    queue: asyncio.Queue[tuple[Change | Synced | ManorError, int, int]] = field(default_factory=asyncio.Queue)
    fetches: set[asyncio.Task[None]] = field(default_factory=set)


class Peer:
    """One principal's presence on the bus."""

    def __init__(
        self,
        connect: Connect,
        *,
        version: str = "",
        pid: int = 0,
        boot_id: str = "",
        token: Callable[[], str] | None = None,
    ) -> None:
        token = token or (lambda: secrets.token_hex(8))
        prefix, count = token(), iter(range(1, 1 << 62))
        self._loop = asyncio.get_running_loop()
        self.session = session.Session(
            instance=prefix,
            version=version,
            pid=pid,
            boot_id=boot_id,
            new_id=lambda: f"{prefix[:8]}{next(count):x}",
        )
        self.greeted = asyncio.Event()
        self.drained = asyncio.Event()
        self._turned: ManorError | None = None
        self._calls: dict[int, _Call] = {}
        self._watches: dict[int, _Watch] = {}
        self._sids = iter(range(1, 1 << 31))
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._turning = False
        self.state = State(self._publish_raw)
        self.answering = Answering(self, version)
        self._connect = connect
        self._link: Link = connect(self)

    # --- facts ----------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Our verified address `label@node/instance`; empty before the first greeting."""
        return self.session.address

    @property
    def node(self) -> str:
        """The node whose broker we are attached to."""
        return self.session.address.partition("@")[2].partition("/")[0]

    async def ready(self, timeout: float = 10.0) -> None:
        """Wait until the broker knows us."""
        try:
            await asyncio.wait_for(self.greeted.wait(), timeout)
        except TimeoutError:
            raise ManorError(
                Kind.UNAVAILABLE, "the bus cannot be reached", delivered=False, origin=Origin.LIBRARY,
                hint="Start it: manor up",
            ) from None  # fmt: skip
        if self._turned is not None:
            raise self._turned

    # --- call -----------------------------------------------------------------------------------------

    async def call(
        self, request: Message, reply: type[R], *, timeout: float, key: str = "", at: str = "",
        on_part: Callable[[Message], None] | None = None, retry: bool = True,
    ) -> R:  # fmt: skip
        """Call whoever serves this request's subject and return the decoded reply.

        `timeout` in seconds is the whole budget, retries included; `key` is the idempotency key (default: new
        `at` is `node` or `node/instance`. Raises ManorError, always within the budget.
        """
        call = CALL_BY_REQUEST[type(request)]
        part = call.part

        def read(wire: Envelope) -> None:
            if on_part is not None and part is not None:
                on_part(codec.decode(wire.data, part))

        wire = Envelope(
            k=Frame.REQ, to=f"{call.subject}@{at}" if at else call.subject, type=call.type_name,
            idempotencykey=key, data=msgspec.Raw(codec.encode(request)),
        )  # fmt: skip
        done = await self.exchange(wire, timeout, read, retry=retry)
        return codec.decode(done.data, reply)

    async def exchange(
        self,
        wire: Envelope,
        timeout: float,
        on_part: Callable[[Envelope], None] | None = None,
        *,
        retry: bool = True,
    ) -> Envelope:
        """Post one request as it is and return the terminal reply's envelope."""
        future: asyncio.Future[Envelope] = self._loop.create_future()
        token = self.session.call(wire, timeout, self._loop.time(), retry=retry)
        self._calls[token] = _Call(future, on_part)
        self._turn()
        try:
            return await future
        finally:
            if self._calls.pop(token, None) is not None and future.cancelled():
                self.session.cancel(token)
                self._turn()

    # --- answer ---------------------------------------------------------------------------------------

    def serve(self, answers: Mapping[type[Message], Answer], owns: tuple[str, ...] = ()) -> None:
        """Answer these requests from now on, and own state under these subject patterns."""
        self.answering.serve(answers)
        subjects = {CALL_BY_REQUEST[request].subject for request in answers}
        self.session.serves = tuple(sorted({subject.partition(".")[0] + ".>" for subject in subjects}))
        self.session.owns = owns
        self.session.types = self.answering.types()
        if self.session.greeted:
            self.session.greet(self._loop.time())
            self._turn()

    def drain(self) -> None:
        """Take no new calls; `drained` is set when the broker sends none any more."""
        self.session.drain()
        self._turn()

    def reply(
        self, sender: str, request: str, *, data: msgspec.Raw = codec.NIL, err: Any = None, last: bool = True
    ) -> None:
        """Send one (partial) reply; used by `answering`."""
        self.session.reply(sender, request, data=data, err=err, last=last)
        self._turn()

    # --- publish --------------------------------------------------------------------------------------

    async def publish(self, subject: str, body: Message) -> None:
        """Publish passing news; state goes through `state.put`."""
        event = EVENT_BY_BODY[type(body)]
        self._publish_raw(subject, event.type_name, msgspec.Raw(codec.encode(body)), "", 0)
        await asyncio.sleep(0)

    def _publish_raw(self, subject: str, type_name: str, data: msgspec.Raw, epoch: str, rev: int) -> None:
        wire = Envelope(
            k=Frame.PUB,
            id=self.session.new_id(),
            subject=subject,
            type=type_name,
            epoch=epoch,
            rev=rev,
            data=data,
        )
        if self.session.publish(wire):
            self._turn_soon()

    # --- watch ----------------------------------------------------------------------------------------

    async def watch(
        self, pattern: str, *, policy: Policy = "coalesce", snapshot: bool = True, window: int = 1_024
    ) -> AsyncIterator[Change | Synced]:
        """Follow every object under a pattern; see Change and Synced. Ends only when closed or refused."""
        sid = next(self._sids)
        mine = _Watch(View(pattern) if snapshot else None)
        self._watches[sid] = mine
        self.session.subscribe(
            pattern, Subscribe(sid=sid, policy=policy, window=window, window_bytes=4_194_304)
        )
        self._turn()
        try:
            while True:
                change, messages, size = await mine.queue.get()
                if isinstance(change, ManorError):
                    raise change
                if not isinstance(change, Synced) or change is not _CREDIT:
                    yield change
                if messages:
                    self.session.consumed(sid, messages, size)
                    self._turn()
        finally:
            del self._watches[sid]
            for task in mine.fetches:
                task.cancel()
            self.session.unsubscribe(sid)
            self._turn_soon()

    async def _fetch(self, sid: int, address: str) -> None:
        watch = self._watches[sid]
        assert watch.view is not None
        items: list[node.SnapshotItem] = []

        def part(message: Message) -> None:
            assert isinstance(message, node.SnapshotPart)
            items.extend(message.items)

        try:
            done = await self.call(
                node.Snapshot(pattern=watch.view.pattern), node.SnapshotDone, timeout=SNAPSHOT_TIMEOUT_S,
                at=address.partition("@")[2], on_part=part, retry=False,
            )  # fmt: skip
        except ManorError as error:
            log.info("no snapshot from %s: %s", address, error)
            self._act(sid, watch, watch.view.failed(address))
        else:
            self._act(sid, watch, watch.view.snapshot(address, done.epoch, done.rev, items))

    def _act(self, sid: int, watch: _Watch, actions: list[Any]) -> None:
        for action in actions:
            if isinstance(action, News):
                watch.queue.put_nowait((change_of(action), 0, 0))
            elif isinstance(action, Fetch):
                task = self._loop.create_task(self._fetch(sid, action.address))
                watch.fetches.add(task)
                task.add_done_callback(watch.fetches.discard)
            elif isinstance(action, AllKnown):
                watch.queue.put_nowait((Synced(), 0, 0))

    # --- what the link and the session tell us --------------------------------------------------------

    def up(self) -> None:
        """The link is connected (called by the transport)."""
        self.session.connected(self._loop.time())
        self._turn()

    def down(self) -> None:
        """The link is gone (called by the transport)."""
        self.session.lost()
        self._turn()

    def received(self, frame: bytes) -> None:
        """A frame came (called by the transport)."""
        self.session.receive(frame, self._loop.time())
        self._turn_soon()

    def _turn_soon(self) -> None:
        if not self._closed and not self._turning:
            self._turning = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Do what the session wants: take its events, send its frames, set its timer."""
        self._turning = False
        if self._closed:
            return
        while self.session.events:
            self._event(self.session.events.popleft())
        out, self.session.out = self.session.out, []
        for frame in out:
            self._link.send(frame)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self.session.next_timer()
        if due != float("inf"):
            self._timer = self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.session.advance(self._loop.time())
        self._turn()

    def _event(self, event: session.Event) -> None:
        match event:
            case session.Replied(token, reply, error):
                self._replied(token, reply, error)
            case session.Parted(token, part):
                self._parted(token, part)
            case session.Asked() | session.Withdrawn():
                self.answering.take(event)
            case session.Arrived() | session.Live() | session.Missed() | session.Barred():
                self._subscription_event(event)
            case session.Greeted(welcome):
                for refused in welcome.denied:
                    log.error("the broker refused: %s", refused)
                self._greeted(None)
            case session.Turned(error):
                self._greeted(error)
            case session.Drained():
                self.drained.set()
            case session.Dead():
                self._reconnect()

    def _greeted(self, turned: ManorError | None) -> None:
        self._turned = turned
        self.greeted.set()

    def _reconnect(self) -> None:
        self._link.close()
        self._link = self._connect(self)

    def _parted(self, token: int, part: Envelope) -> None:
        call = self._calls.get(token)
        if call is not None and call.on_part is not None:
            call.on_part(part)

    def _replied(self, token: int, reply: Envelope | None, error: ManorError | None) -> None:
        call = self._calls.pop(token, None)
        if call is None or call.done.done():
            return
        if error is not None:
            call.done.set_exception(error)
        elif reply is not None:
            call.done.set_result(reply)

    def _subscription_event(
        self, event: session.Arrived | session.Live | session.Missed | session.Barred
    ) -> None:
        watch = self._watches.get(event.sid)
        if watch is None:
            return
        if isinstance(event, session.Barred):
            watch.queue.put_nowait((event.error, 0, 0))
        elif isinstance(event, session.Live):
            known = watch.view.live(event.owners) if watch.view is not None else [AllKnown()]
            self._act(event.sid, watch, list(known))
        elif isinstance(event, session.Missed):
            self._act(event.sid, watch, watch.view.missed() if watch.view is not None else [])
        else:
            for sender, wire in event.items:
                self._act(event.sid, watch, reading(watch.view, sender, wire))
            watch.queue.put_nowait((_CREDIT, len(event.items), event.size))

    async def close(self) -> None:
        """Leave the bus. Calls under way end as unavailable."""
        if self._closed:
            return
        await self.answering.close()
        self._turn()
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._link.close()
        gone = ManorError(Kind.UNAVAILABLE, "this peer was closed", delivered=None, origin=Origin.LIBRARY)
        for call in self._calls.values():
            if not call.done.done():
                call.done.set_exception(gone)
        for watch in self._watches.values():
            watch.queue.put_nowait((gone, 0, 0))


_CREDIT: Final = Synced()  # marks in a watch's queue where a batch ends; never yielded
