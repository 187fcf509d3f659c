"""An event loop whose clock is virtual, and a network between peers and the broker's core.

Everything runs in one thread; when nothing is ready, time jumps to the next timer. One seed decides every
delay and every token, so a run can be repeated exactly.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from manor_bus.broker import introspect, policy
from manor_bus.broker.policy import Decide
from manor_bus.broker.switch import LIMITS, Switch
from manor_bus.peer.transport import Listener
from manor_bus.wire.messages.bus import Authorise, Limits, Reloaded

T = TypeVar("T")
TICK_S = 1e-9  # between frames of one connection: the loop does not keep the order of equal times

RECONNECT_S = 0.05


class VirtualSelector(selectors.DefaultSelector):
    """Never waits: waiting moves the virtual clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        """Report what is ready now; otherwise let the time pass."""
        ready = super().select(0)
        if ready:
            return list(ready)
        if timeout is None:
            raise AssertionError("nothing is ready, nothing is due: this waits for ever")
        if timeout > 0:
            self.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop on virtual time."""

    def __init__(self) -> None:
        self._virtual = VirtualSelector()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Virtual seconds."""
        return self._virtual.now

    def run_in_executor(self, executor: object, call: Any, *arguments: object) -> Any:
        """Refuse: a thread takes real time, which virtual time does not wait for."""
        raise AssertionError(f"{call} would run in a real thread")


def run(main: Coroutine[Any, Any, T], *, limit_s: float = 100_000.0) -> T:
    """Run a coroutine on virtual time; a hang ends after `limit_s` virtual seconds."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(asyncio.wait_for(main, limit_s))
    finally:
        pending = asyncio.all_tasks(loop)
        for task in pending:
            task.cancel()
        if pending:
            loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


class VirtualLink:
    """One peer's connection. Frames arrive in order, each after a delay the seed decides."""

    def __init__(self, network: Network, label: str, listener: Listener) -> None:
        self.network, self.label, self.listener = network, label, listener
        self.conn = b""
        self.open = True
        self._last_up = self._last_down = 0.0
        self._held: list[tuple[bytes, bytes]] | None = None
        network.links.append(self)
        network.loop.call_soon(self.connect)

    def connect(self) -> None:
        """Reach the broker, if it is there."""
        if not self.open or self.conn or self.network.switch is None:
            return
        self.conn = self.network.next_conn()
        self.network.by_conn[self.conn] = self
        self.network.labels[self.conn] = self.label
        self.listener.up()

    def send(self, frame: bytes) -> None:
        """Carry a frame to the broker."""
        if not self.conn or self.network.frozen:
            return
        conn, at = self.conn, max(self._last_up + TICK_S, self.network.arrival())
        self._last_up = at
        self.network.loop.call_at(at, self.network.arrive, conn, self.label, frame)

    def deliver(self, conn: bytes, frame: bytes) -> None:
        """Carry a frame from the broker."""
        at = max(self._last_down + TICK_S, self.network.arrival())
        self._last_down = at
        self.network.loop.call_at(at, self._received, conn, frame)

    def _received(self, conn: bytes, frame: bytes) -> None:
        if self.open and conn == self.conn:
            if self._held is not None:
                self._held.append((conn, frame))
            else:
                self.listener.received((frame,))

    def freeze(self) -> None:
        """The process stops: what comes for it waits in its socket."""
        self._held = self._held or []

    def thaw(self) -> None:
        """The process goes on, and reads what has come meanwhile."""
        held, self._held = self._held or [], None
        for conn, frame in held:
            self._received(conn, frame)

    def cut(self) -> None:
        """Lose the connection; it is tried again a little later."""
        if self.conn:
            self.network.by_conn.pop(self.conn, None)
            self.conn = b""
            if self.open:
                self.listener.down()
                self.network.loop.call_later(RECONNECT_S, self.connect)

    def drop(self, noticed_s: float) -> None:
        """Lose the connection; what is under way is lost, and the broker notices later than we do."""
        conn = self.conn
        self.cut()
        self.network.loop.call_later(noticed_s, self.network.ended, conn)

    def close(self) -> None:
        """End the connection for good; what was sent before still arrives, as from a killed process."""
        self.open = False
        conn, self.conn = self.conn, b""
        if conn:
            at = max(self._last_up + TICK_S, self.network.loop.time())
            self.network.loop.call_at(at, self.network.ended, conn)
        if self in self.network.links:
            self.network.links.remove(self)


