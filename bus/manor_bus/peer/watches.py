"""What a peer watches: a view for each watch, and the snapshots it asks owners for. Pure.

The session feeds what becomes of its subscriptions and of its calls for snapshots; what comes out is
`Watched`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from manor_bus.peer.events import (
    Arrived,
    Barred,
    Change,
    Event,
    Live,
    Missed,
    Noted,
    OwnerSeen,
    Parted,
    Replied,
    Subscribing,
    Synced,
    Told,
    Watched,
)
from manor_bus.peer.view import Action, Fetch, View
from manor_bus.wire import codec
from manor_bus.wire.errors import ManorError
from manor_bus.wire.messages.node import SnapshotDone, SnapshotItem

AGAIN_S: Final = 1.0  # before an owner is asked again, or a subscription begun anew after losses


@dataclass(eq=False)
class _Watch:
    sid: int
    view: View
    snapshot: bool
    calls: dict[int, tuple[Fetch, list[SnapshotItem]]] = field(default_factory=dict)  # for snapshots
    renewing: bool = False
    renewed: float = float("-inf")


class ClientWatches:
    """Watches by their subscription.

    `ask` calls the owner at an address for what is under a pattern and returns the call's token, `drop`
    withdraws that call, `renew` begins a subscription anew.
    """

    def __init__(
        self, ask: Callable[[str, str, float], int], drop: Callable[[int], None],
        renew: Callable[[int], None], tell: Callable[[Event], None],
    ) -> None:  # fmt: skip
        self._ask, self._drop, self._renew, self._tell = ask, drop, renew, tell
        self._watches: dict[int, _Watch] = {}
        self._by_token: dict[int, _Watch] = {}
        self._timers: list[tuple[float, int, int, Fetch | None]] = []
        self._count = 0

    def __contains__(self, sid: int) -> bool:
        return sid in self._watches

    def begin(self, sid: int, pattern: str, *, snapshot: bool, owners: bool = False) -> None:
        """Watch through this subscription, with the owners' snapshots or only what passes.

        `owners`: also tell where each owner stands.
        """
        self._watches[sid] = _Watch(sid, View(pattern, snapshot=snapshot, owners=owners), snapshot)

    def end(self, sid: int) -> None:
        """Watch no more."""
        watch = self._watches.pop(sid, None)
        for token in watch.calls if watch is not None else ():
            del self._by_token[token]
            self._drop(token)

    # --- what the session says ------------------------------------------------------------------------

    def subscribed(self, event: Subscribing, now: float) -> None:
        """Take what became of a subscription."""
        watch = self._watches[event.sid]
        match event:
            case Arrived(_, _, items):
                actions: list[Action] = []
                for item in items:
                    try:
                        actions += watch.view.item(item.sender, item.envelope)
                    except ManorError as error:
                        actions.append(Noted(f"left out {item.envelope.subject} of {item.sender}: {error}"))
                self._act(watch, actions, now, event)
            case Live(_, owners):
                self._act(watch, watch.view.live(owners), now)
            case Missed(_, count):
                self._tell(Noted(f"{count} events of a subscription were dropped"))
                if watch.snapshot and not watch.renewing:
                    watch.renewing = True
                    self._later(max(now, watch.renewed + AGAIN_S), watch, None)
            case Barred():
                self.end(watch.sid)
                self._tell(event)

    def called(self, event: Replied | Parted, now: float) -> bool:
        """Take what became of a call, if it was for a snapshot."""
        watch = self._by_token.get(event.token)
        if watch is None:
            return False
        fetch, items = watch.calls[event.token]
        try:
            if isinstance(event, Parted):
                items.extend(event.part.items)
                return True
            if event.error is not None:
                raise event.error
            assert event.reply is not None
            done = codec.read_body(event.reply.data, SnapshotDone)
        except ManorError as error:
            self._tell(Noted(f"no snapshot from {fetch.address}: {error}"))
            self._drop(event.token)
            done = None
        del watch.calls[event.token], self._by_token[event.token]
        if done is None:
            self._act(watch, watch.view.failed(fetch), now)
        else:
            self._act(watch, watch.view.snapshot(fetch, done.epoch, done.rev, items), now)
        return True

    # --- time -----------------------------------------------------------------------------------------

    def next_timer(self) -> float:
        """Return when `advance` wants to be called."""
        return self._timers[0][0] if self._timers else float("inf")

    def advance(self, now: float) -> None:
        """Do what waited: ask owners again, begin subscriptions anew."""
        while self._timers and self._timers[0][0] <= now:
            _, _, sid, fetch = heapq.heappop(self._timers)
            watch = self._watches.get(sid)
            if watch is None:
                continue
            if fetch is not None:
                self._fetch(watch, fetch, now)
            else:
                watch.renewing, watch.renewed = False, now
                self._renew(sid)

    def _later(self, when: float, watch: _Watch, fetch: Fetch | None) -> None:
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, watch.sid, fetch))

    # --- what views want ------------------------------------------------------------------------------

    def _act(
        self, watch: _Watch, actions: Sequence[Action], now: float, batch: Arrived | None = None
    ) -> None:
        changes: list[Told | OwnerSeen] = []
        for action in actions:
            match action:
                case Change() | OwnerSeen() | Synced():
                    changes.append(action)
                case Noted():
                    self._tell(action)
                case Fetch(again=True):
                    self._later(now + AGAIN_S, watch, action)
                case Fetch():
                    self._fetch(watch, action, now)
        if changes or batch is not None:
            self._tell(Watched(watch.sid, changes, batch))

    def _fetch(self, watch: _Watch, fetch: Fetch, now: float) -> None:
        if watch.view.wants(fetch):
            token = self._ask(fetch.address, watch.view.pattern, now)
            watch.calls[token] = (fetch, [])
            self._by_token[token] = watch
