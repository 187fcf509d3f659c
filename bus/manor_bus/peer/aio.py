"""A peer of the bus on asyncio: call, answer, publish, watch. A shell around `session` and `view`.

Service authors need this module, `service.py` and the messages, nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from manor_bus.peer import outcomes
from manor_bus.peer.calls import unreachable, unwelcome
from manor_bus.peer.dispatcher import Answering
from manor_bus.peer.session import Session
from manor_bus.peer.state import State
from manor_bus.peer.transport import Connect, Link
from manor_bus.peer.view import Change as Change
from manor_bus.peer.view import Synced as Synced
from manor_bus.peer.watching import Policy, Watching
from manor_bus.wire import codec
from manor_bus.wire.envelope import Envelope
from manor_bus.wire.envelope import Kind as Frame
from manor_bus.wire.errors import Kind, ManorError, Origin
from manor_bus.wire.messages import Message
from manor_bus.wire.messages.catalogue import CALL_BY_REQUEST, EVENT_BY_BODY

R = TypeVar("R", bound=Message)
Answer = Callable[[Any, "Context"], Awaitable[Message]]
log = logging.getLogger(__name__)


class Context(msgspec.Struct, frozen=True):
    """Who calls, and until when. `caller` is the verified address, `deadline` is on the loop's clock.

    `on_behalf_of` is the address of whom the caller, a service, acts for; empty when it acts for itself.
    """

    caller: str
    label: str
    key: str
    deadline: float
    correlationid: str
    cancelled: asyncio.Event
    send_part: Callable[[Message], None]
    on_behalf_of: str = ""

    @property
    def actor(self) -> str:
        """The address of who wants this: the caller, or whom it acts for."""
        return self.on_behalf_of or self.caller

    async def part(self, message: Message) -> None:
        """Send a partial reply."""
        self.send_part(message)
        await asyncio.sleep(0)


@dataclass
class _Call:
    done: asyncio.Future[Envelope]
    on_part: Callable[[Envelope], None] | None
    on_restart: Callable[[], None] | None


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
        self._calls: dict[int, _Call] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due = float("inf")  # when it rings
        self._closed = False
        self._turning = False
        self.state = State(self._publish_raw)
        self.answering = Answering(self, version)
        self._watching = Watching(self)
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
        on_part: Callable[[Message], None] | None = None, on_restart: Callable[[], None] | None = None,
        retry: bool = True, on_behalf_of: Context | str = "",
    ) -> R:  # fmt: skip
        """Call whoever serves this request's subject and return the decoded reply.

        `timeout` in seconds is the whole budget, retries included; `key` is the idempotency key (default:
        a new one); `at` is `node` or `node/instance`. `on_behalf_of` is the call this one is made for, or
        the address of who made it. Raises ManorError, always within the budget. When a retry makes the
        parts so far void, `on_restart` is called.
        """
        call = CALL_BY_REQUEST[type(request)]
        part = call.part

        def read(wire: Envelope) -> None:
            if on_part is not None and part is not None:
                on_part(codec.decode(wire.data, part))

        wire = Envelope(
            k=Frame.REQ, to=f"{call.subject}@{at}" if at else call.subject, type=call.type_name,
            idempotencykey=key, data=msgspec.Raw(codec.encode(request)),
            on_behalf_of=on_behalf_of if isinstance(on_behalf_of, str) else on_behalf_of.actor,
        )  # fmt: skip
        done = await self.exchange(wire, timeout, read, on_restart, retry=retry)
        return codec.decode(done.data, reply)

    async def exchange(
        self,
        wire: Envelope,
        timeout: float,
        on_part: Callable[[Envelope], None] | None = None,
        on_restart: Callable[[], None] | None = None,
        *,
        retry: bool = True,
    ) -> Envelope:
        """Post one request as it is and return the terminal reply's envelope."""
        future: asyncio.Future[Envelope] = self._loop.create_future()
        token = self.session.call(wire, timeout, self._loop.time(), retry=retry)
        self._calls[token] = _Call(future, on_part, on_restart)
        self.turn()
        try:
            return await future
        finally:
            if self._calls.pop(token, None) is not None and future.cancelled():
                self.session.cancel(token)
                self.turn()

    # --- answer ---------------------------------------------------------------------------------------

    def serve(self, answers: Mapping[type[Message], Answer], owns: tuple[str, ...] = ()) -> None:
        """Answer these requests from now on, and own state under these subject patterns."""
        self.answering.serve(answers)
        subjects = {CALL_BY_REQUEST[request].subject for request in answers}
        serves = tuple(sorted({subject.partition(".")[0] + ".>" for subject in subjects}))
        self.session.offer(serves, owns, self.answering.types(), self._loop.time())
        self.turn()

    def drain(self) -> None:
        """Take no new calls; `drained` is set when the broker sends none any more."""
        self.session.drain()
        self.turn()

    def reply(
        self, sender: str, request: str, *, data: msgspec.Raw = codec.NIL, err: Any = None, last: bool = True
    ) -> None:
        """Send one (partial) reply; used by `answering`."""
        self.session.reply(sender, request, data=data, err=err, last=last)
        self.turn()

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
            self.turn_soon()

    # --- watch ----------------------------------------------------------------------------------------

    def watch(
        self, pattern: str, *, policy: Policy = "coalesce", snapshot: bool = True, window: int = 1_024
    ) -> AsyncIterator[Change | Synced]:
        """Follow every object under a pattern; see Change and Synced. Ends only when closed or refused.

        It subscribes when it is first awaited.
        """
        return self._watching.watch(pattern, policy, window, snapshot=snapshot)

    # --- what the link and the session tell us --------------------------------------------------------

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

    def received(self, frame: bytes) -> None:
        """A frame came (called by the transport)."""
        self.session.receive(frame, self._loop.time())
        self.turn_soon()

    def turn_soon(self) -> None:
        """Do what the session wants once the present event is done with."""
        if not self._closed and not self._turning:
            self._turning = True
            self._loop.call_soon(self.turn)

    def turn(self) -> None:
        """Do what the session wants: take its events, send its frames, set its timer."""
        self._turning = False
        if self._closed:
            return
        while self.session.events:
            self._event(self.session.events.popleft())
        out, self.session.out = self.session.out, []
        for frame in out:
            self._link.send(frame)
        due = self.session.next_timer()
        if due < self._due:  # a timer that rings too early does no harm, setting one for every frame costs
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._due = self._loop.call_at(due, self._tick), due

    def _tick(self) -> None:
        self._timer, self._due = None, float("inf")
        self.session.advance(self._loop.time())
        self.turn()

    def _event(self, event: outcomes.Event) -> None:
        match event:
            case outcomes.Replied() | outcomes.Parted() | outcomes.Restarted():
                self._calling(event)
            case outcomes.Asked() | outcomes.Withdrawn():
                self.answering.take(event)
            case outcomes.Arrived() | outcomes.Live() | outcomes.Missed() | outcomes.Barred():
                self._watching.take(event)
            case outcomes.Greeted(welcome):
                for denied in welcome.denied:
                    log.error("the broker denied us: %s", denied)
                self._greeted(None)
                for told in self.on_greeted:
                    told()
            case outcomes.Turned(error):
                self._greeted(error)
            case outcomes.Drained():
                self.drained.set()
            case outcomes.Dead():
                self._link.close()
                self._link = self._connect(self)

    def _greeted(self, turned: ManorError | None) -> None:
        self._turned = turned
        self.greeted.set()
        if turned is not None:
            log.error("the broker turned us away: %s", turned)
            self._refused.set()

    def _calling(self, event: outcomes.Calling) -> None:
        call = self._calls.get(event.token)
        if call is None:
            return
        try:
            match event:
                case outcomes.Parted(_, part) if call.on_part is not None:
                    call.on_part(part)
                case outcomes.Restarted() if call.on_restart is not None:
                    call.on_restart()
                case outcomes.Replied(_, reply, error):
                    self._end(event.token, call, reply, error)
                case _:
                    pass  # nobody listens to parts
        except ManorError as error:  # the part is not what its type says
            self.session.cancel(event.token)
            self._end(event.token, call, None, error)

    def _end(self, token: int, call: _Call, reply: Envelope | None, error: ManorError | None) -> None:
        del self._calls[token]
        if call.done.done():
            return
        if error is not None:
            call.done.set_exception(error)
        elif reply is not None:
            call.done.set_result(reply)

    async def close(self) -> None:
        """Leave the bus. Calls under way end as unavailable."""
        if self._closed:
            return
        await self.answering.close()
        self.turn()
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._link.close()
        gone = ManorError(Kind.UNAVAILABLE, "this peer was closed", delivered=None, origin=Origin.LIBRARY)
        for call in self._calls.values():
            if not call.done.done():
                call.done.set_exception(gone)
        self._watching.end(gone)
