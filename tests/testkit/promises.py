"""A world in which anything may happen to the bus, and the fourteen promises as checks on what was seen.

Real peers (`peer.aio`) and the real broker core talk over the virtual network; services, callers and
watchers come and go, stop and die; a hostile peer forges and floods. Every frame is seen on its way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from manor_bus.broker import policy
from manor_bus.broker.policy import Decision
from manor_bus.peer.aio import Change, Context, Peer
from manor_bus.wire import codec
from manor_bus.wire.envelope import Envelope, is_batch, unbatch
from manor_bus.wire.envelope import Kind as Frame
from manor_bus.wire.errors import Kind, ManorError, conflict
from manor_bus.wire.messages import bus as words
from manor_bus.wire.messages import lifecycle
from manor_bus.wire.messages.lifecycle import Operation, OperationState
from manor_bus.wire.subjects import matches
from tests.testkit.virtual import Network, VirtualLink, VirtualLoop

SLACK_S = 0.05  # the promise: every request ends by its budget + 50 ms
HEAL_S = 1.0
QUIET_S = 16.0  # more than any budget, pause and snapshot under way
NARROW = words.Limits(
    frame_bytes=codec.FRAME_BYTES_MAX, depth=codec.DEPTH_MAX, subscriptions=8, pending_calls=12,
    in_flight_per_callee=3, queued_per_callee=4,
)  # fmt: skip


def value(name: str, step: int) -> Operation:
    """One version of an object."""
    return Operation(
        id=name, kind="start", target="web", uuid="u", state=OperationState.RUNNING, step=str(step)
    )


class RawItem(msgspec.Struct, frozen=True, array_like=True):
    """As Item, with the sender's bytes untouched ."""

    sender: str
    envelope: msgspec.Raw


class RawDown(msgspec.Struct, frozen=True, array_like=True):
    """As Down, with the senders' bytes untouched."""

    sid: int
    n: int
    items: tuple[RawItem, ...]
    superseded: int = 0


def downs(frame: bytes) -> list[RawDown]:
    """What one frame of the broker holds, alone or as a batch."""
    if frame[0] == 0x92:
        return codec.decode(frame, tuple[int, list[RawDown]])[1]
    return [codec.decode(frame, RawDown)]


@dataclass
class Made:
    """One call an application made."""

    name: str
    key: str
    began: float
    timeout: float
    task: asyncio.Task[Operation]
    changes: bool
    ended: float | None = None
    withdrawn: bool = False

    @property
    def replied(self) -> bool:
        """Whether it ended with a reply."""
        return self.task.done() and not self.task.cancelled() and self.task.exception() is None

    @property
    def error(self) -> ManorError | None:
        """What it ended with, if not with a reply."""
        done = self.task.done() and not self.task.cancelled()
        error = self.task.exception() if done else None
        return error if isinstance(error, ManorError) else None


@dataclass(frozen=True)
class Start:
    """One beginning of an answer in a service."""

    name: str
    key: str
    server: str
    at: float
    deadline: float


@dataclass
class Watcher:
    """One application that follows the state, at its own pace."""

    peer: Peer
    policy: Any
    pace: float
    seen: dict[str, str] = field(default_factory=dict)
    newest: dict[str, tuple[str, int]] = field(default_factory=dict)  # epoch and revision told last
    task: asyncio.Task[None] | None = None


@dataclass
class Server:
    """One instance of the service."""

    peer: Peer
    name: str


