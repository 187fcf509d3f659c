"""ZeroMQ sockets of a peer: one DEALER, CURVE on ipc and tcp alike. With broker.py the only `import zmq`.

Options and their reasons: design page "The bus", section Sockets.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import zmq

from manor_bus.codec import FRAME_BYTES_MAX
from manor_bus.keys import KeyPair

OUTBOX_FRAMES_MAX: Final = 65_536
DRAIN_FRAMES: Final = 200  # received before other tasks get their turn


class Link(Protocol):
    """One connection to a broker, as `peer.py` sees it."""

    def send(self, frame: bytes) -> None:
        """Queue a frame; what does not fit ends the connection, visibly."""

    def close(self) -> None:
        """End the connection."""


class Listener(Protocol):
    """What a link tells its peer."""

    def up(self) -> None:
        """The connection is there."""

    def down(self) -> None:
        """The connection is gone; it will be tried again."""

    def received(self, frame: bytes) -> None:
        """A frame came."""


Connect = Callable[[Listener], Link]


def curve_keypair() -> tuple[str, str]:
    """Make a CURVE key pair: (public, secret) in Z85."""
    public, secret = zmq.curve_keypair()
    return public.decode("ascii"), secret.decode("ascii")


def dealer(context: zmq.Context[zmq.Socket[bytes]], pair: KeyPair, broker_public: str) -> zmq.Socket[bytes]:
    """Open a DEALER with the options every peer uses; it is not connected yet."""
    socket = context.socket(zmq.DEALER)
    for option, value in (
        (zmq.IMMEDIATE, 1),  # nothing queues for a broker that is not there
        (zmq.LINGER, 200),
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


class AsyncLink:
    """A DEALER on the running asyncio loop, without zmq.asyncio (3-4 times the CPU).

    The descriptor is edge-triggered: after every send and receive ZMQ_EVENTS is looked at again.
    """

    def __init__(self, endpoint: str, pair: KeyPair, broker_public: str, listener: Listener) -> None:
        import asyncio  # not at the top: the command line uses this module and must start fast

        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._outbox: deque[bytes] = deque()
        self._pumping = False
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = dealer(self._context, pair, broker_public)
        heartbeat(self._socket, endpoint)
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        self._loop.add_reader(self._socket.fileno(), self._pump)
        self._loop.add_reader(self._monitor.fileno(), self._watch)
        self._socket.connect(endpoint)
        self._loop.call_soon(self._watch)

    def send(self, frame: bytes) -> None:
        """Queue a frame and send what the connection takes now."""
        if len(self._outbox) >= OUTBOX_FRAMES_MAX:
            self._outbox.clear()
            self._listener.down()
            return
        self._outbox.append(frame)
        self._pump_soon()

    def close(self) -> None:
        """End the connection; queued frames get 200 ms."""
        if self._socket.closed:
            return
        self._flush()
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_reader(self._monitor.fileno())
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(200)
        self._context.destroy(200)

    def _pump_soon(self) -> None:
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _flush(self) -> None:
        outbox, send = self._outbox, self._socket.send
        try:
            while outbox:
                send(outbox[0], zmq.NOBLOCK)
                outbox.popleft()
        except zmq.Again:
            pass  # the descriptor tells when there is room again

    def _readable(self) -> bool:
        return not self._socket.closed and bool(int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def _pump(self) -> None:
        self._pumping = False
        if self._socket.closed:
            return
        received = self._listener.received
        for _ in range(DRAIN_FRAMES):
            if self._outbox:
                self._flush()
            if not self._readable():
                break
            received(self._socket.recv(zmq.NOBLOCK))
        else:
            self._pump_soon()
        if self._outbox and not self._socket.closed:
            self._flush()

    def _watch(self) -> None:
        while not self._monitor.closed and int(self._monitor.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            # the first frame is (event: u16, value: i32) in the machine's byte order
            event = int.from_bytes(self._monitor.recv_multipart(zmq.NOBLOCK)[0][:2], sys.byteorder)
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._listener.up()
            elif event == zmq.EVENT_DISCONNECTED:
                self._outbox.clear()
                self._listener.down()


class BlockingLink:
    """A DEALER for one thread that waits: the command line and scripts."""

    def __init__(self, endpoint: str, pair: KeyPair, broker_public: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = dealer(self._context, pair, broker_public)
        heartbeat(self._socket, endpoint)
        self._socket.connect(endpoint)

    def send(self, frame: bytes, timeout: float) -> bool:
        """Send within `timeout` seconds; False when there is no connection."""
        self._socket.setsockopt(zmq.SNDTIMEO, max(0, int(timeout * 1000)))
        try:
            self._socket.send(frame)
        except zmq.Again:
            return False
        return True

    def receive(self, timeout: float) -> bytes | None:
        """Receive within `timeout` seconds."""
        if not self._socket.poll(max(0, int(timeout * 1000))):
            return None
        return self._socket.recv()

    def fileno(self) -> int:
        """The edge-triggered descriptor, for those who also wait for something else."""
        return int(self._socket.fileno())

    def close(self) -> None:
        """End the connection."""
        self._socket.close(200)
        self._context.destroy(200)
