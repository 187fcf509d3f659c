"""ZeroMQ sockets of a peer: one DEALER, CURVE on ipc and tcp alike. With the broker the only `import zmq`.

Options and their reasons: design page "The bus", section Sockets.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from enum import Enum, auto
from types import MappingProxyType
from typing import Final, Protocol

import zmq

from manor_bus.keys import KeyPair
from manor_bus.wire.codec import FRAME_BYTES_MAX

OUTBOX_FRAMES_MAX: Final = 65_536
LINGER_MS: Final = 200  # for what is queued when a connection is closed
DRAIN_FRAMES: Final = 64  # received before they are answered
TURNS: Final = 4  # of receiving and answering before other tasks get theirs


class Link(Protocol):
    """One connection to a broker, as `aio` sees it."""

    def send(self, frame: bytes) -> None:
        """Queue a frame; what does not fit ends the connection, visibly."""

    def close(self) -> None:
        """End the connection; what is queued gets a moment."""


class Listener(Protocol):
    """What a link tells its peer."""

    def up(self) -> None:
        """The connection is there."""

    def down(self) -> None:
        """The connection is gone; it will be tried again."""

    def refused(self) -> None:
        """The broker does not know our key; it will not be tried again."""

    def received(self, frames: Sequence[bytes]) -> None:
        """Frames came."""


class Signal(Enum):
    """What becomes of a connection."""

    UP = auto()
    DOWN = auto()
    REFUSED = auto()


Connect = Callable[[Listener], Link]


def dealer(context: zmq.Context[zmq.Socket[bytes]], pair: KeyPair, broker_public: str) -> zmq.Socket[bytes]:
    """Open a DEALER with the options every peer uses; it is not connected yet."""
    socket = context.socket(zmq.DEALER)
    for option, value in (
        (zmq.IMMEDIATE, 1),  # nothing queues for a broker that is not there
        (zmq.LINGER, LINGER_MS),
        (zmq.RECONNECT_IVL, 10),
        (zmq.RECONNECT_IVL_MAX, 200),
        (zmq.HANDSHAKE_IVL, 2_000),
        (zmq.MAXMSGSIZE, 64 * FRAME_BYTES_MAX),  # a batch of events may be larger than one message
    ):
        socket.setsockopt(option, value)
    socket.curve_publickey = pair.public.encode("ascii")
    socket.curve_secretkey = pair.secret.encode("ascii")
    socket.curve_serverkey = broker_public.encode("ascii")
    return socket


def heartbeat(socket: zmq.Socket[bytes], endpoint: str) -> None:
    """Let the transport notice dead tcp connections; a local socket shows them by itself."""
    if endpoint.startswith("tcp:"):
        socket.setsockopt(zmq.HEARTBEAT_IVL, 2_000)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 6_000)
        socket.setsockopt(zmq.HEARTBEAT_TTL, 6_000)


_SIGNALS: Final = MappingProxyType(
    {
        int(zmq.EVENT_HANDSHAKE_SUCCEEDED): Signal.UP,
        int(zmq.EVENT_DISCONNECTED): Signal.DOWN,
        int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): Signal.REFUSED,
    }
)


def _monitor(socket: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
    return socket.get_monitor_socket(sum(_SIGNALS))


def _signals(monitor: zmq.Socket[bytes]) -> Iterator[Signal]:
    """Read what is there now; the first frame is (event: u16, value: i32) in the machine's byte order."""
    while not monitor.closed and int(monitor.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
        yield _SIGNALS[int.from_bytes(monitor.recv_multipart(zmq.NOBLOCK)[0][:2], sys.byteorder)]


class AsyncLink:
    """A DEALER on the running asyncio loop, without zmq.asyncio (3-4 times the CPU).

    The descriptor is edge-triggered, and every send and receive may take the edge: ZMQ_EVENTS is looked at
    after the last of them.
    """

    def __init__(self, endpoint: str, pair: KeyPair, broker_public: str, listener: Listener) -> None:
        import asyncio  # not at the top: the command line uses this module and must start fast

        self._loop = asyncio.get_running_loop()
        self._endpoint, self._listener = endpoint, listener
        self._outbox: deque[bytes] = deque()
        self._pumping = self._scheduled = False
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = dealer(self._context, pair, broker_public)
        self._send_frame = super(zmq.Socket, self._socket).send  # half the time of the wrapper around it
        heartbeat(self._socket, endpoint)
        self._watched = _monitor(self._socket)
        self._loop.add_reader(self._socket.fileno(), self._pump)
        self._loop.add_reader(self._watched.fileno(), self._watch)
        self._socket.connect(endpoint)
        self._loop.call_soon(self._watch)

    def send(self, frame: bytes) -> None:
        """Send a frame, or queue it until the connection takes it."""
        if len(self._outbox) >= OUTBOX_FRAMES_MAX:
            self._start_over()
            return
        self._outbox.append(frame)
        if not self._pumping:  # else it goes at the end of what is being received
            self._flush()
            if self._events() & zmq.POLLIN:
                self._pump_soon()

    def close(self) -> None:
        """End the connection; queued frames get a moment."""
        if self._socket.closed:
            return
        self._flush()
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_reader(self._watched.fileno())
        self._socket.disable_monitor()
        self._watched.close(0)
        self._socket.close(LINGER_MS)
        self._context.destroy(LINGER_MS)

    def _start_over(self) -> None:
        """The broker does not take what we have to say: a new connection, on which all is told again."""
        self._outbox.clear()
        self._socket.disconnect(self._endpoint)
        self._listener.down()
        self._socket.connect(self._endpoint)

    def _pump_soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._pump)

    def _flush(self) -> None:
        outbox, send = self._outbox, self._send_frame
        try:
            while outbox and not self._socket.closed:
                send(outbox[0], zmq.NOBLOCK)
                outbox.popleft()
        except zmq.Again:
            pass  # the descriptor tells when there is room again

    def _pump(self) -> None:
        """Receive what is there, let it be answered, and send; the rest when other tasks had their turn."""
        self._scheduled, self._pumping = False, True
        try:
            for _ in range(TURNS):
                frames = self._receive()
                if frames:
                    self._listener.received(frames)
                self._flush()
                events = self._events()  # what came before may have taken the edge
                if not (events & zmq.POLLIN or (self._outbox and events & zmq.POLLOUT)):
                    return
        finally:
            self._pumping = False
        self._pump_soon()

    def _events(self) -> int:
        return 0 if self._socket.closed else int(self._socket.getsockopt(zmq.EVENTS))

    def _receive(self) -> list[bytes]:
        socket = self._socket
        frames: list[bytes] = []
        while len(frames) < DRAIN_FRAMES and self._events() & zmq.POLLIN:
            frames.append(socket.recv(zmq.NOBLOCK))
        return frames

    def _watch(self) -> None:
        for signal in _signals(self._watched):
            if signal is Signal.UP:
                self._listener.up()
            else:
                self._outbox.clear()
                self._listener.down() if signal is Signal.DOWN else self._listener.refused()


