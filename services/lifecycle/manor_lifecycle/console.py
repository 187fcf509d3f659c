"""Serial consoles over the bus: output as numbered bytes for everybody, input from one writer at a time.

`started` and `ended` follow the runs; attach, write and detach answer the messages of the same name. What a
guest prints is kept (256 KiB) and published in batches, whether anybody listens or not; a flood is published
with holes, which the numbers show and the scroll-back fills.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from manor_bus.wire.errors import Kind, ManorError, Problem, bad_request, denied_state
from manor_bus.wire.messages import Message
from manor_bus.wire.messages.consoles import ConsoleAttach, ConsoleAttached, ConsoleOutput, ConsoleWrite
from manor_lifecycle import seat
from manor_lifecycle.hypervisors import ConsoleStream
from manor_lifecycle.ring import Ring
from manor_lifecycle.seat import Seat

Publish = Callable[[str, Message], Awaitable[None]]
Open = Callable[[], Awaitable[ConsoleStream]]

BATCH_S: Final = 0.02
CHUNK_BYTES: Final = 16 << 10
BATCH_BYTES: Final = 4 * CHUNK_BYTES  # published at once; a guest that prints faster is shown with holes
WRITE_BYTES_MAX: Final = 4096
AGAIN_S: Final = 1.0
BACKLOG_S: Final = 0.1  # after it was opened, a stream has said by then what it kept
OPENING_S: Final = 15.0  # a call that never returns would keep all others about the run waiting
OPEN_S: Final = 2.0  # so long who attaches waits for a console that is being opened
NEVER: Final = frozenset({Kind.DENIED_STATE, Kind.BAD_REQUEST})  # there is no console to wait for

_log = logging.getLogger(__name__)


@dataclass
class _Console:
    """The console of one run. `told`: up to where the output was published."""

    name: str
    incarnation: int
    ring: Ring = field(default_factory=Ring)
    seat: Seat = field(default_factory=Seat)
    told: int = 0
    stream: ConsoleStream | None = None
    missing: str = ""  # why there is none
    known: asyncio.Event = field(default_factory=asyncio.Event)  # what it printed before, or `missing`
    printed: asyncio.Event = field(default_factory=asyncio.Event)
    typing: asyncio.Lock = field(default_factory=asyncio.Lock)
    tasks: tuple[asyncio.Task[None], ...] = ()


class Consoles:
    """All consoles of this node's domains, by uuid."""

    def __init__(
        self, publish: Publish, new_token: Callable[[], str] = lambda: secrets.token_hex(16)
    ) -> None:
        self._publish = publish
        self._new_token = new_token
        self._consoles: dict[str, _Console] = {}
        self._closing: set[asyncio.Task[None]] = set()

    # --- runs -------------------------------------------------------------------------------------------

    def started(self, uuid: str, name: str, incarnation: int, open_stream: Open) -> None:
        """A run is alive: keep reading its console. Said again it changes at most the name."""
        there = self._consoles.get(uuid)
        if there is not None and there.incarnation == incarnation and there.tasks:
            there.name = name
            return
        self._stop(there)
        fresh = there is None or there.incarnation != incarnation
        console = _Console(name, incarnation) if fresh or there is None else there
        loop = asyncio.get_running_loop()
        console.tasks = (
            loop.create_task(self._read(console, open_stream)),
            loop.create_task(self._tell(console)),
        )
        self._consoles[uuid] = console

    def ended(self, uuid: str) -> None:
        """The run is over; what it printed can be read until the next one starts."""
        self._stop(self._consoles.get(uuid))

    def forget(self, uuid: str) -> None:
        """The domain is no more."""
        self._stop(self._consoles.pop(uuid, None))

    def _stop(self, console: _Console | None) -> None:
        if console is not None and console.tasks:
            task = asyncio.get_running_loop().create_task(self._wind_up(console, console.tasks))
            console.tasks = ()
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _wind_up(self, console: _Console, tasks: tuple[asyncio.Task[None], ...]) -> None:
        """Take the last words, then close."""
        reader, teller = tasks
        await asyncio.wait((reader,), timeout=AGAIN_S)
        for task in (reader, teller):
            task.cancel()
        await asyncio.gather(reader, teller, return_exceptions=True)
        await self._publish_new(console)

    async def close(self) -> None:
        """Let all consoles go."""
        for console in self._consoles.values():
            for task in console.tasks:
                task.cancel()
            await asyncio.gather(*console.tasks, return_exceptions=True)
            console.tasks = ()
        self._consoles = {}
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def _read(self, console: _Console, open_stream: Open) -> None:
        while True:
            try:
                async with asyncio.timeout(OPENING_S):
                    console.stream = await open_stream()
                console.missing = ""
                if not console.ring.content:
                    console.ring.offset = console.told = console.stream.offset
                asyncio.get_running_loop().call_later(BACKLOG_S, console.known.set)
                await self._read_all(console, console.stream)
            except ManorError as error:
                console.missing = error.message
                console.known.set()
                if error.kind in NEVER:
                    return
                _log.info("console of %s: %s", console.name, error)
            except TimeoutError:
                _log.warning("console of %s: not opened within %g s", console.name, OPENING_S)
            finally:
                stream, console.stream = console.stream, None
                if stream is not None:
                    await stream.close()
            await asyncio.sleep(AGAIN_S)

    async def _read_all(self, console: _Console, stream: ConsoleStream) -> None:
        while True:
            offset = stream.offset
            content = await stream.read()
            if not content:
                return
            console.ring.add(offset, content)
            console.printed.set()

    async def _tell(self, console: _Console) -> None:
        while True:
            await console.printed.wait()
            await asyncio.sleep(BATCH_S)
            console.printed.clear()
            await self._publish_new(console)

    async def _publish_new(self, console: _Console) -> None:
        start = max(console.told, console.ring.end - BATCH_BYTES)
        while start < console.ring.end:
            offset, content = console.ring.since(start, CHUNK_BYTES)
            start = console.told = offset + len(content)
            output = ConsoleOutput(
                name=console.name, incarnation=console.incarnation, offset=offset, content=content
            )
            await self._publish(f"console.{console.name}", output)

    # --- answers ----------------------------------------------------------------------------------------

    async def attach(self, uuid: str, request: ConsoleAttach, who: str, key: str) -> ConsoleAttached:
        """Return what was printed, and the right to type when it is asked for and free."""
        console = self._find(uuid, request.name)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(OPEN_S):
                await console.known.wait()
        if console.missing and not console.ring.end:
            raise denied_state(f"{request.name} has no console: {console.missing}")
        if request.write:
            console.seat = seat.take(console.seat, who, key, self._new_token(), steal=request.steal)
        offset, content = console.ring.since(0, console.ring.kept)
        return ConsoleAttached(
            token=console.seat.token if request.write else "",
            scrollback=content,
            offset=offset + len(content),
            incarnation=console.incarnation,
            subject=f"console.{console.name}",
        )

    async def write(self, uuid: str, request: ConsoleWrite) -> None:
        """Type; in the order of the calls."""
        console = self._find(uuid, request.name)
        if len(request.content) > WRITE_BYTES_MAX:
            reason = f"has {len(request.content)} bytes"
            problem = Problem(path="content", reason=reason, allowed=f"up to {WRITE_BYTES_MAX} bytes")
            raise bad_request("too much at once for a console", problem, hint="Send it in pieces.")
        seat.check(console.seat, request.token)
        async with console.typing:
            if console.stream is None:
                reason = console.missing or "its run is over"
                raise denied_state(f"nobody reads at the console of {request.name}: {reason}")
            await console.stream.write(request.content)

    async def detach(self, uuid: str, token: str) -> None:
        """Give the place back; repeating it is harmless."""
        console = self._consoles.get(uuid)
        if console is not None:
            console.seat = seat.leave(console.seat, token)

    def _find(self, uuid: str, name: str) -> _Console:
        console = self._consoles.get(uuid)
        if console is None:
            hint = "Start it, then attach."
            raise denied_state(f"{name} has not run since this service started", hint=hint)
        return console
