"""What a broker sends: frames that wait for the shell, connections to end, and its own messages. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import msgspec

from manor_bus.broker.fanout import Send
from manor_bus.broker.sessions import Peer
from manor_bus.wire import codec, envelope
from manor_bus.wire.envelope import Envelope
from manor_bus.wire.envelope import Kind as Frame
from manor_bus.wire.errors import ErrorBody, ManorError, Origin, Problem
from manor_bus.wire.messages import Message
from manor_bus.wire.messages.bus import Reset

Reason = Literal["unknown", "slow", "protocol", "kicked", "revoked", "replaced", "quota"]


class Outbox:
    """One broker's outgoing side; `out` and `cut` are emptied by the shell."""

    def __init__(self, address: str, epoch: str) -> None:
        self.address, self.epoch = address, epoch
        self.packed = envelope.pack_text(address)
        self.out: list[Send] = []
        self.cut: list[bytes] = []
        self.counters: Counter[str] = Counter()
        self.batching: set[bytes] = set()  # connections that take several messages in one frame

    def take(self) -> list[Send]:
        """Take out what is to be sent, in as few frames as may be; the order of each connection is kept."""
        out, self.out = self.out, []
        if len(out) < 2:
            return out
        by_conn: dict[bytes, list[bytes]] = {}
        for conn, frame in out:
            by_conn.setdefault(conn, []).append(frame)
        sends: list[Send] = []
        for conn, frames in by_conn.items():
            if len(frames) > 1 and conn in self.batching:
                sends += [(conn, frame) for frame in envelope.batches(frames)]
            else:
                sends += [(conn, frame) for frame in frames]
        return sends

    def send(self, conn: bytes, wire: Envelope) -> None:
        """Send one message of the broker's own."""
        self.out.append((conn, envelope.single(self.packed, codec.encode(wire))))

    def answer(self, peer: Peer, wire: Envelope) -> None:
        """Send one message of the broker's own to a greeted peer."""
        peer.sent += 1
        self.send(peer.conn, wire)

    def reply(self, peer: Peer, request: str, message: Message) -> None:
        """Answer a request of a peer to the broker."""
        self.answer(peer, Envelope(k=Frame.REP, re=request, last=True, data=raw(message)))

    def refuse(self, peer: Peer, request: str, error: ManorError) -> None:
        """Answer a request that was not delivered."""
        self.answer(peer, Envelope(k=Frame.REP, re=request, last=True, err=refusal(error)))

    def reset(self, conn: bytes, reason: Reason, err: ErrorBody | None = None) -> None:
        """Tell a connection that its session is over, or never was."""
        self.send(
            conn, Envelope(k=Frame.RESET, err=err, data=raw(Reset(broker_epoch=self.epoch, reason=reason)))
        )


def raw(message: Message) -> msgspec.Raw:
    """Encode a body."""
    return msgspec.Raw(codec.encode(message))


def refusal(error: ManorError) -> ErrorBody:
    """Return the wire form of the broker's own no."""
    error.origin, error.delivered = Origin.BROKER, False
    return error.body()


def problem(path: str, value: str, allowed: str) -> Problem:
    """Name one refused field."""
    return Problem(path=path, value=value[:80], reason="not allowed", allowed=allowed)
