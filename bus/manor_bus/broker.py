"""The I/O shell around `switch`: one ROUTER on ipc and tcp, ZAP, the socket monitor, one thread that waits.

Blocking receive with a timeout up to the next timer, drain while there is something, then flush: no poller,
no asyncio, one frame per message. Options and their reasons: design page "The bus", section Sockets.
"""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import secrets
import socket as sockets
import stat
import threading
import time
from pathlib import Path
from typing import Final

import zmq
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from manor_bus import clock, codec, introspect, keys, policy
from manor_bus.errors import Kind, ManorError
from manor_bus.messages.bus import Reloaded
from manor_bus.settings import BrokerSettings
from manor_bus.switch import Switch

DRAIN_FRAMES: Final = 500
MEMORY_BYTES_MAX: Final = 2_147_483_648
_ZAP: Final = "inproc://zeromq.zap.01"
_NEWS: Final = "inproc://monitor-news"

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


class Gate(threading.Thread):
    """ZAP: decides which keys may connect, and names the connection after its principal.

    One thread per broker; `table` (public key -> principal) is replaced whole.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], table: dict[str, str]) -> None:
        super().__init__(name="zap", daemon=True)
        self.table = table
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        self._socket.bind(_ZAP)

    def run(self) -> None:
        """Answer until the context ends."""
        try:
            while True:
                version, request, _domain, _address, _identity, mechanism, *credentials = (
                    self._socket.recv_multipart()
                )
                label = self._judge(mechanism, credentials)
                status = (b"200", b"OK", label.encode()) if label else (b"400", b"no such key", b"")
                self._socket.send_multipart([version, request, *status, b""])
        except zmq.ContextTerminated:
            self._socket.close(0)

    def _judge(self, mechanism: bytes, credentials: list[bytes]) -> str:
        if mechanism != b"CURVE" or len(credentials) != 1 or len(credentials[0]) != 32:
            return ""
        encoded = z85.encode(credentials[0]).decode("ascii")
        return self.table.get(encoded, "")


class Broker:
    """One node's broker."""

    def __init__(self, settings: BrokerSettings) -> None:
        self._settings = settings
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._gate = Gate(self._context, keys.authorised(settings.keys))
        self._gate.start()
        self._router = self._open()
        self._fds: dict[bytes, int] = {}  # our duplicate of each connection's descriptor
        self._conn_by_fd: dict[int, bytes] = {}
        self._where: dict[bytes, str] = {}
        self._stopping = False
        now = time.monotonic()
        self.switch = Switch(
            node=settings.node, epoch=secrets.token_hex(8), boot_id=clock.boot_id(), decide=policy.decide,
            wall=time.time() - now,
        )  # fmt: skip
        self.switch.started = now
        self.switch.answers = introspect.answers(self.switch, _resident_kib, self._reload)

    def _open(self) -> zmq.Socket[bytes]:
        pair = keys.load(self._settings.keys / "broker.key")
        router = self._context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.ROUTER_MANDATORY, 1), (zmq.ROUTER_HANDOVER, 0), (zmq.SNDHWM, 1_000), (zmq.RCVHWM, 1_000),
            (zmq.MAXMSGSIZE, codec.FRAME_BYTES_MAX), (zmq.HANDSHAKE_IVL, 2_000), (zmq.LINGER, 0),
            (zmq.BACKLOG, 512), (zmq.CURVE_SERVER, 1), (zmq.ZAP_ENFORCE_DOMAIN, 1),
        ):  # fmt: skip
            router.setsockopt(option, value)
        router.curve_secretkey = pair.secret.encode("ascii")
        router.zap_domain = b"manor"
        self._monitor_thread = threading.Thread(
            target=self._watch, args=(router,), name="monitor", daemon=True
        )
        router.bind(_NEWS)
        self._monitor_ready = threading.Event()
        self._monitor_thread.start()
        self._monitor_ready.wait()
        for endpoint in self._settings.endpoints:
            self._bind(router, endpoint)
        return router

    def _bind(self, router: zmq.Socket[bytes], endpoint: str) -> None:
        if endpoint.startswith("ipc://"):
            path = Path(endpoint.removeprefix("ipc://"))
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            before = os.umask(0o777 & ~self._settings.ipc_mode)
            try:
                router.bind(endpoint)
            finally:
                os.umask(before)
        else:
            router.setsockopt(zmq.HEARTBEAT_IVL, 2_000)
            router.setsockopt(zmq.HEARTBEAT_TIMEOUT, 6_000)
            router.setsockopt(zmq.HEARTBEAT_TTL, 6_000)
            router.bind(endpoint)

    def _watch(self, router: zmq.Socket[bytes]) -> None:
        """Pass the descriptors of ended connections to the one thread, through the socket it waits on."""
        monitor = router.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        news = self._context.socket(zmq.DEALER)
        news.linger = 0
        news.connect(_NEWS)
        self._monitor_ready.set()
        try:
            while True:
                descriptor = parse_monitor_message(monitor.recv_multipart())["value"]
                news.send(b"%d" % descriptor)
        except zmq.ContextTerminated:
            monitor.close(0)
            news.close(0)

    def stop(self) -> None:
        """End `run` at its next turn (from a signal)."""
        self._stopping = True

    def run(self) -> None:
        """Serve until `stop`."""
        router, switch = self._router, self.switch
        while not self._stopping:
            wait = switch.next_timer() - time.monotonic()
            router.rcvtimeo = max(0, min(1_000, int(wait * 1000) + 1))
            try:
                conn = router.recv()
            except zmq.Again:
                switch.advance(time.monotonic())
                self._send()
                continue
            for _ in range(DRAIN_FRAMES):
                self._take(conn)
                if switch.out:
                    self._send()
                if not int(router.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                    break
                conn = router.recv()
            else:
                self._take(conn)  # the name received last has its message behind it
            now = time.monotonic()
            if now >= switch.next_timer():
                switch.advance(now)
            switch.flush(now)
            self._send()

    def _take(self, conn: bytes) -> None:
        frame = self._router.recv(copy=False)
        if frame.more:
            self._discard_rest(conn)
            return
        try:
            label = str(frame.get("User-Id"))
        except zmq.ZMQError:
            self._connection_ended(int(frame.bytes))  # no user: our own monitor, over inproc
            return
        if conn not in self._fds and not self._known(conn, frame):
            return
        self.switch.frame(conn, label, self._where.get(conn, ""), frame.bytes, time.monotonic())

    def _known(self, conn: bytes, frame: zmq.Frame) -> bool:
        """Remember a new connection's descriptor, so that we can end it and notice its end."""
        try:
            source = int(frame.get(zmq.SRCFD))
            self._where[conn] = str(frame.get("Peer-Address")).removeprefix("localhost:")
            self._fds[conn] = os.dup(source)
        except (OSError, zmq.ZMQError):
            return False  # it is gone already
        old = self._conn_by_fd.get(source)
        if old is not None:
            self._forget(old, "disconnected")
        self._conn_by_fd[source] = conn
        return True

    def _discard_rest(self, conn: bytes) -> None:
        """A second frame is a protocol violation: read what is here, and end the connection."""
        while self._router.rcvmore:
            self._router.recv()
        self.switch.counters["multipart"] += 1
        self.switch.gone(conn, "protocol", time.monotonic())
        self.switch.cut.append(conn)

    def _connection_ended(self, source: int) -> None:
        conn = self._conn_by_fd.get(source)
        if conn is not None:
            self._forget(conn, "disconnected")

    def _forget(self, conn: bytes, reason: str) -> None:
        self._where.pop(conn, None)
        ours = self._fds.pop(conn, None)
        if ours is not None:
            os.close(ours)
        for source, other in list(self._conn_by_fd.items()):
            if other == conn:
                del self._conn_by_fd[source]
        self.switch.gone(conn, reason, time.monotonic())

    def _send(self) -> None:
        switch, send = self.switch, self._router.send
        while switch.out or switch.cut:
            out, switch.out = switch.out, []
            for conn, frame in out:
                try:
                    send(conn, zmq.SNDMORE | zmq.NOBLOCK)
                    send(frame, zmq.NOBLOCK)
                except zmq.Again:
                    self._unreadable(conn)
                except zmq.ZMQError as error:
                    if error.errno != zmq.EHOSTUNREACH:
                        raise
                    self._forget(conn, "disconnected")
            self._cut()

    def _unreadable(self, conn: bytes) -> None:
        """A peer that does not read what it asked for: end it, so that it costs nobody else anything."""
        self.switch.counters["kicked_full"] += 1
        self.switch.gone(conn, "slow", time.monotonic())
        self.switch.cut.append(conn)

    def _cut(self) -> None:
        cut, self.switch.cut = self.switch.cut, []
        for conn in cut:
            ours = self._fds.get(conn)
            if ours is None:
                continue
            try:
                with sockets.socket(fileno=os.dup(ours)) as end:
                    end.shutdown(sockets.SHUT_RDWR)
            except OSError:
                continue  # it ended by itself

    def _reload(self, now: float) -> Reloaded:
        """Read the keys again and end the sessions whose principal has no valid key any more."""
        table = keys.authorised(self._settings.keys)
        before, self._gate.table = self._gate.table, table
        changed = {label for public, label in before.items() if table.get(public) != label}
        ended = [peer.address for peer in self.switch.roster.by_conn.values() if peer.label in changed]
        for address in ended:
            self.switch.kick(address, "revoked", now)
        return Reloaded(keys=len(table), ended=len(ended))

    def close(self) -> None:
        """Close every socket; remove the ipc path."""
        self._router.disable_monitor()
        self._router.close(0)
        self._context.term()  # the two threads see it and close what is theirs
        for ours in self._fds.values():
            os.close(ours)
        self._fds.clear()
        for endpoint in self._settings.endpoints:
            path = Path(endpoint.removeprefix("ipc://"))
            if endpoint.startswith("ipc://") and path.exists() and stat.S_ISSOCK(path.stat().st_mode):
                path.unlink()


def _resident_kib() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() // 1024


def check_keys(settings: BrokerSettings) -> None:
    """Refuse to start without keys, saying what to do."""
    if not (settings.keys / "broker.key").exists():
        raise ManorError(
            Kind.UNAVAILABLE,
            f"no broker key in {settings.keys}",
            hint="Create keys: manor init",
            delivered=False,
        )