class Hostile:
    """A peer with a valid key that says what it likes, and never gives credit."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.link = VirtualLink(world.network, "operator/mallory", self)
        self.greets = self.sid = 0

    def up(self) -> None:
        """Connected: greet."""
        self.greets += 1
        self.hello(f"m{self.greets}")

    def hello(self, instance: str) -> None:
        """Greet as any instance."""
        hello = words.Hello(protocol=(1, 1), instance=instance, serves=(">",), owns=("operation.*",))
        self.say(k=Frame.HELLO, id="h", data=hello)

    def say(self, **fields: Any) -> None:
        """Send any envelope."""
        body = fields.pop("data", None)
        raw = codec.NIL if body is None else msgspec.Raw(codec.encode(body))
        self.link.send(codec.encode(Envelope(**fields, data=raw)))

    def down(self) -> None:
        """Whatever."""

    def refused(self) -> None:
        """Whatever."""

    def received(self, frame: bytes) -> None:
        """Whatever."""


class World:
    """Everything that lives in one history."""

    def __init__(self, seed: int, limits: words.Limits = NARROW) -> None:
        self.limits = limits
        self.loop = VirtualLoop()
        self.time = self.loop.time
        self.broken: list[str] = []  # what the wires have shown to be wrong
        self.denied: set[tuple[str, str, str]] = set()
        self.starts: list[Start] = []
        self.modes: dict[str, str] = {}
        self.store: dict[str, str] = {}  # committed: key -> result; survives every crash
        self.effects: Counter[str] = Counter()
        self.calls: list[Made] = []
        self.servers: list[Server] = []
        self.callers: list[Peer] = []
        self.watchers: list[Watcher] = []
        self.truth: dict[str, str] = {}  # the newest server's objects
        self.frozen: list[Peer] = []
        self.up_since = 0.0
        self._count = 0
        self._loop_errors: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self._loop_errors.append(context))
        logging.disable(logging.CRITICAL)
        self.run(self._open(seed))

    def run(self, work: Any) -> Any:
        """Run a coroutine to its end."""
        return self.loop.run_until_complete(work)

    async def _open(self, seed: int) -> None:
        self.network = Network(seed, cycle_s=0.002, decide=self.decide, limits=self.limits)
        self.wire = Wire(self)
        self.wire.attach()
        self.network.heard.append(self.wire.hear)
        self.hostile = Hostile(self)
        self.up_since = self.time()
        for _ in range(2):
            self.callers.append(self.peer("operator/admin"))
        await self.start_server()

    def peer(self, label: str) -> Peer:
        """Attach a peer."""
        link = self.network.link(label)
        return Peer(link, version="t", pid=1, boot_id="virtual", token=self.network.token)

    def next(self) -> int:
        """Count."""
        self._count += 1
        return self._count

    def decide(self, label: str, verb: str, subject: str) -> Decision:
        """The first policy, and what was denied since."""
        for who, what, pattern in self.denied:
            if (label, verb) == (who, what) and (matches(pattern, subject) or matches(subject, pattern)):
                return Decision(False, "denied for the test")
        return policy.decide(label, verb, subject)

    # --- services -------------------------------------------------------------------------------------

    async def start_server(self) -> None:
        """Start one more instance of the service, with the state it finds."""
        made = Server(self.peer("service/lifecycle"), f"s{self.next()}")
        for subject, step in self.truth.items():
            made.peer.state.put(subject, value(subject, int(step)))
        self.servers.append(made)
        with contextlib.suppress(ManorError):
            await made.peer.ready(0.5)
        answers = {
            lifecycle.DomainStart: self._answer(made), lifecycle.OperationShow: self._answer(made),
        }  # fmt: skip
        made.peer.serve(answers, ("operation.*",))

    def _answer(self, made: Server) -> Callable[[Any, Context], Any]:
        async def answer(request: Any, context: Context) -> Operation:
            changes = isinstance(request, lifecycle.DomainStart)
            name = request.name if changes else request.id
            start = Start(name, context.key, made.name, self.time(), context.deadline)
            self.starts.append(start)
            mode = self.modes.get(name, "quick")
            if mode == "slow":
                await asyncio.sleep(0.3)
            elif mode == "hang":
                await asyncio.sleep(60)
            elif mode == "refuse":
                raise conflict("no")
            elif mode == "tell" and self.servers[-1:] == [made]:
                self.put("c")
            if changes and context.key not in self.store:  # key and effect in one transaction
                self.store[context.key] = f"{name}-{self.next()}"
                self.effects[context.key] += 1
            return value(self.store.get(context.key, name), 0)

        return answer

    def put(self, name: str, count: int = 1) -> None:
        """Change the newest server's state."""
        for _ in range(count):
            subject = f"operation.{name}"
            self.truth[subject] = str(self.next())
            self.servers[-1].peer.state.put(subject, value(subject, int(self.truth[subject])))

    def drop(self, name: str) -> None:
        """End an object."""
        self.truth.pop(f"operation.{name}", None)
        self.servers[-1].peer.state.drop(f"operation.{name}")

    def kill(self, peer: Peer) -> None:
        """End a process as kill -9 does."""
        peer._closed = True
        peer._link.close()
        for task, *_ in list(peer.dispatcher._tasks.values()):
            task.cancel()
        if peer in self.frozen:
            self.frozen.remove(peer)

    def left(self, server: Server) -> None:
        """An instance is gone: what counts now is what the newest of the others has."""
        newest = server is self.servers[-1]
        self.servers.remove(server)
        if newest and self.servers:
            objects = self.servers[-1].peer.state._objects
            self.truth = {name: codec.decode(kept[2], Operation).step for name, kept in objects.items()}

    async def stop(self, server: Server) -> None:
        """Drain a service and let it leave in order."""
        server.peer.drain()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(server.peer.drained.wait(), 1.0)
        await server.peer.dispatcher.finished(2.0)
        await server.peer.close()

    # --- applications ---------------------------------------------------------------------------------

    def call(self, caller: Peer, timeout: float, mode: str, *, changes: bool, key: str = "") -> Made:
        """Make a call, and note how it ends."""
        name = f"n{self.next()}"
        self.modes[name] = mode
        request = lifecycle.DomainStart(name=name) if changes else lifecycle.OperationShow(id=name)
        task = self.loop.create_task(self._called(caller, request, timeout, key or name))
        made = Made(name, key or name, self.time(), timeout, task, changes)
        task.add_done_callback(lambda _: setattr(made, "ended", self.time()))
        self.calls.append(made)
        return made

    async def _called(self, caller: Peer, request: Any, timeout: float, key: str) -> Operation:
        return await caller.call(request, Operation, timeout=timeout, key=key)

    async def watch(self, policy: str, pace: float, peer: Peer | None = None) -> None:
        """Begin to watch, as somebody who is there or anew."""
        made = Watcher(peer or self.peer("observer/eye"), policy, pace)
        made.task = self.loop.create_task(self._watched(made))
        self.watchers.append(made)

    async def _watched(self, mine: Watcher) -> None:
        with contextlib.suppress(ManorError):  # the policy may forbid it
            await self._follow(mine)

    async def _follow(self, mine: Watcher) -> None:
        async for change in mine.peer.watch("operation.*", policy=mine.policy, window=8):
            if isinstance(change, Change):
                self._in_order(mine, change)
                if change.value is None:
                    mine.seen.pop(change.subject, None)
                else:
                    mine.seen[change.subject] = change.value.step
                if mine.pace:
                    await asyncio.sleep(mine.pace)

    def _in_order(self, mine: Watcher, change: Change) -> None:
        """A view never goes back: what one run of an owner says of an object is told in its order.

        What is gone may have been taken from it by a policy, and come back as it was.
        """
        epoch, rev = mine.newest.get(change.subject, ("", 0))
        if change.epoch == epoch and change.rev < rev:
            self.broken.append(f"8: {mine.policy} watcher was told {change} after {rev}")
        mine.newest[change.subject] = change.epoch, change.rev if change.value is not None else 0

    # --- the end --------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Heal everything, begin again what was ended, and let it become quiet."""
        for peer in list(self.frozen):
            peer._link.thaw()  # type: ignore[attr-defined]
        self.frozen.clear()
        if self.network._waiting is not None:
            self.network.thaw_broker()
        if self.denied:
            self.change_policy(set())
        if self.network.switch is None:
            self.start_broker()
        if not self.servers:
            await self.start_server()
        await asyncio.sleep(HEAL_S)  # a refusal may still be on its way
        for watcher in self.watchers:
            watcher.pace = 0.0
            if watcher.task is not None and watcher.task.done():
                watcher.seen.clear()
                watcher.task = self.loop.create_task(self._watched(watcher))
        await asyncio.sleep(QUIET_S)

    def start_broker(self) -> None:
        """The broker comes back."""
        self.network.start_broker()
        self.wire.attach()
        self.up_since = self.time()

    def change_policy(self, denied: set[tuple[str, str, str]]) -> None:
        """The policy changes under everybody."""
        self.network.pump()  # what was decided before is on its way
        self.denied = denied
        if self.network.switch is not None:
            self.network.switch.change_policy(self.decide, self.time())
            self.network.pump()
            self.wire.recount()

    def close(self) -> None:
        """End the history."""
        for peer in (*self.callers, *(w.peer for w in self.watchers), *(s.peer for s in self.servers)):
            peer._closed = True
            peer._link.close()
        pending = asyncio.all_tasks(self.loop)
        for task in pending:
            task.cancel()
        if pending:
            self.run(asyncio.gather(*pending, return_exceptions=True))
        self.run(self.loop.shutdown_asyncgens())
        self.loop.close()
        logging.disable(logging.NOTSET)

    # --- the promises ---------------------------------------------------------------------------------

    def promise_2_termination(self) -> list[str]:
        """Every call ends once, by its budget."""
        late = [c for c in self.calls if (c.ended or self.time()) > c.began + c.timeout + SLACK_S]
        return [f"{call.name} ended {call.ended}, budget until {call.began + call.timeout}" for call in late]

    def promise_3_honesty(self) -> list[str]:
        """What was said not to have been delivered did not run and will not."""
        ran = {start.key for start in self.starts}
        keys = Counter(call.key for call in self.calls)
        return [
            f"{call.name} ran, but its caller heard: {call.error}"
            for call in self.calls
            if call.error is not None and call.error.delivered is False
            and call.key in ran and keys[call.key] == 1
        ]  # fmt: skip

    def promise_4_no_zombies(self) -> list[str]:
        """No answer begins after its budget."""
        ends = {call.name: call.began + call.timeout for call in self.calls}
        return [
            f"{start.name} began at {start.at}, its budget ended at {ends[start.name]}"
            for start in self.starts
            if start.at > min(start.deadline, ends[start.name]) + 1e-6
        ]

    def promise_6_once(self) -> list[str]:
        """One key: one effect, one reply, and one run in each instance."""
        twice = [f"{key} had {count} effects" for key, count in self.effects.items() if count > 1]
        replies: dict[str, set[str]] = defaultdict(set)
        for call in self.calls:
            ended = call.task.done() and not call.task.cancelled()
            if ended and call.changes and call.task.exception() is None:
                replies[call.key].add(call.task.result().id)
        twice += [f"{key} was answered {ids}" for key, ids in replies.items() if len(ids) > 1]
        runs = Counter((s.server, s.key) for s in self.starts if s.key in self.store)
        return twice + [
            f"{key} ran {count} times in {server}" for (server, key), count in runs.items() if count > 1
        ]

    def promise_7_no_silent_loss(self) -> list[str]:
        """Every event of a subscription was sent, is kept, was replaced or left a hole."""
        switch = self.network.switch
        if switch is None or self.network._waiting is not None or self.network._cycle is not None:
            return []
        wrong = []
        for peer in switch.sessions.by_conn.values():
            for sub in peer.subs.values():
                road, accounted = (peer.conn, sub.sid), sub.next + sub.coalesced + len(sub.newest)
                if not sub.wish.tap and self.wire.matched[road] != accounted:
                    wrong.append(
                        f"{sub.address} {sub.sid}: {self.wire.matched[road]} matched, not {accounted}"
                    )
                if self.wire.delivered[road] + sub.dropped != sub.next:
                    wrong.append(f"{sub.address} {sub.sid}: {self.wire.delivered[road]} sent of {sub.next}")
        return wrong

    def promise_8_convergence(self) -> list[str]:
        """After quiet every view equals the owner's state."""
        return [
            f"{watcher.policy} watcher sees {watcher.seen}, true is {self.truth}"
            for watcher in self.watchers
            if watcher.seen != self.truth
        ]

    def promise_9_bounded(self) -> list[str]:
        """What the broker holds is bounded by its limits."""
        switch = self.network.switch
        if switch is None:
            return []
        peers = switch.sessions.by_conn.values()
        sizes = {
            "pending": (len(switch.sessions.pending), self.limits.pending_calls * len(peers)),
            "deadlines": (len(switch.sessions._deadlines), 2 * len(switch.sessions.pending) + 4_097),
            "in flight": (
                max((len(p.queue.in_flight) for p in peers), default=0),
                self.limits.in_flight_per_callee,
            ),
            "queued": (max((p.queue.queued for p in peers), default=0), self.limits.queued_per_callee),
            "subscriptions": (max((len(p.subs) for p in peers), default=0), self.limits.subscriptions),
            "made": (max((len(p.made) for p in peers), default=0), self.limits.pending_calls),
        }
        held = sum(sub.held for peer in peers for sub in peer.subs.values())
        wrong = [f"{name}: {size} > {limit}" for name, (size, limit) in sizes.items() if size > limit]
        if held != switch.fanout.held:
            wrong.append(f"held {switch.fanout.held}, really {held}")
        wrong += [
            f"{sub.address} was given credit for more than it got"
            for peer in peers
            for sub in peer.subs.values()
            if sub.acked_messages > sub.sent_messages or sub.acked_bytes > sub.sent_bytes
        ]
        return wrong

    def promise_12_restart(self) -> list[str]:
        """A second after the broker came back everybody is there again, without the application."""
        switch = self.network.switch
        assert switch is not None
        here = {peer.address for peer in switch.sessions.by_conn.values()}
        alive = [*self.callers, *(w.peer for w in self.watchers), *(s.peer for s in self.servers)]
        missing = [p.address for p in alive if p.session.address and p.address not in here]
        unserved = [s.name for s in self.servers if switch.sessions.pick("lifecycle.x") is None]
        return [f"not back: {missing}"] * bool(missing) + [f"not served: {unserved}"] * bool(unserved)

    def crashes(self) -> list[str]:
        """Nothing of ours may have raised what it did not mean to."""
        return [str(context.get("exception") or context["message"]) for context in self._loop_errors]


