"""The subscriptions a peer has: numbering, gaps, credit, and life through reconnections. Pure."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from manor_bus.peer.events import Arrived, Barred, Live, Missed, Subscribing
from manor_bus.wire import codec
from manor_bus.wire.envelope import Down, Envelope, array_header
from manor_bus.wire.envelope import Kind as Frame
from manor_bus.wire.errors import ManorError
from manor_bus.wire.messages.bus import Credit, Subscribe, Subscribed, Unsubscribe


class _Sub(msgspec.Struct, eq=False):
    sid: int  # the application's
    pattern: str
    wish: Subscribe
    life: int = 0  # the number on the wire: a new one for every connection, so that nothing old is taken
    request: str = ""
    next: int | None = None
    messages: int = 0  # consumed
    size: int = 0
    told_messages: int = 0
    told_size: int = 0


class ClientSubscriptions:
    """Subscriptions by the application's `sid`."""

    def __init__(
        self, new_id: Callable[[], str], send: Callable[[Envelope], bool], tell: Callable[[Subscribing], None]
    ) -> None:
        self._new_id, self._send, self._tell = new_id, send, tell
        self._subs: dict[int, _Sub] = {}
        self._by_life: dict[int, _Sub] = {}
        self._by_request: dict[str, _Sub] = {}
        self._lives = 0
        self._greeted = False

    def greeted(self) -> None:
        """The broker takes subscriptions now: subscribe to everything (again)."""
        self._greeted = True
        for sub in self._subs.values():
            self._ask(sub)

    def lost(self) -> None:
        """The broker has forgotten us."""
        self._greeted = False
        self._by_life.clear()
        self._by_request.clear()

    def subscribe(self, pattern: str, wish: Subscribe) -> None:
        """Subscribe; it lives through reconnections until `unsubscribe`."""
        self._subs[wish.sid] = sub = _Sub(wish.sid, pattern, wish)
        if self._greeted:
            self._ask(sub)

    def unsubscribe(self, sid: int) -> None:
        """End a subscription."""
        sub = self._subs.pop(sid, None)
        if sub is not None:
            self._leave(sub)

    def renew(self, sid: int) -> None:
        """Begin a subscription anew: who owns what may have been among the items that were lost."""
        sub = self._subs.get(sid)
        if sub is not None and self._greeted:
            self._leave(sub)
            self._ask(sub)

    def consumed(self, arrived: Arrived) -> None:
        """Give credit back for items the application is done with."""
        sub = self._by_life.get(arrived.life)
        if sub is None:
            return  # the connection they came over is gone, and its count with it
        sub.messages += len(arrived.items)
        sub.size += arrived.size
        if (sub.messages - sub.told_messages) * 4 >= sub.wish.window or (
            sub.size - sub.told_size
        ) * 4 >= sub.wish.window_bytes:
            self._credit(sub)

    def reply(self, wire: Envelope) -> bool:
        """Take the answer to a SUB; False when it is none."""
        sub = self._by_request.pop(wire.re, None)
        if sub is None or self._by_life.get(sub.life) is not sub or sub.request != wire.re:
            return sub is not None
        if wire.err is not None:
            del self._subs[sub.sid]
            self._by_life.pop(sub.life, None)
            self._tell(Barred(sub.sid, ManorError.from_body(wire.err)))
            return True
        done = codec.read_body(wire.data, Subscribed)
        sub.next = done.seq
        self._tell(Live(sub.sid, done.owners))
        return True

    def items(self, down: Down, size: int) -> None:
        """Take a frame of a subscription that had `size` bytes."""
        sub = self._by_life.get(down.sid)
        if sub is None or sub.next is None:
            return  # ended here
        if down.n != sub.next:
            self._tell(Missed(sub.sid, down.n - sub.next))
            sub.next = down.n
        if down.items:
            sub.next += len(down.items)
            self._tell(Arrived(sub.sid, sub.life, down.items, size - _head(down)))
        elif sub.messages > sub.told_messages:
            self._credit(sub)  # a quiet moment: also the last bit of room, someone may wait for it

    def _leave(self, sub: _Sub) -> None:
        if self._by_life.pop(sub.life, None) is not None:
            body = msgspec.Raw(codec.encode(Unsubscribe(sid=sub.life)))
            self._send(Envelope(k=Frame.UNSUB, id=self._new_id(), data=body))

    def _ask(self, sub: _Sub) -> None:
        self._lives += 1
        sub.life, sub.next = self._lives, None
        sub.messages = sub.size = sub.told_messages = sub.told_size = 0
        sub.request = self._new_id()
        self._by_life[sub.life] = self._by_request[sub.request] = sub
        body = msgspec.Raw(codec.encode(msgspec.structs.replace(sub.wish, sid=sub.life)))
        self._send(Envelope(k=Frame.SUB, id=sub.request, to=sub.pattern, data=body))

    def _credit(self, sub: _Sub) -> None:
        sub.told_messages, sub.told_size = sub.messages, sub.size
        body = Credit(sid=sub.life, messages=sub.messages, size=sub.size)
        self._send(Envelope(k=Frame.CREDIT, data=msgspec.Raw(codec.encode(body))))


def _head(down: Down) -> int:
    """Return how many bytes of a frame are not items (the page docs/wire.md, section Subscribe)."""
    head = 1 + len(codec.encode(down.sid)) + len(codec.encode(down.n)) + len(array_header(len(down.items)))
    return head + (len(codec.encode(down.superseded)) if down.superseded else 0)
