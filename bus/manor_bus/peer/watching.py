"""What a peer watches: asks owners for snapshots as its view says, hands changes out at the reader's pace.

The shell around `view` on asyncio; `call.py` has the one for a thread that waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from manor_bus.peer.outcomes import Arrived, Barred, Following, Live, Missed
from manor_bus.peer.view import Action, AllKnown, Change, Fetch, News, Synced, View, change_of, reading
from manor_bus.wire.errors import ManorError
from manor_bus.wire.messages import Message, node
from manor_bus.wire.messages.bus import Subscribe

if TYPE_CHECKING:
    from manor_bus.peer.aio import Peer

Policy = Literal["coalesce", "gap", "kick"]
SNAPSHOT_S: Final = 10.0
FETCH_AGAIN_S: Final = 1.0
RENEW_S: Final = 1.0  # at least, between two new beginnings after losses
WINDOW_BYTES: Final = 4_194_304
log = logging.getLogger(__name__)


@dataclass
class _Watch:
    sid: int
    view: View | None
    queue: asyncio.Queue[tuple[list[Change | Synced], Arrived | ManorError | None]] = field(
        default_factory=asyncio.Queue
    )  # what happened, and how it ended: a batch that was read to here, or the whole watch
    fetches: set[asyncio.Task[None]] = field(default_factory=set)
    renewal: asyncio.TimerHandle | None = None
    renewed: float = float("-inf")


class Watching:
    """The subscriptions of one peer."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self._watches: dict[int, _Watch] = {}
        self._sids = iter(range(1, 1 << 31))

    async def watch(
        self, pattern: str, policy: Policy, window: int, *, snapshot: bool
    ) -> AsyncIterator[Change | Synced]:
        """Follow every object under a pattern; see `Peer.watch`."""
        mine = _Watch(next(self._sids), View(pattern) if snapshot else None)
        self._watches[mine.sid] = mine
        session = self._peer.session
        session.subscribe(
            pattern, Subscribe(sid=mine.sid, policy=policy, window=window, window_bytes=WINDOW_BYTES)
        )
        self._peer.turn()
        try:
            while True:
                changes, end = await mine.queue.get()
                for change in changes:
                    yield change
                if isinstance(end, ManorError):
                    raise end
                if end is not None:
                    session.consumed(end)
                    self._peer.turn()
        finally:
            del self._watches[mine.sid]
            for task in mine.fetches:
                task.cancel()
            if mine.renewal is not None:
                mine.renewal.cancel()
            session.unsubscribe(mine.sid)
            self._peer.turn_soon()

    def take(self, event: Following) -> None:
        """Take what the session says of a subscription."""
        watch = self._watches.get(event.sid)
        if watch is None:
            return
        match event:
            case Barred(_, error):
                watch.queue.put_nowait(([], error))
            case Live(_, owners):
                self._act(watch, watch.view.live(owners) if watch.view is not None else [AllKnown()])
            case Missed(_, count):
                log.info("%d events of a subscription were dropped", count)
                if watch.view is not None and watch.renewal is None:
                    due = max(self._loop.time(), watch.renewed + RENEW_S)
                    watch.renewal = self._loop.call_at(due, self._renew, watch)
            case Arrived(_, _, items):
                changes: list[Change | Synced] = []
                for sender, wire in items:
                    self._collect(watch, reading(watch.view, sender, wire), changes)
                watch.queue.put_nowait((changes, event))

    def end(self, error: ManorError) -> None:
        """End all of them."""
        for watch in self._watches.values():
            watch.queue.put_nowait(([], error))

    def _renew(self, watch: _Watch) -> None:
        watch.renewal, watch.renewed = None, self._loop.time()
        self._peer.session.renew(watch.sid)
        self._peer.turn()

    def _act(self, watch: _Watch, actions: Sequence[Action]) -> None:
        changes: list[Change | Synced] = []
        self._collect(watch, actions, changes)
        if changes:
            watch.queue.put_nowait((changes, None))

    def _collect(self, watch: _Watch, actions: Sequence[Action], changes: list[Change | Synced]) -> None:
        for action in actions:
            match action:
                case News():
                    try:
                        changes.append(change_of(action))
                    except ManorError as error:
                        log.warning("left out %s of %s: %s", action.subject, action.sender, error)
                case AllKnown():
                    changes.append(Synced())
                case Fetch():
                    task = self._loop.create_task(self._fetch(watch, action))
                    watch.fetches.add(task)
                    task.add_done_callback(watch.fetches.discard)

    async def _fetch(self, watch: _Watch, fetch: Fetch) -> None:
        view = watch.view
        assert view is not None
        items: list[node.SnapshotItem] = []

        def part(message: Message) -> None:
            assert isinstance(message, node.SnapshotPart)
            items.extend(message.items)

        if fetch.again:
            await asyncio.sleep(FETCH_AGAIN_S)
        try:
            done = await self._peer.call(
                node.Snapshot(pattern=view.pattern), node.SnapshotDone, timeout=SNAPSHOT_S,
                at=fetch.address.partition("@")[2], on_part=part, retry=False,
            )  # fmt: skip
        except ManorError as error:
            log.info("no snapshot from %s: %s", fetch.address, error)
            self._act(watch, view.failed(fetch))
        else:
            self._act(watch, view.snapshot(fetch, done.epoch, done.rev, items))