class Network:
    """The broker's core with virtual wires around it."""

    def __init__(
        self, seed: int = 0, *, delay_s: float = 0.001, node: str = "n1", cycle_s: float = 0.0,
        decide: Decide = policy.decide, limits: Limits = LIMITS,
    ) -> None:  # fmt: skip
        self.loop = asyncio.get_running_loop()
        self.random = random.Random(seed)
        self.delay_s, self.node, self.cycle_s = delay_s, node, cycle_s
        self.decide, self.limits = decide, limits
        self.heard: list[Callable[[str, bytes, str, bytes], None]] = []  # told every frame: up or down
        self._waiting: list[tuple[bytes, str, bytes]] | None = None
        self._cycle: asyncio.TimerHandle | None = None
        self.links: list[VirtualLink] = []
        self.by_conn: dict[bytes, VirtualLink] = {}
        self.labels: dict[bytes, str] = {}
        self.switch: Switch | None = None
        self.frozen = False
        self.granted: list[dict[str, str]] = []  # what config passed on
        self._conns = 0
        self._timer: asyncio.TimerHandle | None = None
        self.start_broker()

    def token(self) -> str:
        """A token the seed decides."""
        return f"{self.random.getrandbits(64):016x}"

    def link(self, label: str) -> Callable[[Listener], VirtualLink]:
        """What a Peer needs to attach as `label`."""
        return lambda listener: VirtualLink(self, label, listener)

    def start_broker(self) -> None:
        """Start a broker with a new epoch."""
        self.switch = Switch(
            node=self.node, epoch=self.token(), boot_id="virtual", decide=self.decide, limits=self.limits
        )
        self.switch.started = self.loop.time()
        self.switch.calls.answers = introspect.answers(
            self.switch, lambda: 0, lambda _: Reloaded(keys=0, ended=0), self._authorise
        )
        for link in list(self.links):
            self.loop.call_later(0.01, link.connect)
        self.pump()

    def _authorise(self, request: Authorise, _: float) -> Reloaded:
        self.granted.append(request.keys)
        return Reloaded(keys=len(request.keys), ended=0)

    def kill_broker(self) -> None:
        """The broker dies: every connection is lost, nothing it held is kept."""
        self.switch = self._waiting = None
        for link in list(self.links):
            link.cut()

    def next_conn(self) -> bytes:
        """Name a connection."""
        self._conns += 1
        return b"c%d" % self._conns

    def arrival(self) -> float:
        """When a frame sent now arrives."""
        return self.loop.time() + self.random.uniform(0, self.delay_s)

    def arrive(self, conn: bytes, label: str, frame: bytes) -> None:
        """A frame reaches the broker. With `cycle_s` it takes several before it sends what collected."""
        if self._waiting is not None:
            self._waiting.append((conn, label, frame))
            return
        if self.switch is None or conn not in self.by_conn:
            return
        for hear in self.heard:
            hear("up", conn, label, frame)
        self.switch.frame(conn, label, "virtual", frame, self.loop.time())
        if not self.cycle_s:
            self.pump()
        elif self._cycle is None:
            self._cycle = self.loop.call_later(self.random.uniform(0, self.cycle_s), self.pump)

    def ended(self, conn: bytes) -> None:
        """The broker notices the end of a connection."""
        self.by_conn.pop(conn, None)
        if self.switch is not None:
            self.switch.gone(conn, "disconnected", self.loop.time())
            self.pump()

    def freeze_broker(self) -> None:
        """The broker's process stops: what is sent to it waits in its sockets."""
        if self.switch is not None:
            self._waiting = self._waiting or []

    def thaw_broker(self) -> None:
        """It goes on, and reads what has come meanwhile."""
        waiting, self._waiting = self._waiting or [], None
        for entry in waiting:
            self.arrive(*entry)
        self.pump()

    def pump(self) -> None:
        """Let the broker do what is due, and carry what it sends."""
        switch = self.switch
        if self._cycle is not None:
            self._cycle.cancel()
            self._cycle = None
        if switch is None or self._waiting is not None:
            return
        now = self.loop.time()
        switch.advance(now)
        switch.flush(now)
        while (out := switch.outbox.take()) or switch.outbox.cut:
            for conn, frame in out:
                for hear in self.heard:
                    hear("down", conn, self.labels[conn], frame)
                link = self.by_conn.get(conn)
                if link is not None:
                    link.deliver(conn, frame)
            cut, switch.outbox.cut = switch.outbox.cut, []
            for conn in cut:
                link = self.by_conn.get(conn)
                if link is not None:
                    self.loop.call_later(self.delay_s, link.cut)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at(max(now + 0.001, switch.next_timer()), self.pump)