class BlockingLink:
    """A DEALER for one thread that waits: the command line and scripts."""

    def __init__(self, endpoint: str, pair: KeyPair, broker_public: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = dealer(self._context, pair, broker_public)
        heartbeat(self._socket, endpoint)
        self._watched = _monitor(self._socket)
        self._either = zmq.Poller()
        self._either.register(self._socket, zmq.POLLIN)
        self._either.register(self._watched, zmq.POLLIN)
        self._socket.connect(endpoint)

    def send(self, frame: bytes, timeout: float) -> bool:
        """Send within `timeout` seconds; False when there is no connection, or it takes nothing."""
        self._socket.setsockopt(zmq.SNDTIMEO, max(0, int(timeout * 1000)))
        try:
            self._socket.send(frame)
        except zmq.Again:
            return False
        return True

    def receive(self, timeout: float) -> bytes | Signal | None:
        """Wait up to `timeout` seconds for a frame, or for what becomes of the connection."""
        ready = dict(self._either.poll(max(0, int(timeout * 1000))))
        if self._socket in ready:
            return self._socket.recv()
        return next(_signals(self._watched), None) if ready else None

    def close(self) -> None:
        """End the connection."""
        self._socket.disable_monitor()
        self._watched.close(0)
        self._socket.close(LINGER_MS)
        self._context.destroy(LINGER_MS)
