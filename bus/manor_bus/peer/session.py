"""The peer's core: greeting, liveness, and the way of every frame to calls, subscriptions and watches. Pure.

Frames and time in, frames and `events` out. Shells: `aio` (asyncio) and `blocking` (one thread that waits).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from manor_bus import PROTOCOL
from manor_bus.peer.calls import ClientCalls
from manor_bus.peer.events import (
    Asked,
    Dead,
    Drained,
    Event,
    Greeted,
    Noted,
    Parted,
    Replied,
    Subscribing,
    Turned,
    Withdrawn,
)
from manor_bus.peer.subscriptions import ClientSubscriptions
from manor_bus.wire import codec
from manor_bus.wire.envelope import Down, Envelope, batches
from manor_bus.wire.envelope import Kind as Frame
from manor_bus.wire.errors import ErrorBody, ManorError, bad_request
from manor_bus.wire.messages import bus as words
from manor_bus.wire.messages.node import Snapshot, SnapshotPart

if TYPE_CHECKING:
    from manor_bus.peer.watches import ClientWatches

Policy = Literal["coalesce", "gap", "kick"]
SILENCE_BEATS: Final = 4  # heartbeats without any frame after which the link is taken as dead
GREET_AGAIN_S: Final = 0.5
SNAPSHOT_S: Final = 10.0
WINDOW: Final = 1_024
_BATCH: Final = b"\x92"  # a frame on the way down has three or four elements, a batch of them two
WINDOW_BYTES: Final = 4_194_304


class Session:
    """One peer's side of the conversation with its broker; the shell takes `events`, and frames by `take`.

    It makes and withdraws calls through `calls`, and gives credit through `subscriptions`.
    """

    def __init__(
        self, *, instance: str, version: str, pid: int, boot_id: str, new_id: Callable[[], str]
    ) -> None:
        self.instance, self.version, self.pid = instance, version, pid
        self.new_id = new_id
        self.serves: tuple[str, ...] = ()
        self.owns: tuple[str, ...] = ()
        self.out: list[bytes] = []
        self.events: deque[Event] = deque()
        self.greeted = False
        self.address = self.broker_epoch = ""
        self._boot_id, self._heartbeat_s = boot_id, 1.0
        self.calls = ClientCalls(new_id, self._send, self._called)
        self.subscriptions = ClientSubscriptions(new_id, self._send, self._subscribed)
        self._watches: ClientWatches | None = None
        self._up = self._draining = self.same_clock = self._batches = False
        self._hello_id = ""
        self._greet_at = float("inf")
        self._now = self._heard = self._asked_at = 0.0  # `_now`: as we were told last
        self._sids = 0

    # --- the connection -------------------------------------------------------------------------------

    def connected(self, now: float) -> None:
        """The transport is up: greet."""
        self._up, self._heard, self._now = True, now, now
        self._forget_broker()
        self.greet(now)

    def lost(self) -> None:
        """The transport is down: what was under way has an unknown outcome, what was to be sent is void."""
        self._up = False
        self._greet_at = float("inf")
        self._forget_broker()

    def greet(self, now: float) -> None:
        """Say (again) who we are and what we serve."""
        self._hello_id = self.new_id()
        self._greet_at = now + GREET_AGAIN_S
        hello = words.Hello(
            protocol=(PROTOCOL, PROTOCOL), instance=self.instance, version=self.version, pid=self.pid,
            serves=() if self._draining else self.serves, owns=self.owns, batches=True,
        )  # fmt: skip
        self._send(Envelope(k=Frame.HELLO, id=self._hello_id, data=_raw(hello)))

    def offer(self, serves: tuple[str, ...], owns: tuple[str, ...], now: float) -> None:
        """Serve and own this from now on."""
        self.serves, self.owns = serves, owns
        if self._up:
            self.greet(now)

    def drain(self) -> None:
        """Ask the broker to send no more calls."""
        self._draining = True
        self._send(Envelope(k=Frame.DRAIN))

    def _forget_broker(self) -> None:
        self.greeted = self._batches = False
        self.out.clear()
        self.calls.lost()
        self.subscriptions.lost()

    # --- what the application wants -------------------------------------------------------------------

    def subscribe(
        self, pattern: str, *, policy: Policy = "coalesce", window: int = WINDOW, tap: bool = False
    ) -> int:
        """Subscribe to what passes, until `unsubscribe`; returns the number of the subscription."""
        self._sids += 1
        wish = words.Subscribe(
            sid=self._sids, policy=policy, window=window, window_bytes=WINDOW_BYTES, tap=tap
        )
        self.subscriptions.subscribe(pattern, wish)
        return self._sids

    def watch(
        self, pattern: str, *, snapshot: bool = True, policy: Policy = "coalesce", window: int = WINDOW,
        owners: bool = False,
    ) -> int:  # fmt: skip
        """Subscribe as a watch: typed changes, and with `snapshot` also what is there already.

        `owners`: also where each owner of it stands.
        """
        if self._watches is None:
            from manor_bus.peer.watches import ClientWatches  # it knows every event; most commands only call

            self._watches = ClientWatches(
                self._ask_snapshot, self.calls.cancel, self.subscriptions.renew, self.events.append
            )
        sid = self.subscribe(pattern, policy=policy, window=window)
        self._watches.begin(sid, pattern, snapshot=snapshot, owners=owners)
        return sid

    def unsubscribe(self, sid: int) -> None:
        """End a subscription or a watch."""
        self.subscriptions.unsubscribe(sid)
        if self._watches is not None:
            self._watches.end(sid)

    def reply(
        self, sender: str, request: str, *, data: msgspec.Raw, err: ErrorBody | None, last: bool
    ) -> None:
        """Answer a call, partially or for good; what is larger than a frame becomes an error."""
        kind = Frame.REP if last else Frame.PART
        if not self._send(Envelope(k=kind, to=sender, re=request, last=last, err=err, data=data)):
            large = bad_request(f"the answer is larger than a frame ({codec.FRAME_BYTES_MAX} bytes)")
            self._send(Envelope(k=Frame.REP, to=sender, re=request, last=True, err=large.body()))

    def publish(self, wire: Envelope) -> bool:
        """Send an event; False while the broker does not know us (owners resend state when asked)."""
        if self.greeted and not self._send(wire):
            raise bad_request(f"the event {wire.subject} is larger than a frame")
        return self.greeted

    # --- what calls and subscriptions tell ------------------------------------------------------------

    def _called(self, event: Event) -> None:
        if (
            self._watches is None
            or not isinstance(event, Replied | Parted)
            or not self._watches.called(event, self._now)
        ):
            self.events.append(event)

    def _subscribed(self, event: Subscribing) -> None:
        if self._watches is not None and event.sid in self._watches:
            self._watches.subscribed(event, self._now)
        else:
            self.events.append(event)

    def _ask_snapshot(self, address: str, pattern: str, now: float) -> int:
        to = f"srv.snapshot@{address.partition('@')[2]}"
        wire = Envelope(k=Frame.REQ, to=to, type="srv.snapshot.v1", data=_raw(Snapshot(pattern=pattern)))
        return self.calls.call(wire, SNAPSHOT_S, now, retry=False, part=SnapshotPart)

    # --- time -----------------------------------------------------------------------------------------

    def next_timer(self) -> float:
        """Return when `advance` wants to be called."""
        last = self._heard if self._asked_at <= self._heard else self._asked_at
        beat = last + self._heartbeat_s if self._up else float("inf")
        due = min(self.calls.next_timer(), self._greet_at, beat)
        return due if self._watches is None else min(due, self._watches.next_timer())

    def advance(self, now: float) -> None:
        """Let time pass: end calls whose budget is over, try again, notice silence."""
        self._now = now
        self.calls.advance(now)
        if self._watches is not None:
            self._watches.advance(now)
        if not self._up:
            return
        if now >= self._greet_at:
            self.greet(now)
        if now >= self._heard + self._heartbeat_s * SILENCE_BEATS:
            self.events.append(Dead())
            self.lost()
        elif now >= max(self._heard, self._asked_at) + self._heartbeat_s:  # as next_timer adds it
            self._asked_at = now
            self._send(Envelope(k=Frame.PING, id=self.new_id()))

    def take(self) -> list[bytes]:
        """Take out the frames to send: several messages that wait go as one, when the broker takes that."""
        out, self.out = self.out, []
        return list(batches(out)) if self._batches and len(out) > 1 else out

    def _send(self, wire: Envelope) -> bool:
        frame = codec.encode(wire)
        fits = len(frame) <= codec.FRAME_BYTES_MAX
        if fits:
            self.out.append(frame)
        return fits

    # --- what the broker sends ------------------------------------------------------------------------

    def receive(self, frame: bytes, now: float) -> None:
        """Take one frame from the broker."""
        self._heard = self._now = now
        try:
            if frame[:1] != _BATCH:
                self._down(codec.decode(frame, Down), len(frame), now)
                return
            _, messages = codec.decode(frame, tuple[int, list[msgspec.Raw]])
            for message in messages:
                self._down(codec.decode(message, Down), len(memoryview(message)), now)
        except ManorError as error:
            self.events.append(Noted(f"a frame of the broker cannot be read: {error}"))

    def _down(self, down: Down, size: int, now: float) -> None:
        if down.sid:
            self.subscriptions.items(down, size)
            return
        for item in down.items:
            self._take(item.sender, item.envelope, down.n, now)

    def _take(self, sender: str, wire: Envelope, n: int, now: float) -> None:
        match wire.k:
            case Frame.REP | Frame.PART:
                if not self.subscriptions.reply(wire):
                    self.calls.reply(wire, now)
            case Frame.REQ:
                deadline = n / 1000 if self.same_clock and n else now + wire.timeout / 1000
                self.events.append(Asked(sender, wire, deadline))
            case Frame.CANCEL:
                self.events.append(Withdrawn(sender, wire.re))
            case Frame.WELCOME:
                self._welcome(wire, now)
            case Frame.RESET:
                self._forget_broker()
                self.greet(now)
            case Frame.DRAIN:
                self.events.append(Drained())
            case Frame.PUB:  # a service we asked for in vain is there
                self.calls.wake(now)
            case _:
                pass  # PING: that it came is all it says

    def _welcome(self, wire: Envelope, now: float) -> None:
        if wire.re != self._hello_id:
            return
        self._greet_at = float("inf")
        if wire.err is not None:
            self.events.append(Turned(ManorError.from_body(wire.err)))
            return
        welcome = codec.read_body(wire.data, words.Welcome)
        again = self.greeted and welcome.broker_epoch == self.broker_epoch
        self.greeted, self.address, self.broker_epoch = True, welcome.address, welcome.broker_epoch
        self._heartbeat_s = welcome.heartbeat_ms / 1000
        self._batches = welcome.batches
        self.same_clock = bool(self._boot_id) and welcome.boot_id == self._boot_id
        self.events.append(Greeted(welcome))
        if not again:
            self.subscriptions.greeted()
            self.calls.greeted(now, same_clock=self.same_clock)


def _raw(message: object) -> msgspec.Raw:
    return msgspec.Raw(codec.encode(message))
