"""The I/O shell around `switch`: one ROUTER on ipc and tcp, ZAP, the socket monitor, one thread that waits.

Blocking receive with a timeout up to the next timer, drain while there is something, then flush: no poller,
no asyncio, one frame per message. Options and their reasons: design page "The bus", section Sockets.
"""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import stat
import struct
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final

import zmq
from zmq.utils import z85

from manor_bus import keys
from manor_bus.broker import introspect, place, policy
from manor_bus.broker.connections import Connection, Connections
from manor_bus.broker.switch import Switch
from manor_bus.settings import BrokerSettings
from manor_bus.wire import codec
from manor_bus.wire.messages.bus import Authorise, Reloaded
from manor_host import clock

DRAIN_FRAMES: Final = 64  # taken before anything is sent: what follows waits for them
SEND_FRAMES_MAX: Final = 24_000  # more than the windows and pending calls of one peer together
MEMORY_BYTES_MAX: Final = 2_147_483_648
MEMORY_KIB_HIGH: Final = 786_432  # from here on, who makes it grow is ended
AUDIT_S: Final = 1.0
GRACE_S: Final = 0.05  # for the RESET that says why, before the connection is shut
GATHER_S: Final = 0.002  # events of a flood wait that long for each other
_NAME: Final = int(zmq.SNDMORE | zmq.NOBLOCK)
_LAST: Final = int(zmq.NOBLOCK)
_ZAP: Final = "inproc://zeromq.zap.01"
_NEWS: Final = "inproc://monitor-news"
_MONITORED: Final = struct.Struct("=Hi")  # pyzmq's own parser imports asyncio: a third of our memory
_NEWS_CONN: Final = b"monitor"

log = logging.getLogger(__name__)


def harden() -> None:
    """What must be done before the first socket of the process.

    libzmq draws automatic routing ids from libc's rand(), which nobody seeds: every process starts at the
    same value. Memory is limited because one peer's endless multipart message is bounded by no socket option.
    """
    ctypes.CDLL(None).srand(int.from_bytes(os.urandom(4)))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or hard > MEMORY_BYTES_MAX:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, hard))


