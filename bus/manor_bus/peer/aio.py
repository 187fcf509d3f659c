"""A peer of the bus on asyncio: call, answer, publish, watch. A shell around `session`.

Service authors need this module, `serving` and the messages, nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar, cast

import msgspec

from manor_bus.peer.calls import unreachable, unwelcome
from manor_bus.peer.dispatcher import Answer as Answer
from manor_bus.peer.dispatcher import Context as Context
from manor_bus.peer.dispatcher import Dispatcher
from manor_bus.peer.events import (
    Asked,
    Barred,
    Dead,
    Drained,
    Greeted,
    Noted,
    Parted,
    Replied,
    Restarted,
    Told,
    Turned,
    Watched,
    Withdrawn,
)
from manor_bus.peer.events import Change as Change
from manor_bus.peer.events import OwnerSeen as OwnerSeen
from manor_bus.peer.events import Synced as Synced
from manor_bus.peer.session import WINDOW, Policy, Session
from manor_bus.peer.state import State
from manor_bus.peer.transport import Connect, Link
from manor_bus.wire import codec
from manor_bus.wire.envelope import Envelope
from manor_bus.wire.envelope import Kind as Frame
from manor_bus.wire.errors import Kind, ManorError, Origin
from manor_bus.wire.messages import Message
from manor_bus.wire.messages.catalogue import CALL_BY_REQUEST, EVENT_BY_BODY

R = TypeVar("R", bound=Message)
FOREVER: Final = float("inf")
log = logging.getLogger(__name__)


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
        token = token or (lambda: os.urandom(8).hex())
        prefix, count = token(), iter(range(1, 1 << 62))
        self._loop = asyncio.get_running_loop()
        self.session = Session(
            instance=prefix,
            version=version,
            pid=pid,
            boot_id=boot_id,
            new_id=lambda: f"{prefix[:8]}{next(count):x}",
        )
        self.greeted = asyncio.Event()
        self.drained = asyncio.Event()
        self._refused = asyncio.Event()
        self._turned: ManorError | None = None
        self.on_greeted: list[Callable[[], None]] = []  # called whenever the broker knows us (again)
        self._calls: dict[int, asyncio.Future[Envelope]] = {}
        self._on_part: dict[int, Callable[[Any], None]] = {}
        self._on_restart: dict[int, Callable[[], None]] = {}
        self._watches: dict[int, asyncio.Queue[Watched | ManorError]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due = FOREVER  # when it rings
        self._closed = False
        self._turning = False
        self._takes: dict[type, Callable[[Any], None]] = {
            Replied: self._replied, Parted: self._parted, Restarted: self._restarted, Watched: self._watched,
            Greeted: self._welcomed, Drained: self._drained, Dead: self._dead,
            Turned: lambda event: self._greeted(event.error),
            Barred: lambda event: self._watched_until(event.sid, event.error),
            Noted: lambda event: log.warning("%s", event.text),
        }  # fmt: skip
        self.state = State(self._publish_raw)
        self.dispatcher = Dispatcher(self.session, self.state, version, self.turn_soon)
        self._takes |= {Asked: self.dispatcher.asked, Withdrawn: self.dispatcher.withdrawn}
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
            raise unreachable() from None
        if self._turned is not None:
            raise self._turned

    async def turned_away(self) -> ManorError:
        """Wait until the broker refuses us, as after our key was revoked; returns its reason."""
        await self._refused.wait()
        assert self._turned is not None
        return self._turned

    # --- call -----------------------------------------------------------------------------------------

    async def call(
        self, request: Message, reply: type[R], *, timeout: float, key: str = "", at: str = "",
        on_part: Callable[[Any], None] | None = None, on_restart: Callable[[], None] | None = None,
        retry: bool = True, on_behalf_of: Context | str = "",
    ) -> R:  # fmt: skip
        """Call whoever serves this request's subject and return the decoded reply.

        `timeout` in seconds is the whole budget, retries included; `key` is the idempotency key (default:
        a new one); `at` is `node` or `node/instance`. `on_behalf_of` is the call this one is made for, or
        the address of who made it. Raises ManorError, always within the budget. When a retry makes the
        parts so far void, `on_restart` is called.
        """
        call = CALL_BY_REQUEST[type(request)]
        wire = Envelope(
            k=Frame.REQ, to=f"{call.subject}@{at}" if at else call.subject, type=call.type_name,
            idempotencykey=key, data=msgspec.Raw(codec.encode(request)),
            on_behalf_of=on_behalf_of if isinstance(on_behalf_of, str) else on_behalf_of.actor,
        )  # fmt: skip
        future: asyncio.Future[Envelope] = self._loop.create_future()
        part = None if on_part is None else call.part
        token = self.session.calls.call(wire, timeout, self._loop.time(), retry=retry, part=part)
        self._calls[token] = future
        if on_part is not None:
            self._on_part[token] = on_part
        if on_restart is not None:
            self._on_restart[token] = on_restart
        if len(self._calls) == 1:
            self.turn()
        else:
            self.turn_soon()  # others may call in this turn of the loop, too: it goes as one frame
        try:
            return codec.read_body((await future).data, reply)
        finally:
            self._on_part.pop(token, None)
            self._on_restart.pop(token, None)
            if self._calls.pop(token, None) is not None:  # whoever waited was cancelled
                self.session.calls.cancel(token)
                self.turn()

    # --- answer ---------------------------------------------------------------------------------------

    def serve(self, answers: Mapping[type[Message], Answer], owns: tuple[str, ...] = ()) -> None:
        """Answer these requests from now on, and own state under these subject patterns."""
        self.dispatcher.serve(answers)
        subjects = {CALL_BY_REQUEST[request].subject for request in answers}
        serves = tuple(sorted({subject.partition(".")[0] + ".>" for subject in subjects}))
        self.session.offer(serves, owns, self._loop.time())
        self.turn()

    def drain(self) -> None:
        """Take no new calls; `drained` is set when the broker sends none any more."""
        self.session.drain()
        self.turn()

    # --- publish --------------------------------------------------------------------------------------

    async def publish(self, subject: str, body: Message) -> None:
        """Publish passing news; state goes through `state.put`."""
        event = EVENT_BY_BODY[type(body)]
        self._publish_raw(subject, event.type_name, msgspec.Raw(codec.encode(body)), "", 0)
        await asyncio.sleep(0)

    def _publish_raw(self, subject: str, type_name: str, data: msgspec.Raw, epoch: str, rev: int) -> None:
        wire = Envelope(
            k=Frame.PUB, id=self.session.new_id(), subject=subject, type=type_name, epoch=epoch, rev=rev,
            data=data,
        )  # fmt: skip
        if self.session.publish(wire):
            self.turn_soon()

    # --- watch ----------------------------------------------------------------------------------------

    def watch(
        self, pattern: str, *, policy: Policy = "coalesce", snapshot: bool = True, window: int = WINDOW
    ) -> AsyncIterator[Told]:
        """Follow every object under a pattern; see Change and Synced. Ends only when closed or refused.

        It subscribes when it is first awaited.
        """
        told = self._follow(pattern, policy, window, snapshot=snapshot, owners=False)
        return cast("AsyncIterator[Told]", told)

    def watch_owners(self, pattern: str) -> AsyncIterator[Told | OwnerSeen]:
        """Follow every object under a pattern as `watch` does, and where each of its owners stands."""
        return self._follow(pattern, "coalesce", WINDOW, snapshot=True, owners=True)

    async def _follow(
        self, pattern: str, policy: Policy, window: int, *, snapshot: bool, owners: bool
    ) -> AsyncIterator[Told | OwnerSeen]:
        sid = self.session.watch(pattern, snapshot=snapshot, policy=policy, window=window, owners=owners)
        queue = self._watches[sid] = asyncio.Queue()
        self.turn()
        try:
            while True:
                told = await queue.get()
                if isinstance(told, ManorError):
                    raise told
                for change in told.changes:
                    yield change
                if told.batch is not None:
                    self.session.subscriptions.consumed(told.batch)
                    self.turn_soon()
        finally:
            del self._watches[sid]
            self.session.unsubscribe(sid)
            self.turn_soon()

    # --- what the link tells us -----------------------------------------------------------------------

    def up(self) -> None:
        """The link is connected (called by the transport)."""
        self.session.connected(self._loop.time())
        self.turn()

    def down(self) -> None:
        """The link is gone (called by the transport)."""
        self.session.lost()
        self.turn()

    def refused(self) -> None:
        """The broker does not know our key (called by the transport)."""
        self.session.lost()
        self._greeted(unwelcome())

    def received(self, frames: Sequence[bytes]) -> None:
        """Frames came (called by the transport)."""
        now = self._loop.time()
        for frame in frames:
            self.session.receive(frame, now)
        self.turn()

    # --- what the session wants -----------------------------------------------------------------------

    def turn_soon(self) -> None:
        """Do what the session wants once the present event is done with."""
        if not self._closed and not self._turning:
            self._turning = True
            self._loop.call_soon(self.turn)

    def turn(self) -> None:
        """Do what the session wants: take its events, send its frames, set its timer."""
        if self._closed:
            return
        session, events = self.session, self.session.events
        self._turning = True  # what this gives rise to is done at its end
        try:
            while events:
                event = events.popleft()
                self._takes[type(event)](event)
        finally:
            self._turning = False
        if session.out:
            for frame in session.take():
                self._link.send(frame)
        due = session.next_timer()
        if due < self._due:  # a timer that rings too early does no harm, setting one for every frame costs
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._due = self._loop.call_at(due, self._tick), due

    def _tick(self) -> None:
        self._timer, self._due = None, FOREVER
        self.session.advance(self._loop.time())
        self.turn()

    def _welcomed(self, event: Greeted) -> None:
        for denied in event.welcome.denied:
            log.error("the broker denied us: %s", denied)
        self._greeted(None)
        for told in self.on_greeted:
            told()

    def _greeted(self, turned: ManorError | None) -> None:
        self._turned = turned
        self.greeted.set()
        if turned is not None:
            log.error("the broker turned us away: %s", turned)
            self._refused.set()

    def _drained(self, event: Drained) -> None:
        self.dispatcher.draining = True
        self.drained.set()

    def _dead(self, event: Dead) -> None:
        self._link.close()
        self._link = self._connect(self)

    def _watched(self, event: Watched) -> None:
        queue = self._watches.get(event.sid)
        if queue is not None:
            queue.put_nowait(event)

    def _watched_until(self, sid: int, error: ManorError) -> None:
        if sid in self._watches:
            self._watches[sid].put_nowait(error)

    def _replied(self, event: Replied) -> None:
        future = self._calls.pop(event.token, None)
        if future is None or future.done():
            return
        if event.error is not None:
            future.set_exception(event.error)
        elif event.reply is not None:
            future.set_result(event.reply)

    def _parted(self, event: Parted) -> None:
        if event.token in self._on_part:
            self._on_part[event.token](event.part)

    def _restarted(self, event: Restarted) -> None:
        if event.token in self._on_restart:
            self._on_restart[event.token]()

    async def close(self) -> None:
        """Leave the bus. Calls under way end as unavailable."""
        if self._closed:
            return
        await self.dispatcher.close()
        self.turn()
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._link.close()
        gone = ManorError(Kind.UNAVAILABLE, "this peer was closed", delivered=None, origin=Origin.LIBRARY)
        for future in self._calls.values():
            if not future.done():
                future.set_exception(gone)
        self._calls.clear()
        for queue in self._watches.values():
            queue.put_nowait(gone)
