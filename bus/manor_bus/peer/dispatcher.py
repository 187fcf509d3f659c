"""How a peer answers calls: refuse, join, repeat the answer, or run; `srv.*` by itself.

An answer that waits runs as a task of its own; one that is a plain function is answered at once. Every error
travels as a typed reply.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from manor_bus.peer.duplicates import Answer as Answered
from manor_bus.peer.duplicates import DuplicateCache, Run
from manor_bus.peer.events import Asked, Withdrawn
from manor_bus.peer.session import Session
from manor_bus.peer.state import State
from manor_bus.wire import codec
from manor_bus.wire.errors import Kind, ManorError, Origin, bad_request, not_found, unavailable
from manor_bus.wire.messages import Call, Done, Message, node
from manor_bus.wire.messages.catalogue import CALL_BY_REQUEST
from manor_host.clock import resident_kib

log = logging.getLogger(__name__)


class Context(msgspec.Struct, frozen=True):
    """Who calls, and until when. `caller` is the verified address, `deadline` is on the loop's clock.

    `on_behalf_of` is the address of whom the caller, a service, acts for; empty when it acts for itself.
    """

    caller: str
    label: str
    key: str
    deadline: float
    correlationid: str
    send_part: Callable[[Message], None]
    on_behalf_of: str = ""

    @property
    def actor(self) -> str:
        """The address of who wants this: the caller, or whom it acts for."""
        return self.on_behalf_of or self.caller

    async def part(self, message: Message) -> None:
        """Send a partial reply."""
        self.send_part(message)
        await asyncio.sleep(0)


Answer = Callable[[Any, Context], Awaitable[Message] | Message]


@dataclass(slots=True)
class _Count:
    calls: int = 0
    errors: int = 0
    in_flight: int = 0
    total_ms: float = 0.0
    max_ms: float = 0.0

    def over(self, began: float) -> None:
        """One call is over."""
        took = (time.perf_counter() - began) * 1000
        self.total_ms += took
        if took > self.max_ms:
            self.max_ms = took


class Dispatcher:
    """The calls one peer answers. `turn` lets the shell send what the session has to say."""

    def __init__(self, session: Session, state: State, version: str, turn: Callable[[], None]) -> None:
        self._session, self._state, self._version, self._turn = session, state, version, turn
        self._loop = asyncio.get_running_loop()
        self._cache = DuplicateCache()
        self._tasks: dict[Run, tuple[asyncio.Task[None], Call]] = {}
        self._counts: dict[str, _Count] = {}
        self._started = time.time()
        self.name = ""
        self.drain: Callable[[float], None] | None = None
        self.detail: dict[str, Any] = {}  # what a service says about itself beside that
        self.draining = self.served = False
        self._answers: dict[str, tuple[Call, Answer]] = {}
        self._take({
            node.Ping: lambda _, __: Done(), node.Info: self._about, node.Stats: self._stats,
            node.Schema: self._schema, node.Drain: self._drain, node.Snapshot: self._snapshot,
        })  # fmt: skip

    def _take(self, answers: Mapping[type[Message], Answer]) -> None:
        for request, answer in answers.items():
            call = CALL_BY_REQUEST[request]
            self._answers[call.type_name] = (call, answer)

    def serve(self, answers: Mapping[type[Message], Answer]) -> None:
        """Answer these requests, too."""
        self._take(answers)
        self.served = True

    def _types(self) -> list[str]:
        """The served types, without what every peer answers."""
        return sorted(name for name in self._answers if not name.startswith("srv."))

    # --- calls ----------------------------------------------------------------------------------------

    def asked(self, event: Asked) -> None:
        """Take one call: refuse, join, repeat the answer, or run."""
        sender, wire = event.sender, event.request
        type_name = wire.type or wire.to.partition("@")[0] + ".v1"
        known = self._answers.get(type_name)
        if known is None:
            self._refuse(event, bad_request(f"{type_name} is not served here"))
            return
        if self._loop.time() >= event.deadline:
            self._refuse(event, ManorError(Kind.TIMEOUT, "the budget was over before the call began"))
            return
        label = sender.partition("@")[0]
        run = self._cache.ask((label, type_name, wire.idempotencykey or wire.id), sender, wire.id)
        if isinstance(run, Answered):
            self._session.reply(sender, wire.id, data=run.data, err=run.err, last=True)
            self._turn()
        elif run not in self._tasks:  # else somebody waits for it (again)
            self._begin(run, *known, event, label)

    def _begin(self, run: Run, call: Call, answer: Answer, event: Asked, label: str) -> None:
        wire = event.request
        context = Context(
            event.sender, label, run.key[2], event.deadline, wire.correlationid,
            lambda message: self._part(run, message), wire.on_behalf_of,
        )  # fmt: skip
        count = self._counts.get(call.type_name)
        if count is None:
            count = self._counts[call.type_name] = _Count()
        count.calls += 1
        began = time.perf_counter()
        try:
            if inspect.iscoroutinefunction(answer):
                self._let_run(run, call, answer, wire.data, context, count, began)
                return
            reply = answer(codec.read_body(wire.data, call.request), context)
            if not isinstance(reply, Message):  # it has made something to wait for
                self._let_run(run, call, lambda *_: reply, wire.data, context, count, began)
                return
            done = Answered(msgspec.Raw(codec.encode(reply)), None)
        except Exception as error:
            done = self._failed(error, call, context)
        count.over(began)
        self._end(run, call, done, count)

    def _let_run(self, run: Run, call: Call, *more: Any) -> None:
        self._tasks[run] = (self._loop.create_task(self._wait(run, call, *more)), call)

    async def _wait(
        self, run: Run, call: Call, answer: Answer, data: msgspec.Raw, context: Context, count: _Count,
        began: float,
    ) -> None:  # fmt: skip
        count.in_flight += 1
        try:
            outcome = answer(codec.read_body(data, call.request), context)
            reply = outcome if isinstance(outcome, Message) else await outcome
            done = Answered(msgspec.Raw(codec.encode(reply)), None)
        except asyncio.CancelledError:
            gone = unavailable("the call was cancelled", delivered=True)
            gone.origin = Origin.LIBRARY  # the caller's library tries it again while there is time
            done = Answered(codec.NIL, gone.body())
        except Exception as error:
            done = self._failed(error, call, context)
        finally:
            count.in_flight -= 1
            count.over(began)
            self._tasks.pop(run, None)
        self._end(run, call, done, count)

    def _end(self, run: Run, call: Call, done: Answered, count: _Count) -> None:
        if done.err is not None:
            count.errors += 1
        for sender, request in self._cache.finish(run, done, changes=call.changes):
            self._session.reply(sender, request, data=done.data, err=done.err, last=True)
        self._turn()

    def _failed(self, error: Exception, call: Call, context: Context) -> Answered:
        if isinstance(error, ManorError):
            error.delivered = True  # to us; a call of ours that it comes from may not have been
            return Answered(codec.NIL, error.body())
        log.error(
            "a bug while answering %s for %s (key %s)", call.type_name, context.caller, context.key,
            exc_info=error,
        )  # fmt: skip
        bug = ManorError(
            Kind.INTERNAL, f"a bug in {self._session.address} while answering {call.type_name}",
            hint=f"Report it with the key {context.key}; the details are in the service's log.",
        )  # fmt: skip
        return Answered(codec.NIL, bug.body())

    def _part(self, run: Run, message: Message) -> None:
        data = msgspec.Raw(codec.encode(message))
        for sender, request in run.waiting:
            self._session.reply(sender, request, data=data, err=None, last=False)
        self._turn()

    def _refuse(self, event: Asked, error: ManorError) -> None:
        error.origin, error.delivered = Origin.LIBRARY, False
        self._session.reply(event.sender, event.request.id, data=codec.NIL, err=error.body(), last=True)
        self._turn()

    def withdrawn(self, event: Withdrawn) -> None:
        """A caller gave up: a question is dropped, a change goes on."""
        run = self._cache.withdraw(event.sender, event.id)
        if run is not None and run in self._tasks:
            task, call = self._tasks[run]
            if not call.changes:
                self._cache.forget(run)
                task.cancel()

    async def finished(self, timeout: float) -> bool:
        """Wait until no call runs; False when some still do after `timeout` seconds."""
        tasks = [task for task, _ in self._tasks.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)
        return not self._tasks

    async def close(self) -> None:
        """End what still runs."""
        tasks = [task for task, _ in self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- srv.* ----------------------------------------------------------------------------------------

    def _about(self, request: node.Info, context: Context) -> Message:
        session = self._session
        label, _, place = session.address.partition("@")
        return node.InfoAnswer(
            name=self.name or label.partition("/")[2], instance=session.instance,
            node=place.partition("/")[0], pid=session.pid, version=self._version, ready=self.served,
            draining=self.draining, started=self._started, types=tuple(self._types()),
            detail=self.detail,
        )  # fmt: skip

    def _stats(self, request: node.Stats, context: Context) -> Message:
        calls = tuple(
            node.CallStats(
                type=name, calls=count.calls, errors=count.errors, in_flight=count.in_flight,
                total_ms=count.total_ms, max_ms=count.max_ms,
            )
            for name, count in sorted(self._counts.items())
        )  # fmt: skip
        return node.StatsAnswer(calls=calls, published=self._state.rev, resident_kib=resident_kib())

    def _schema(self, request: node.Schema, context: Context) -> Message:
        from manor_bus.wire import schema

        wanted = [request.type] if request.type else self._types()
        unknown = [name for name in wanted if name not in self._answers]
        if unknown:
            raise not_found(f"{unknown[0]} is not served here")
        return node.SchemaAnswer(schemas={name: schema.schema(name) for name in wanted})

    def _drain(self, request: node.Drain, context: Context) -> Message:
        if self.drain is None:
            raise ManorError(Kind.DENIED_STATE, "this peer is not a service and cannot drain")
        self.drain(request.deadline_ms / 1000)
        return Done()

    async def _snapshot(self, request: node.Snapshot, context: Context) -> Message:
        await self._state.complete()
        rev = self._state.rev
        for items in list(self._state.snapshot(request.pattern)):
            context.send_part(node.SnapshotPart(items=items))
        return node.SnapshotDone(epoch=self._state.epoch, rev=rev)
