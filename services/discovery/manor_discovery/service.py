"""The discovery service: it listens to what every owner publishes, remembers it, and answers `find`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final

from manor_bus.peer.aio import Answer, Change, Context, OwnerSeen, Peer
from manor_bus.peer.serving import Room
from manor_bus.wire import codec
from manor_bus.wire.messages import Message
from manor_bus.wire.messages.discovery import Entry, Find, Found, FoundPart
from manor_discovery.facts import PATTERNS, Facts
from manor_discovery.selectors import matches, parse
from manor_discovery.settings import Settings

PART_ENTRIES_MAX: Final = 500
PART_BYTES_MAX: Final = 512 * 1024
ENTRY_BYTES: Final = 160  # of an entry around its fact
PATIENCE_S: Final = 5.0  # so long after an owner came or went its word is waited for
ANSWER_S: Final = 0.5  # of a caller's budget is left for the answer itself
log = logging.getLogger(__name__)


class Discovery:
    """What was heard, on the bus."""

    def __init__(self, peer: Peer, settings: Settings, wall: Callable[[], float]) -> None:
        self._peer = peer
        self._wall = wall
        self._clock = asyncio.get_running_loop().time
        self._facts = Facts(node=peer.node, keep_s=settings.keep_s, now=self._clock())
        self._news = asyncio.Event()
        peer.on_greeted.append(self._lost)

    async def find(self, request: Find, context: Context) -> Found:
        """Answer with the facts that match, in parts, when every owner was heard or the wait is over."""
        terms = parse(request.selector)
        await self._heard(request.kind, context.deadline)
        missing = self._facts.missing(request.kind, self._clock())
        part: list[Entry] = []
        count = size = 0
        for entry, fact_size in list(self._facts.find(request.kind, request.name, self._clock())):
            if not matches(terms, entry.fact):
                continue
            if part and (len(part) >= PART_ENTRIES_MAX or size + fact_size > PART_BYTES_MAX):
                await context.part(FoundPart(entries=tuple(part)))
                part, size = [], 0
            part.append(entry)
            count += 1
            size += fact_size + ENTRY_BYTES
        if part:
            await context.part(FoundPart(entries=tuple(part)))
        return Found(count=count, complete=not missing, missing=missing)

    async def listen(self, kind: str) -> None:
        """Take everything that owners say of one kind."""
        async for news in self._peer.watch_owners(PATTERNS[kind]):
            now = self._clock()
            if isinstance(news, OwnerSeen):
                self._facts.seen(kind, news, now)
                self._tell()
            elif isinstance(news, Change):
                size = len(codec.encode(news.value)) if isinstance(news.value, Message) else 0
                wrong = self._facts.changed(kind, news, size, now, self._wall())
                if wrong:
                    log.warning("left out %s of %s: %s", news.subject, news.sender, wrong)

    def close(self) -> None:
        """Hear no more of the bus."""
        self._peer.on_greeted.remove(self._lost)

    async def _heard(self, kind: str, deadline: float) -> None:
        """Wait until every owner of a kind was heard; not for one that is away for long."""
        while self._facts.missing(kind, now := self._clock()):
            until = min(deadline - ANSWER_S, self._facts.moved(kind, now) + PATIENCE_S)
            if now >= until:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._news.wait()

    def _lost(self) -> None:
        self._facts.lost(self._clock())
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.critical("a part of the discovery service ended", exc_info=task.exception())


async def open_room(peer: Peer, settings: Settings, wall: Callable[[], float] = time.time) -> Room:
    """Open the service on a connected peer."""
    discovery = Discovery(peer, settings, wall)
    tasks = [asyncio.create_task(discovery.listen(kind)) for kind in PATTERNS]
    for task in tasks:
        task.add_done_callback(_report)

    async def close() -> None:
        discovery.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    answers: dict[type[Message], Answer] = {Find: discovery.find}
    return Room(answers=answers, owns=(), close=close)
