"""Peers on plain sockets that speak our frames: to our broker (`manor`), or past it to a baseline (`plain`).

A child process: `python -m benchmarks.raw caller|service|publisher|subscriber manor|plain KEYS ENDPOINT`.
Both sides decode and encode the same envelopes with the same codec: only the way between them differs.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec
import zmq

from benchmarks import bodies
from benchmarks.processes import serve
from manor_bus import PROTOCOL, keys
from manor_bus.wire import codec
from manor_bus.wire.envelope import Down, Envelope
from manor_bus.wire.envelope import Kind as Frame
from manor_bus.wire.messages import bus as words
from manor_bus.wire.messages.lifecycle import DomainStatus, Operation

TOPIC: Final = b"operation."
WINDOW: Final = 16_384
WINDOW_BYTES: Final = 64 * 1_048_576


def request_of(number: int) -> bytes:
    """One request."""
    return codec.encode(
        Envelope(
            k=Frame.REQ, id=f"{number:016x}", to="lifecycle.domain.show", type="lifecycle.domain.show.v1",
            timeout=30_000, idempotencykey=f"{number:016x}", data=msgspec.Raw(bodies.SHOW_BYTES),
        )
    )  # fmt: skip


def answer_of(request: Envelope, caller: str) -> bytes:
    """Its reply."""
    body = msgspec.Raw(bodies.STATUS_BYTES)
    return codec.encode(Envelope(k=Frame.REP, to=caller, re=request.id, last=True, data=body))


def event_of(number: int) -> bytes:
    """One event; sixteen subjects take turns."""
    return codec.encode(
        Envelope(
            k=Frame.PUB, id=f"{number:016x}", subject=f"operation.bench{number & 15}", type="operation.v1",
            epoch="7f3a9c52", rev=number + 1, data=msgspec.Raw(bodies.OPERATION_BYTES),
        )
    )  # fmt: skip


def attach(kind: int, principal: str, folder: Path, endpoint: str) -> zmq.Socket[bytes]:
    """Connect with a principal's key."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    pair = keys.load(keys.key_file(folder, principal))
    socket = context.socket(kind)
    socket.linger = 0
    socket.sndhwm = socket.rcvhwm = 0
    socket.curve_publickey, socket.curve_secretkey = pair.public.encode("ascii"), pair.secret.encode("ascii")
    socket.curve_serverkey = (folder / "broker.pub").read_bytes().strip()
    socket.connect(endpoint)
    return socket


def greet(socket: zmq.Socket[bytes], instance: str, serves: tuple[str, ...] = ()) -> None:
    """Say HELLO to our broker and wait for its WELCOME."""
    hello = words.Hello(protocol=(PROTOCOL, PROTOCOL), instance=instance, serves=serves)
    socket.send(codec.encode(Envelope(k=Frame.HELLO, id="hello", data=msgspec.Raw(codec.encode(hello)))))
    welcome = codec.decode(socket.recv(), Down).items[0].envelope
    assert welcome.k == Frame.WELCOME
    assert welcome.err is None
    assert codec.decode(welcome.data, words.Welcome).denied == ()


