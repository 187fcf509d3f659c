"""The discovery service: one coroutine per message around the registry, and the clock that ends facts.

After a start it holds back snapshots of its published state until the registrants have had time to come back
(settling), so watchers of the one before see no false disappearances.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from manor_bus.peer.aio import Answer, Change, Context, Peer
from manor_bus.peer.serving import Room
from manor_bus.wire import codec
from manor_bus.wire.messages import Message
from manor_bus.wire.messages.bus import PeerChanged
from manor_bus.wire.messages.discovery import (
    Entry,
    FactChanged,
    FactReference,
    Find,
    Found,
    FoundPart,
    Register,
    Registered,
    Renew,
    Withdraw,
)
from manor_discovery.registry import Action, Published, Registry
from manor_discovery.selectors import matches, parse
from manor_discovery.settings import Settings

OWNS: Final = ("domain.*", "node.*", "service.>", "provider.*", "resource.*")
PART_ENTRIES_MAX: Final = 500
PART_BYTES_MAX: Final = 512 * 1024
ENTRY_BYTES: Final = 96  # of an entry around its fact
log = logging.getLogger(__name__)


class Discovery:
    """The registry on the bus."""

    def __init__(self, peer: Peer, settings: Settings, wall: Callable[[], float]) -> None:
        self._peer = peer
        self._wall = wall
        self._clock = asyncio.get_running_loop().time
        self._period_s = settings.period_ms / 1000
        epoch = secrets.token_hex(8)
        self._registry = Registry(epoch=epoch, period_ms=settings.period_ms, now=self._clock())
        peer.state.hold()

    async def register(self, request: Register, context: Context) -> Registered:
        """Take facts of the caller."""
        sized = [(r, len(codec.encode(r.fact))) for r in request.registrations]
        actions, stale = self._registry.register(context.caller, sized, self._clock(), self._wall())
        self._publish(actions)
        return self._registered(context, stale)

    async def renew(self, request: Renew, context: Context) -> Registered:
        """Keep the caller's facts alive."""
        self._registry.renew(context.caller, request.epoch, request.count, self._clock())
        return self._registered(context)

    async def withdraw(self, request: Withdraw, context: Context) -> Registered:
        """End facts of the caller."""
        actions = self._registry.withdraw(context.caller, request.references, request.reason, self._clock())
        self._publish(actions)
        return self._registered(context)

    async def find(self, request: Find, context: Context) -> Found:
        """Answer with the facts that match, in parts."""
        terms = parse(request.selector)
        part: list[Entry] = []
        count = size = 0
        for entry, fact_size in self._registry.find(request.kind, request.name, self._clock()):
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
        return Found(count=count, settling=self._registry.settling, epoch=self._registry.epoch)

    async def follow_sessions(self) -> None:
        """End facts with the bus sessions that registered them."""
        async for change in self._peer.watch("bus.peer.>", policy="gap", snapshot=False):
            if isinstance(change, Change) and isinstance(change.value, PeerChanged):
                news = change.value
                if not news.present:
                    ended = self._registry.session_ended(news.address, news.reason, self._clock())
                    self._publish(ended)

    async def keep_time(self) -> None:
        """End what was not renewed; end the settling."""
        held = True
        while True:
            await asyncio.sleep(self._period_s / 4)
            self._publish(self._registry.tick(self._clock()))
            if held and not self._registry.settling:
                held = False
                self._peer.state.release()

    def _registered(self, context: Context, stale: tuple[FactReference, ...] = ()) -> Registered:
        epoch = self._registry.epoch_of(context.caller)
        return Registered(epoch=epoch, period_ms=self._registry.period_ms, stale=stale)

    def _publish(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, Published):
                self._peer.state.put(action.subject, FactChanged(entry=action.entry, reason=action.reason))
            else:  # a last word for whoever records, then the end of the object
                last = msgspec.structs.replace(action.last, stale=True)
                self._peer.state.put(action.subject, FactChanged(entry=last, reason=action.reason))
                self._peer.state.drop(action.subject)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.critical("a part of the discovery service ended", exc_info=task.exception())


async def open_room(peer: Peer, settings: Settings, wall: Callable[[], float] = time.time) -> Room:
    """Open the service on a connected peer."""
    discovery = Discovery(peer, settings, wall)
    tasks = [asyncio.create_task(work) for work in (discovery.follow_sessions(), discovery.keep_time())]
    for task in tasks:
        task.add_done_callback(_report)

    async def close() -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    answers: dict[type[Message], Answer] = {
        Register: discovery.register,
        Renew: discovery.renew,
        Withdraw: discovery.withdraw,
        Find: discovery.find,
    }
    return Room(answers=answers, owns=OWNS, close=close)