class Wire:
    """What passes the broker: promises 1, 5, 11 and 13 are seen here."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.address: dict[bytes, str] = {}
        self.sent: dict[str, dict[bytes, int]] = defaultdict(dict)  # address -> frame -> its place
        self.passed: dict[tuple[str, bytes, int, int], int] = {}  # the place of the last one on each road
        self.requests: set[tuple[str, str]] = set()
        self.moved: set[tuple[str, str]] = (
            set()
        )  # waited for who leaves: they go behind what waits for another
        self.delivered: Counter[tuple[bytes, int]] = Counter()  # receiver, sid -> items sent to it
        self.matched: Counter[tuple[bytes, int]] = Counter()  # receiver, sid -> events meant for it

    def attach(self) -> None:
        """Count what a new broker itself has to say to each subscriber."""
        switch = self.world.network.switch
        assert switch is not None
        announce = switch.fanout.announce

        def counted(stream: Any, subject: str, packed: bytes, out: Any) -> None:
            if subject.startswith(("bus.", "service.")):
                for sub in stream.subscriptions:
                    self.matched[sub.conn, sub.sid] += 1
            announce(stream, subject, packed, out)

        switch.fanout.announce = counted  # type: ignore[method-assign]
        drain = switch.calls.drain

        def drained(peer: Any, now: float) -> None:
            self.moved.update((call.caller.address, call.id) for call, _ in peer.queue.waiting())
            drain(peer, now)

        switch.calls.drain = drained  # type: ignore[method-assign]

    def recount(self) -> None:
        """What a change of policy took from the slow is not lost in silence: it was taken."""
        switch = self.world.network.switch
        assert switch is not None
        for peer in switch.sessions.by_conn.values():
            for sub in peer.subs.values():
                self.matched[peer.conn, sub.sid] = sub.next + sub.coalesced + len(sub.newest)

    def hear(self, way: str, conn: bytes, label: str, frame: bytes) -> None:
        """See one frame."""
        if way == "up":
            try:
                messages = unbatch(frame) if is_batch(frame) else [frame]
            except (ManorError, codec.Malformed):
                return  # garbage
            for message in messages:
                self._up(conn, message)
        else:
            for down in downs(frame):
                self._down(conn, label, down)

    def _up(self, conn: bytes, frame: bytes) -> None:
        switch = self.world.network.switch
        assert switch is not None
        peer = switch.sessions.by_conn.get(conn)
        if peer is None:
            return
        sent = self.sent[peer.address]
        sent[frame] = len(sent)
        try:
            wire = codec.decode(frame, Envelope)
        except ManorError:
            return  # garbage
        if wire.k == Frame.PUB and self.world.decide(peer.label, "publish", wire.subject).allowed:
            for other in switch.sessions.by_conn.values():
                for sub in other.subs.values():
                    may = self.world.decide(other.label, "watch", wire.subject).allowed
                    if may and matches(sub.stream.pattern, wire.subject):
                        self.matched[other.conn, sub.sid] += 1

    def _down(self, conn: bytes, label: str, down: RawDown) -> None:
        self.delivered[conn, down.sid] += len(down.items)
        for item in down.items:
            sent = bytes(item.envelope)
            wire = codec.decode(sent, Envelope)
            if item.sender.startswith("bus@"):
                if wire.k == Frame.RESET and not label.startswith("operator/mallory"):
                    self._reset(label, wire)
                continue
            if wire.k == Frame.CANCEL and sent not in self.sent[item.sender]:
                self._withdrawn(item.sender, wire)
                continue
            self._check(conn, label, down.sid, item.sender, sent, wire)

    def _withdrawn(self, sender: str, wire: Envelope) -> None:
        """The broker withdraws in the name of a caller that has gone or is late, and of nobody else."""
        switch = self.world.network.switch
        if switch is not None and (sender, wire.re) in switch.sessions.pending:
            self.world.broken.append(f"11: {wire.re} of {sender} was withdrawn and is under way")

    def _reset(self, label: str, wire: Envelope) -> None:
        """An honest peer may be slow, or unknown after a restart, but never breaks the protocol."""
        reason = codec.decode(wire.data, words.Reset).reason
        if reason not in ("unknown", "slow", "revoked"):
            self.world.broken.append(f"{label} was reset for {reason}: {wire.err}")

    def _check(self, conn: bytes, label: str, sid: int, sender: str, sent: bytes, wire: Envelope) -> None:
        broken = self.world.broken.append
        place = self.sent[sender].get(sent)
        if place is None:
            broken(f"11, 13: {sender} never sent these bytes: {wire}")
            return
        waits = (
            wire.k if wire.k in (Frame.REQ, Frame.CANCEL) else 0
        )  # a call may wait, a wish to cancel never
        road = (sender, conn, sid, waits)
        moved = sender.startswith("operator/mallory") or (sender, wire.id) in self.moved
        if place <= self.passed.get(road, -1) and not moved:
            broken(f"1: {wire} of {sender} came out of order or twice")
        if (
            wire.k == Frame.PUB
            and place < self.passed.get((sender, conn, 0, 0), -1)
            and self._prompt(conn, sid)
        ):
            broken(f"1: a reply of {sender} overtook {wire}")
        self.passed[road] = max(place, self.passed.get(road, -1))
        if sid and wire.k != Frame.PUB:
            if not self.world.decide(label, "tap", ">").allowed:
                broken(f"11: {label} saw a call")
        elif wire.k == Frame.REQ:
            self._asked(label, sender, wire)
        elif wire.k == Frame.CANCEL and (sender, wire.re) not in self.requests:
            broken(f"11: {sender} withdrew {wire.re}, a call of somebody else")
        elif wire.k == Frame.PUB:
            self._told(label, sender, wire)

    def _asked(self, label: str, sender: str, wire: Envelope) -> None:
        broken, decide = self.world.broken.append, self.world.decide
        if (sender, wire.id) in self.requests and not sender.startswith("operator/mallory"):
            broken(f"5: {wire.id} of {sender} was sent twice")
        self.requests.add((sender, wire.id))
        subject, _, place = wire.to.partition("@")
        may = decide(sender.partition("@")[0], "call", subject).allowed
        serves = subject.startswith("srv.") or decide(label, "serve", subject).allowed
        if not (may and serves and self._label_of(place.partition("/")[2]) in ("", label)):
            broken(f"11: {sender} may not call, or {label} not serve, {wire.to}")

    def _told(self, label: str, sender: str, wire: Envelope) -> None:
        may = self.world.decide(label, "watch", wire.subject).allowed
        if not (may and self.world.decide(sender.partition("@")[0], "publish", wire.subject).allowed):
            self.world.broken.append(f"11: {label} got {wire.subject} of {sender}")

    def _label_of(self, instance: str) -> str:
        """Return whose an instance is; empty when it is nobody's of ours."""
        everybody = (*self.world.callers, *(server.peer for server in self.world.servers))
        return next(
            (p.session.address.partition("@")[0] for p in everybody if p.session.instance == instance), ""
        )

    def _prompt(self, conn: bytes, sid: int) -> bool:
        """Whether nothing of a subscription may wait for its reader."""
        switch = self.world.network.switch
        peer = switch.sessions.by_conn.get(conn) if switch is not None else None
        sub = peer.subs.get(sid) if peer is not None else None
        return sub is not None and sub.wish.policy != "coalesce"


def unexpected(made: Made) -> str:
    """Return what is wrong with how a call ended, whatever happened to the bus."""
    error = made.error
    if error is None or error.kind in (Kind.UNAVAILABLE, Kind.TIMEOUT, Kind.CONFLICT, Kind.NO_CAPACITY):
        return ""
    return "" if error.kind is Kind.FORBIDDEN else f"{made.name}: {error}"
