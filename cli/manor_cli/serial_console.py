"""Attach to a domain's serial console over the bus: what was printed before, then what is printed now.

Output comes as numbered bytes (incarnation, offset), so overlaps are trimmed, and a hole, after a slow moment
of ours or a restart of the service, is filled from the scroll-back, or told when it is too old for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from manor_bus.peer.events import Synced
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import Done, Message, consoles, lifecycle
from manor_cli.views import LIVE

ESCAPE: Final = b"\x1d"  # Ctrl-]
WRITE_BYTES_MAX: Final = 4_096
CALL_S: Final = 10.0
RECENT_BYTES: Final = 65_536  # in which --until is looked for


class Peer(Protocol):
    """The part of `manor_bus.peer.aio.Peer` that a console needs."""

    async def call(self, request: Message, reply: type[Any], *, timeout: float) -> Any:
        """Ask and wait for the reply."""

    def watch(self, pattern: str, *, policy: Any = "coalesce", snapshot: bool = True) -> AsyncIterator[Any]:
        """Follow every object under a pattern."""


@dataclass(frozen=True)
class Wish:
    """What to do. `until`: end when this was printed; `idle_s`: end so long after the end of the input."""

    name: str
    write: bool = True
    steal: bool = False
    scrollback: bool = True
    until: bytes = b""
    idle_s: float = 1.0
    timeout_s: float | None = None


@dataclass
class Place:
    """Where we are in the output. Pure."""

    incarnation: int = 0
    offset: int = 0

    def take(self, incarnation: int, offset: int, content: bytes) -> tuple[int, bytes]:
        """Return how many bytes are missing before `content`, and the part of it that is new."""
        if incarnation < self.incarnation:
            return 0, b""
        if incarnation > self.incarnation:
            self.incarnation, self.offset = incarnation, 0
        missing, known = max(0, offset - self.offset), max(0, self.offset - offset)
        fresh = content[known:]
        self.offset = max(self.offset, offset + len(content))
        return missing, fresh


@dataclass
class Console:
    """One attachment. `emit` writes bytes to the person, `note` says something about the console itself."""

    peer: Peer
    wish: Wish
    emit: Callable[[bytes], None]
    note: Callable[[str], None]
    place: Place = field(default_factory=Place)
    recent: bytes = b""
    token: str = ""
    sender: str = ""
    printed: asyncio.Event = field(default_factory=asyncio.Event)
    found: bool = False

    async def run(self, typed: AsyncIterator[bytes]) -> None:
        """Attach and go on until the escape, the text waited for, the end of the input, or of the domain."""
        try:
            async with asyncio.timeout(self.wish.timeout_s):
                await self._run(typed)
        except TimeoutError:
            if self.wish.until:
                text = self.wish.until.decode(errors="replace")
                raise ManorError(
                    Kind.TIMEOUT, f"{self.wish.name} did not print {text!r} in time",
                    hint=f"see what it printed: manor console {self.wish.name} --watch",
                ) from None  # fmt: skip
        finally:
            if self.token:
                with suppress(ManorError):
                    detach = consoles.ConsoleDetach(name=self.wish.name, token=self.token)
                    await self.peer.call(detach, Done, timeout=1.0)

    async def _run(self, typed: AsyncIterator[bytes]) -> None:
        ready = asyncio.Event()
        tasks: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(self._follow(ready)),
            asyncio.ensure_future(self._domain()),
        ]
        try:
            await _first([asyncio.ensure_future(ready.wait()), *tasks], tasks)
            tasks.append(asyncio.ensure_future(self._input(typed)))
            await _first(tasks, tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # -- output ----------------------------------------------------------------------------------------------

    async def _follow(self, ready: asyncio.Event) -> None:
        """Print what comes; returns when the text waited for was printed."""
        subject = f"console.{self.wish.name}"
        async with aclosing(self.peer.watch(subject, policy="gap")) as changes:  # type: ignore[type-var]
            async for change in changes:
                if isinstance(change, Synced):
                    if not ready.is_set():
                        await self._attach(first=True)
                        ready.set()
                elif ready.is_set() and isinstance(change.value, consoles.ConsoleOutput):
                    await self._from(change.sender)
                    await self._output(change.value)
                if self.found:
                    return

    async def _attach(self, *, first: bool) -> consoles.ConsoleAttached:
        request = consoles.ConsoleAttach(
            name=self.wish.name, write=self.wish.write, steal=self.wish.steal or not first
        )
        attached: consoles.ConsoleAttached = await self.peer.call(
            request, consoles.ConsoleAttached, timeout=CALL_S
        )
        self.token = attached.token
        if first:
            self.place = Place(attached.incarnation, attached.offset)
            if self.wish.scrollback:
                self._print(attached.scrollback)
        return attached

    async def _from(self, sender: str) -> None:
        """Notice another instance of the service; one that lost count begins to count anew."""
        if self.sender and sender != self.sender:
            request = consoles.ConsoleAttach(name=self.wish.name, write=False)
            now = await self.peer.call(request, consoles.ConsoleAttached, timeout=CALL_S)
            if now.incarnation == self.place.incarnation and now.offset < self.place.offset:
                self.place = Place(now.incarnation, now.offset - len(now.scrollback))
        self.sender = sender

    async def _output(self, output: consoles.ConsoleOutput) -> None:
        before = self.place.offset if output.incarnation == self.place.incarnation else 0
        missing, fresh = self.place.take(output.incarnation, output.offset, output.content)
        if missing:
            self._print(await self._missed(output.incarnation, before, missing))
        self._print(fresh)

    async def _missed(self, incarnation: int, start: int, count: int) -> bytes:
        """Return the bytes of a hole from the scroll-back; tell what is no longer there."""
        request = consoles.ConsoleAttach(name=self.wish.name, write=False)
        old = await self.peer.call(request, consoles.ConsoleAttached, timeout=CALL_S)
        first = old.offset - len(old.scrollback)
        found: bytes = old.scrollback[max(0, start - first) : max(0, start + count - first)]
        if old.incarnation != incarnation:
            found = b""
        if len(found) < count:
            self.note(f"[{count - len(found)} bytes of output were lost]")
        return found

    def _print(self, content: bytes) -> None:
        if not content:
            return
        self.emit(content)
        self.recent = (self.recent + content)[-RECENT_BYTES:]
        self.found = bool(self.wish.until) and self.wish.until in self.recent
        self.printed.set()

    async def _domain(self) -> None:
        """Return when the domain no longer runs."""
        shown = lifecycle.DomainShow(name=self.wish.name)
        uuid = (await self.peer.call(shown, lifecycle.DomainStatus, timeout=CALL_S)).uuid
        async with aclosing(self.peer.watch(f"domain.{uuid}")) as changes:  # type: ignore[type-var]
            async for change in changes:
                status = None if isinstance(change, Synced) else change.value
                if isinstance(status, lifecycle.DomainStatus) and status.state not in LIVE:
                    self.note(f"[{self.wish.name} is {status.state.value}]")
                    return

    # -- input -----------------------------------------------------------------------------------------------

    async def _input(self, typed: AsyncIterator[bytes]) -> None:
        """Send what is typed until the escape; after the end of the input wait until nothing is printed."""
        async for content in typed:
            before, escape, _ = content.partition(ESCAPE)
            if before and self.wish.write:
                self.recent = b""
                await self._send(before)
            if escape:
                return
        while True:
            self.printed.clear()
            try:
                async with asyncio.timeout(None if self.wish.until else self.wish.idle_s):
                    await self.printed.wait()
            except TimeoutError:
                return

    async def _send(self, content: bytes) -> None:
        for at in range(0, len(content), WRITE_BYTES_MAX):
            piece = content[at : at + WRITE_BYTES_MAX]
            try:
                await self._write(piece)
            except ManorError as error:
                if error.kind not in (Kind.STALE, Kind.NOT_FOUND):
                    raise
                await self._attach(first=False)  # the service restarted and does not know our token
                await self._write(piece)

    async def _write(self, content: bytes) -> None:
        request = consoles.ConsoleWrite(name=self.wish.name, token=self.token, content=content)
        await self.peer.call(request, Done, timeout=CALL_S)


async def _first(waited: list[asyncio.Future[Any]], watched: list[asyncio.Future[Any]]) -> None:
    """Wait for the first of some tasks to end; raise what a watched one failed with."""
    await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
    for task in watched:
        if task.done():
            task.result()