class Gate:
    """ZAP: decides which keys may connect, in a thread of its own until the context ends.

    `table` (public key -> principal) is replaced whole. A connection is named after its key, so that what the
    key stands for is looked up when it is used, not when it connected.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], table: dict[str, str]) -> None:
        self.table = table
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        self._socket.bind(_ZAP)
        threading.Thread(target=self._run, name="zap", daemon=True).start()

    def _run(self) -> None:
        try:
            while True:
                version, request, _domain, _address, _identity, mechanism, *credentials = (
                    self._socket.recv_multipart()
                )
                key = self._judge(mechanism, credentials)
                status = (b"200", b"OK", key) if key else (b"400", b"no such key", b"")
                self._socket.send_multipart([version, request, *status, b""])
        except zmq.ContextTerminated:
            self._socket.close(0)

    def _judge(self, mechanism: bytes, credentials: list[bytes]) -> bytes:
        if mechanism != b"CURVE" or len(credentials) != 1 or len(credentials[0]) != 32:
            return b""
        encoded = z85.encode(credentials[0])
        return encoded if encoded.decode("ascii") in self.table else b""


class Broker:
    """One node's broker."""

    def __init__(self, settings: BrokerSettings) -> None:
        self._settings = settings
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._granted: dict[str, str] = {}  # by Credential documents
        self._gate = Gate(self._context, keys.authorised(settings.keys))
        self._connections = Connections()
        self._ending: deque[tuple[float, Connection]] = deque()
        self._bound: dict[str, os.stat_result] = {}
        self._router = self._open()
        self._send_frame = super(zmq.Socket, self._router).send  # half the time of the wrapper around it
        self._stopping = False
        self._audit_at = self._resident = self._flush_at = 0.0
        now = time.monotonic()
        self.switch = Switch(
            node=settings.node, epoch=os.urandom(8).hex(), boot_id=clock.boot_id(), decide=policy.decide,
            wall=time.time() - now,
        )  # fmt: skip
        self.switch.started = now
        self.switch.calls.answers = introspect.answers(
            self.switch, clock.resident_kib, self._reload, self._authorise
        )

    def _open(self) -> zmq.Socket[bytes]:
        pair = keys.load(self._settings.key_file)
        router = self._context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.ROUTER_MANDATORY, 1), (zmq.ROUTER_HANDOVER, 0), (zmq.SNDHWM, SEND_FRAMES_MAX),
            (zmq.RCVHWM, 1_000), (zmq.MAXMSGSIZE, codec.FRAME_BYTES_MAX), (zmq.HANDSHAKE_IVL, 2_000),
            (zmq.LINGER, 0), (zmq.BACKLOG, 512), (zmq.CURVE_SERVER, 1), (zmq.ZAP_ENFORCE_DOMAIN, 1),
        ):  # fmt: skip
            router.setsockopt(option, value)
        router.curve_secretkey = pair.secret.encode("ascii")
        router.zap_domain = b"manor"
        router.bind(_NEWS)
        ready = threading.Event()
        threading.Thread(target=self._watch, args=(router, ready), name="monitor", daemon=True).start()
        ready.wait()
        for endpoint in self._settings.endpoints:
            self._bind(router, endpoint)
        return router

    def _bind(self, router: zmq.Socket[bytes], endpoint: str) -> None:
        if endpoint.startswith("ipc://"):
            path = Path(endpoint.removeprefix("ipc://"))
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            before = os.umask(0o177)
            try:
                router.bind(endpoint)
            finally:
                os.umask(before)
            if self._settings.group:
                place.let_in(path, self._settings.group)
            self._bound[endpoint] = path.stat()
        else:
            router.setsockopt(zmq.HEARTBEAT_IVL, 2_000)
            router.setsockopt(zmq.HEARTBEAT_TIMEOUT, 6_000)
            router.setsockopt(zmq.HEARTBEAT_TTL, 6_000)
            router.bind(endpoint)

    def _bind_again(self) -> None:
        """Make sockets anew that somebody cleaned away; who is connected does not notice."""
        for endpoint, before in self._bound.items():
            path = Path(endpoint.removeprefix("ipc://"))
            try:
                if not path.exists() or not os.path.samestat(before, path.stat()):
                    with suppress(zmq.ZMQError):  # it cannot remove what is not there
                        self._router.unbind(endpoint)
                    self._bind(self._router, endpoint)
                    log.warning("%s was gone and is made anew", path)
            except (OSError, zmq.ZMQError) as error:
                log.warning("%s cannot be made anew: %s", path, error)

    def _watch(self, router: zmq.Socket[bytes], ready: threading.Event) -> None:
        """Pass the descriptors of new and ended connections to the one thread, over its own socket."""
        monitor = router.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        news = self._context.socket(zmq.DEALER)
        news.linger = 0
        news.routing_id = _NEWS_CONN
        news.connect(_NEWS)
        news.send(b"")  # the name is ours from now on, before anybody else can connect
        ready.set()
        try:
            while True:
                event, source = _MONITORED.unpack(monitor.recv_multipart()[0])
                news.send(b"%c%d" % (b"A" if event == zmq.EVENT_ACCEPTED else b"D", source))
        except zmq.ContextTerminated:
            monitor.close(0)
            news.close(0)

    # --- the one thread -------------------------------------------------------------------------------

    def stop(self) -> None:
        """End `run` at its next turn (from a signal)."""
        self._stopping = True

    def run(self) -> None:
        """Serve until `stop`."""
        router, switch, wait_ms = self._router, self.switch, -1
        while not self._stopping:
            due = min(switch.next_timer(), self._ending[0][0] if self._ending else float("inf"))
            if switch.fanout.waiting:
                due = min(due, self._flush_at)
            before, wait_ms = wait_ms, max(0, min(1_000, int((due - time.monotonic()) * 1000) + 1))
            if wait_ms != before:
                router.setsockopt(zmq.RCVTIMEO, wait_ms)
            try:
                conn = router.recv()
            except zmq.Again:
                pass
            else:
                self._drain(conn)
                self._send()
            now = time.monotonic()
            if now >= switch.next_timer():
                switch.advance(now)
            self._flush(now)
            self._send()
            while self._ending and self._ending[0][0] <= now:
                self._ending.popleft()[1].shut()
            if now >= self._audit_at:
                self._audit_at = now + AUDIT_S
                self._audit()

    def _flush(self, now: float) -> None:
        """Send events at once after a pause, else together: a flood costs each subscriber few frames."""
        if not self.switch.fanout.waiting:
            self.switch.flush(now)
        elif now >= self._flush_at:
            self._flush_at = now + GATHER_S
            self.switch.flush(now)

    def _drain(self, conn: bytes) -> None:
        """Take messages while there are some; `conn` has sent the first one."""
        router = self._router
        for _ in range(DRAIN_FRAMES):
            self._take(conn)
            if not int(router.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                return
            conn = router.recv()
        self._take(conn)  # the name received last has its message behind it

    def _take(self, conn: bytes) -> None:
        frame = self._router.recv(copy=False)
        if frame.more:
            self._discard_rest(conn, frame)
            return
        if conn == _NEWS_CONN:
            self._told(frame.bytes)
            return
        key = str(frame.get("User-Id"))
        known = self._connections.by_conn.get(conn)
        if known is None or known.key != key:
            known = self._admit(conn, key, frame)
        if known is not None and not known.ending:
            self.switch.frame(conn, known.label, known.where, frame.bytes, time.monotonic())

    def _admit(self, conn: bytes, key: str, frame: zmq.Frame) -> Connection | None:
        """Remember a connection by its first frame; None when it is over, or its key has been revoked."""
        before = self._connections.by_conn.get(conn)
        if before is not None:
            self._forget(before)
        label = self._gate.table.get(key, "")
        source, address = int(frame.get(zmq.SRCFD)), str(frame.get("Peer-Address"))
        found = self._connections.admit(conn, source, key, label, address)
        if found is not None and not label:
            found.shut()
        return found

    def _discard_rest(self, conn: bytes, frame: zmq.Frame) -> None:
        """A second frame is a protocol violation: read what is here, and end the connection."""
        while self._router.rcvmore:
            self._router.recv()
        self.switch.outbox.counters["multipart"] += 1
        if conn not in self._connections.by_conn:
            self._admit(conn, str(frame.get("User-Id")), frame)
        self._end(conn, "protocol")

    def _told(self, news: bytes) -> None:
        """A connection was accepted, or has ended."""
        if news.startswith(b"A"):
            self._connections.accepted(int(news[1:]))
        elif news:
            ended = self._connections.by_source.get(int(news[1:]))
            if ended is not None and ended.over():
                self._forget(ended)

    def _audit(self) -> None:
        """Notice what the monitor's events did not tell, and who makes memory grow without end."""
        for connection in self._connections:
            if connection.reused():
                self._forget(connection)
        self._bind_again()
        before, self._resident = self._resident, clock.resident_kib()
        if self._resident > MEMORY_KIB_HIGH and self._resident > before:
            most = max(self._connections, key=Connection.backlog, default=None)
            if most is not None and most.backlog():
                log.error("memory grows to %d KiB: ending %s %s", self._resident, most.label, most.where)
                self.switch.outbox.counters["kicked_memory"] += 1
                self.switch.gone(most.conn, "quota", time.monotonic())
                most.shut()
                self._send()

    def _forget(self, gone: Connection) -> None:
        self._connections.forget(gone)
        self.switch.gone(gone.conn, "disconnected", time.monotonic())

    def _end(self, conn: bytes, reason: str) -> None:
        self.switch.gone(conn, reason, time.monotonic())
        self.switch.outbox.cut.append(conn)

    def _send(self) -> None:
        switch, send = self.switch, self._send_frame
        while (out := switch.outbox.take()) or switch.outbox.cut:
            for conn, frame in out:
                try:
                    send(conn, _NAME)
                    send(frame, _LAST)
                except zmq.Again:  # it does not read what it asked for: it must cost nobody else anything
                    switch.outbox.counters["kicked_full"] += 1
                    self._end(conn, "slow")
                except zmq.ZMQError as error:
                    if error.errno != zmq.EHOSTUNREACH:
                        raise
                    gone = self._connections.by_conn.get(conn)
                    if gone is not None:
                        self._forget(gone)
            cut, switch.outbox.cut = switch.outbox.cut, []
            for conn in cut:
                connection = self._connections.by_conn.get(conn)
                if connection is not None and not connection.ending:
                    connection.ending = True  # from now on it is not listened to
                    self._ending.append((time.monotonic() + GRACE_S, connection))

    def _authorise(self, request: Authorise, now: float) -> Reloaded:
        """Take the keys that Credential documents grant; the key folder wins where both name a key."""
        for public, principal in request.keys.items():
            keys.check_grant(public, principal)
        self._granted = dict(request.keys)
        return self._reload(now)

    def _reload(self, now: float) -> Reloaded:
        """Read the keys again and end the sessions whose key stands for something else now, or nothing."""
        self._gate.table = table = {**self._granted, **keys.authorised(self._settings.keys)}
        ended = 0
        for connection in self._connections:
            if connection.conn and table.get(connection.key) != connection.label:
                peer = self.switch.sessions.by_conn.get(connection.conn)
                ended += peer is not None and self.switch.kick(peer.address, "revoked", now)
                self.switch.outbox.cut.append(connection.conn)
        return Reloaded(keys=len(table), ended=ended)

    def close(self) -> None:
        """Close every socket; remove the ipc path."""
        self._router.disable_monitor()
        self._router.close(0)
        self._context.term()  # the two threads see it and close what is theirs
        self._connections.close()
        for endpoint in self._settings.endpoints:
            path = Path(endpoint.removeprefix("ipc://"))
            if endpoint.startswith("ipc://") and path.exists() and stat.S_ISSOCK(path.stat().st_mode):
                path.unlink()