class Caller:
    """Calls for some seconds: one after the other (`outstanding` 1), or many at a time."""

    def __init__(self, manor: bool, folder: Path, endpoint: str) -> None:
        self._socket = attach(zmq.DEALER, "operator/admin", folder, endpoint)
        self._wrapped = manor
        self._count = 0
        if manor:
            greet(self._socket, "caller1")

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Measure; returns the latencies' median in microseconds and the rate."""
        outstanding, seconds = question["outstanding"], question["seconds"]
        latencies = []
        start = time.perf_counter()
        for _ in range(outstanding):
            self._ask()
        end, done = start + seconds, 0
        asked = start
        while (now := time.perf_counter()) < end:
            self._take()
            done += 1
            if outstanding == 1:
                latencies.append((time.perf_counter() - asked) * 1e6)
                asked = time.perf_counter()
            self._ask()
        for _ in range(outstanding):
            self._take()
        latencies.sort()
        p50 = latencies[len(latencies) // 2] if latencies else 0.0
        return {"p50_us": p50, "rate": done / (now - start), "calls": done + outstanding}

    def _ask(self) -> None:
        self._count += 1
        self._socket.send(request_of(self._count))

    def _take(self) -> None:
        frame = self._socket.recv()
        reply = (
            codec.decode(frame, Down).items[0].envelope if self._wrapped else codec.decode(frame, Envelope)
        )
        if reply.err is not None:
            raise RuntimeError(reply.err.message)
        codec.decode(reply.data, DomainStatus)


def answer_for_ever(manor: bool, folder: Path, endpoint: str) -> None:
    """The service's side."""
    socket = attach(zmq.DEALER, "service/lifecycle", folder, endpoint)
    if manor:
        greet(socket, "service1", ("lifecycle.>",))
        print('{"ready": true}', flush=True)
        while True:
            item = codec.decode(socket.recv(), Down).items[0]
            if item.envelope.k == Frame.REQ:
                socket.send(answer_of(item.envelope, item.sender))
    print('{"ready": true}', flush=True)
    while True:
        conn = socket.recv()
        request = codec.decode(socket.recv(), Envelope)
        socket.send(conn, zmq.SNDMORE)
        socket.send(answer_of(request, ""))


class Publisher:
    """Publishes as fast as the way takes it."""

    def __init__(self, manor: bool, folder: Path, endpoint: str) -> None:
        kind = zmq.DEALER if manor else zmq.XPUB
        self._socket = attach(kind, "service/lifecycle", folder, endpoint)
        self._prefix = b"" if manor else TOPIC
        if manor:
            greet(self._socket, "publisher1")
        else:
            self._socket.recv()  # the subscriptions have come through

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Publish `count` events."""
        for number in range(question["count"]):
            self._socket.send(self._prefix + event_of(number))
        return {}


class Subscriber:
    """Counts events, each decoded into its struct."""

    def __init__(self, manor: bool, folder: Path, endpoint: str, number: int) -> None:
        self._wrapped = manor
        self._socket = attach(zmq.DEALER if manor else zmq.SUB, "operator/admin", folder, endpoint)
        self._messages = self._size = 0
        if manor:
            greet(self._socket, f"subscriber{number}")
            wish = words.Subscribe(sid=1, window=WINDOW, window_bytes=WINDOW_BYTES, policy="gap")
            sub = Envelope(k=Frame.SUB, id="sub", to="operation.>", data=msgspec.Raw(codec.encode(wish)))
            self._socket.send(codec.encode(sub))
            while codec.decode(self._socket.recv(), Down).items[0].envelope.re != "sub":
                pass
        else:
            self._socket.subscribe(TOPIC)
            self._socket.recv()  # the welcome

    def take(self) -> int:
        """Take one frame; return how many events it held."""
        frame = self._socket.recv()
        if not self._wrapped:
            codec.decode(codec.decode(frame[len(TOPIC) :], Envelope).data, Operation)
            return 1
        down = codec.decode(frame, Down)
        for item in down.items:
            if item.envelope.type == "operation.v1":
                codec.decode(item.envelope.data, Operation)
        if down.items:
            self._messages += len(down.items)
            credit = words.Credit(sid=1, messages=self._messages, size=0)
            self._socket.send(codec.encode(Envelope(k=Frame.CREDIT, data=msgspec.Raw(codec.encode(credit)))))
        return len(down.items) if down.sid else 0


class Subscribers:
    """Several connections of one process, each read in turn by whoever has something."""

    def __init__(self, manor: bool, folder: Path, endpoint: str, first: int, count: int) -> None:
        self._all = [Subscriber(manor, folder, endpoint, first + number) for number in range(count)]
        self._poller = zmq.Poller()
        for one in self._all:
            self._poller.register(one._socket, zmq.POLLIN)

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Wait until every connection has had `count` events."""
        left = dict.fromkeys((one._socket for one in self._all), question["count"])
        by_socket = {one._socket: one for one in self._all}
        if len(self._all) == 1:  # one connection needs no poller
            one = self._all[0]
            while left[one._socket] > 0:
                left[one._socket] -= one.take()
            return {"over": -left[one._socket]}
        while any(rest > 0 for rest in left.values()):
            for socket, _ in self._poller.poll():
                left[socket] -= by_socket[socket].take()
        return {"over": -min(left.values())}


def main() -> None:
    """Be one of the four."""
    role, side, folder, endpoint, *rest = sys.argv[1:]
    manor, directory = side == "manor", Path(folder)
    if role == "caller":
        serve(Caller(manor, directory, endpoint).answer)
    elif role == "service":
        answer_for_ever(manor, directory, endpoint)
    elif role == "publisher":
        serve(Publisher(manor, directory, endpoint).answer)
    else:
        first, count = int(rest[0]), int(rest[1])
        serve(Subscribers(manor, directory, endpoint, first, count).answer)


if __name__ == "__main__":
    main()
