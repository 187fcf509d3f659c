"""A switch without a network: hand-made peers that say exactly what a test wants, and see every answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from manor_bus.broker import introspect, policy
from manor_bus.broker.policy import Decision
from manor_bus.broker.switch import LIMITS, Switch
from manor_bus.wire import codec
from manor_bus.wire.envelope import Down, Envelope
from manor_bus.wire.envelope import Kind as Frame
from manor_bus.wire.errors import ErrorBody
from manor_bus.wire.messages import Message
from manor_bus.wire.messages import bus as words


def body(message: Message | dict[str, Any]) -> msgspec.Raw:
    """Encode what goes into `data`."""
    return msgspec.Raw(codec.encode(message))


def downs(frame: bytes) -> list[Down]:
    """What one frame of the broker holds, alone or as a batch."""
    if frame[0] == 0x92:
        return codec.decode(frame, tuple[int, list[Down]])[1]
    return [codec.decode(frame, Down)]


@dataclass
class Hand:
    """One connection whose frames a test writes by hand."""

    bench: Bench
    conn: bytes
    label: str
    downs: list[Down] = field(default_factory=list)
    frames: list[bytes] = field(default_factory=list)
    cut: bool = False

    @property
    def address(self) -> str:
        """What the broker calls it."""
        return self.bench.switch.sessions.by_conn[self.conn].address

    def say(self, wire: Envelope) -> None:
        """Send one envelope."""
        self.say_bytes(codec.encode(wire))

    def say_bytes(self, frame: bytes) -> None:
        """Send any bytes."""
        switch = self.bench.switch
        switch.frame(self.conn, self.label, "test", frame, self.bench.now)
        self.bench.collect()

    def hello(
        self, instance: str, serves: tuple[str, ...] = (), owns: tuple[str, ...] = (), protocol: int = 1
    ) -> Envelope:
        """Greet; returns the answer."""
        hello = words.Hello(protocol=(protocol, protocol), instance=instance, serves=serves, owns=owns)
        self.say(Envelope(k=Frame.HELLO, id="hello", data=body(hello)))
        return self.last()

    def ask(self, to: str, request: str = "r1", timeout: int = 1_000, **more: Any) -> None:
        """Send a request."""
        self.say(Envelope(**{"k": Frame.REQ, "id": request, "to": to, "timeout": timeout, **more}))

    def reply(self, to: str, request: str, *, part: bool = False) -> None:
        """Send a (partial) reply."""
        kind = Frame.PART if part else Frame.REP
        self.say(Envelope(k=kind, to=to, re=request, last=not part, data=body({})))

    def subscribe(
        self, pattern: str, sid: int = 1, policy: str = "coalesce", window: int = 100,
        window_bytes: int = 100_000, *, tap: bool = False,
    ) -> Envelope:  # fmt: skip
        """Subscribe; returns the answer."""
        wish = {"sid": sid, "policy": policy, "window": window, "window_bytes": window_bytes, "tap": tap}
        self.say(Envelope(k=Frame.SUB, id=f"sub{sid}", to=pattern, data=body(wish)))
        return self.last()

    def publish(self, subject: str, rev: int = 1, size: int = 0, data: msgspec.Raw | None = None) -> None:
        """Publish."""
        made = body({"rev": rev, "fill": "x" * size}) if data is None else data
        self.say(Envelope(k=Frame.PUB, subject=subject, epoch="e1", rev=rev, data=made))

    def credit(self, messages: int, size: int, sid: int = 1) -> None:
        """Give credit back."""
        self.say(Envelope(k=Frame.CREDIT, data=body(words.Credit(sid=sid, messages=messages, size=size))))

    def last(self) -> Envelope:
        """The last message outside of subscriptions."""
        return [down for down in self.downs if down.sid == 0][-1].items[0].envelope

    def error(self) -> ErrorBody:
        """The error in it."""
        err = self.last().err
        assert err is not None
        return err

    def kinds(self) -> list[int]:
        """The kinds of all messages outside of subscriptions."""
        return [down.items[0].envelope.k for down in self.downs if down.sid == 0]

    def batches(self, sid: int = 1) -> list[Down]:
        """What came for a subscription."""
        return [down for down in self.downs if down.sid == sid]

    def subjects(self, sid: int = 1) -> list[str]:
        """The subjects that came for a subscription, news of the broker left out."""
        items = [item for down in self.batches(sid) for item in down.items]
        return [item.envelope.subject for item in items if not item.envelope.subject.startswith("bus.")]


class Bench:
    """One switch, its clock, and the hands on it."""

    def __init__(
        self,
        decide: Callable[[str, str, str], Decision] = policy.decide,
        limits: words.Limits = LIMITS,
    ) -> None:
        self.now = 100.0
        self.switch = Switch(node="n1", epoch="ep", boot_id="b", decide=decide, limits=limits)
        self.switch.started = self.now
        self.switch.calls.answers = introspect.answers(
            self.switch, lambda: 1, lambda _: words.Reloaded(keys=1, ended=0)
        )
        self.hands: dict[bytes, Hand] = {}

    def connect(self, label: str = "operator/admin") -> Hand:
        """Open a connection."""
        made = Hand(self, b"c%d" % len(self.hands), label)
        self.hands[made.conn] = made
        return made

    def join(
        self, label: str = "operator/admin", serves: tuple[str, ...] = (), owns: tuple[str, ...] = ()
    ) -> Hand:
        """Open a connection and greet."""
        made = self.connect(label)
        made.hello(f"i{len(self.hands)}", serves, owns)
        return made

    def wait(self, seconds: float) -> None:
        """Let time pass in the steps the switch wants."""
        end = self.now + seconds
        while (due := self.switch.next_timer()) <= end:
            self.now = max(self.now, due)
            self.switch.advance(self.now)
            self.flush()
        self.now = end

    def flush(self) -> None:
        """End a drain cycle."""
        self.switch.flush(self.now)
        self.collect()

    def gone(self, hand: Hand, reason: str = "disconnected") -> None:
        """A connection ends."""
        self.switch.gone(hand.conn, reason, self.now)
        self.collect()

    def collect(self) -> None:
        """Hand out what the switch has sent."""
        for conn, frame in self.switch.outbox.take():
            self.hands[conn].frames.append(frame)
            self.hands[conn].downs += downs(frame)
        cut, self.switch.outbox.cut = self.switch.outbox.cut, []
        for conn in cut:
            self.hands[conn].cut = True
