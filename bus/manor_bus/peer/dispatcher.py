"""How a peer answers calls: one task per call, `srv.*` by itself, every error as a typed reply."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from manor_bus.clock import resident_kib
from manor_bus.peer.duplicates import Answer as Answered
from manor_bus.peer.duplicates import Inbox, Run
from manor_bus.peer.outcomes import Asked, Withdrawn
from manor_bus.wire import codec, schema
from manor_bus.wire.envelope import Envelope
from manor_bus.wire.errors import Kind, ManorError, Origin, unavailable
from manor_bus.wire.messages import Call, Done, Message, node
from manor_bus.wire.messages.catalogue import CALL_BY_REQUEST, CALL_BY_TYPE

if TYPE_CHECKING:
    from manor_bus.peer.aio import Answer, Context, Peer

log = logging.getLogger(__name__)


@dataclass
class _Count:
    calls: int = 0
    errors: int = 0
    in_flight: int = 0
    total_ms: float = 0.0
    max_ms: float = 0.0


class Answering:
    """The calls one peer answers."""

    def __init__(self, peer: Peer, version: str) -> None:
        self._peer, self._version = peer, version
        self._loop = asyncio.get_running_loop()
        self._inbox = Inbox()
        self._tasks: dict[Run, tuple[asyncio.Task[None], Call, asyncio.Event]] = {}
        self._counts: dict[str, _Count] = {}
        self._started = time.time()
        self.detail: Callable[[], dict[str, Any]] = dict
        self.name = ""
        self.drain: Callable[[float], None] | None = None
        self.served = False
        self._answers: dict[str, Answer] = {}
        self.serve_own()

    def serve_own(self) -> None:
        """Answer `srv.*`."""
        own: Mapping[type[Message], Answer] = {
            node.Ping: self._ping, node.Info: self._about, node.Stats: self._stats,
            node.Schema: self._schema, node.Drain: self._drain, node.Snapshot: self._snapshot,
        }  # fmt: skip
        self._answers |= {CALL_BY_REQUEST[request].type_name: answer for request, answer in own.items()}

    def serve(self, answers: Mapping[type[Message], Answer]) -> None:
        """Answer these requests, too."""
        self._answers |= {CALL_BY_REQUEST[request].type_name: answer for request, answer in answers.items()}
        self.served = True

    def types(self) -> dict[str, str]:
        """Served types and the hashes of their schemas."""
        return {
            name: schema.schema_hash(name) for name in sorted(self._answers) if not name.startswith("srv.")
        }

    def take(self, event: Asked | Withdrawn) -> None:
        """Take what the session says: somebody calls, or gave up."""
        if isinstance(event, Asked):
            self.asked(event.sender, event.request, event.deadline)
        else:
            self.withdrawn(event.sender, event.id)

    def asked(self, sender: str, wire: Envelope, deadline: float) -> None:
        """Take one call: refuse, join, repeat the answer, or run."""
        type_name = wire.type or wire.to.partition("@")[0] + ".v1"
        call, answer = CALL_BY_TYPE.get(type_name), self._answers.get(type_name)
        if call is None or answer is None:
            self._refuse(
                sender,
                wire.id,
                ManorError(Kind.BAD_REQUEST, f"{type_name} is not served here", delivered=False),
            )
            return
        if self._loop.time() >= deadline:
            late = ManorError(Kind.TIMEOUT, "the budget was over before the call began", delivered=False)
            self._refuse(sender, wire.id, late)
            return
        label = sender.partition("@")[0]
        known = self._inbox.ask((label, type_name, wire.idempotencykey or wire.id), sender, wire.id)
        if isinstance(known, Answered):
            self._peer.reply(sender, wire.id, data=known.data, err=known.err)
        elif known in self._tasks:
            self._tasks[known][2].clear()  # somebody waits for it (again)
        else:
            cancelled = asyncio.Event()
            context = self._context(known, sender, label, wire, deadline, cancelled)
            task = self._loop.create_task(self._run(known, call, answer, wire.data, context))
            self._tasks[known] = (task, call, cancelled)

    def withdrawn(self, sender: str, request: str) -> None:
        """A caller gave up: a question is dropped, a change is only told."""
        run = self._inbox.withdraw(sender, request)
        if run is not None and run in self._tasks:
            task, call, cancelled = self._tasks[run]
            cancelled.set()
            if not call.changes:
                self._inbox.forget(run)
                task.cancel()

    def _context(
        self, run: Run, sender: str, label: str, wire: Envelope, deadline: float, cancelled: asyncio.Event
    ) -> Context:
        from manor_bus.peer.aio import Context

        def part(message: Message) -> None:
            data = msgspec.Raw(codec.encode(message))
            for waiting, request in run.waiting:
                self._peer.reply(waiting, request, data=data, last=False)

        return Context(
            sender, label, run.key[2], deadline, wire.correlationid, cancelled, part, wire.on_behalf_of
        )

    async def _run(self, run: Run, call: Call, answer: Answer, data: msgspec.Raw, context: Context) -> None:
        count = self._counts.setdefault(call.type_name, _Count())
        count.calls += 1
        count.in_flight += 1
        began = time.perf_counter()
        try:
            done = await self._outcome(call, answer, data, context)
        finally:
            count.in_flight -= 1
            took = (time.perf_counter() - began) * 1000
            count.total_ms += took
            count.max_ms = max(count.max_ms, took)
            self._tasks.pop(run, None)
        count.errors += done.err is not None
        for sender, request in self._inbox.finish(run, done, changes=call.changes):
            self._peer.reply(sender, request, data=done.data, err=done.err)

    async def _outcome(self, call: Call, answer: Answer, data: msgspec.Raw, context: Context) -> Answered:
        try:
            body = data if data != codec.NIL else msgspec.Raw(b"\x80")
            reply = await answer(codec.decode(body, call.request), context)
            return Answered(msgspec.Raw(codec.encode(reply)), None)
        except ManorError as error:
            error.delivered = True  # to us; a call of ours that it comes from may not have been
            return Answered(codec.NIL, error.body())
        except asyncio.CancelledError:
            gone = unavailable("the call was cancelled", delivered=True)
            gone.origin = Origin.LIBRARY  # the caller's library tries it again while there is time
            return Answered(codec.NIL, gone.body())
        except Exception:
            log.exception(
                "a bug while answering %s for %s (key %s)", call.type_name, context.caller, context.key
            )
            bug = ManorError(
                Kind.INTERNAL, f"a bug in {self._peer.address} while answering {call.type_name}",
                hint=f"Report it with the key {context.key}; the details are in the service's log.",
            )  # fmt: skip
            return Answered(codec.NIL, bug.body())

    def _refuse(self, sender: str, request: str, error: ManorError) -> None:
        error.origin = Origin.LIBRARY
        self._peer.reply(sender, request, err=error.body())

    async def finished(self, timeout: float) -> bool:
        """Wait until no call runs; False when some still do after `timeout` seconds."""
        tasks = [task for task, _, _ in self._tasks.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)
        return not self._tasks

    async def close(self) -> None:
        """End what still runs."""
        tasks = [task for task, _, _ in self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- srv.* ----------------------------------------------------------------------------------------

    async def _ping(self, request: node.Ping, context: Context) -> Done:
        return Done()

    async def _about(self, request: node.Info, context: Context) -> node.InfoAnswer:
        session = self._peer.session
        return node.InfoAnswer(
            name=self.name or session.address.partition("@")[0].partition("/")[2], instance=session.instance,
            node=self._peer.node, pid=session.pid, version=self._version, ready=self.served,
            draining=self._peer.drained.is_set(), started=self._started, types=tuple(self.types()),
            detail=self.detail(),
        )  # fmt: skip

    async def _stats(self, request: node.Stats, context: Context) -> node.StatsAnswer:
        calls = tuple(
            node.CallStats(type=name, **vars(count)) for name, count in sorted(self._counts.items())
        )
        resident = resident_kib()
        return node.StatsAnswer(calls=calls, published=self._peer.state.rev, resident_kib=resident)

    async def _schema(self, request: node.Schema, context: Context) -> node.SchemaAnswer:
        wanted = [request.type] if request.type else [t for t in self._answers if not t.startswith("srv.")]
        unknown = [name for name in wanted if name not in self._answers]
        if unknown:
            raise ManorError(Kind.NOT_FOUND, f"{unknown[0]} is not served here")
        return node.SchemaAnswer(schemas={name: schema.schema(name) for name in wanted})

    async def _drain(self, request: node.Drain, context: Context) -> Done:
        if self.drain is None:
            raise ManorError(Kind.DENIED_STATE, "this peer is not a service and cannot drain")
        self.drain(request.deadline_ms / 1000)
        return Done()

    async def _snapshot(self, request: node.Snapshot, context: Context) -> node.SnapshotDone:
        await self._peer.state.complete()
        state = self._peer.state
        rev = state.rev
        for items in list(state.snapshot(request.pattern)):
            context.send_part(node.SnapshotPart(items=items))
        return node.SnapshotDone(epoch=state.epoch, rev=rev)
