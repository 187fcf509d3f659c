"""Tells the world of domains and operations, as state of this service.

What changed several times within one turn of the loop is told once, with its last value. Nothing here waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from manor_bus.peer.aio import Peer
from manor_bus.wire.messages.lifecycle import DomainStatus, Operation
from manor_lifecycle.domain.status import status
from manor_lifecycle.operations import has_ended
from manor_lifecycle.owner import Owner

ENDED_KEPT_S: Final = 60.0  # so long an ended operation stays in the state stream
CLOCK_SLACK_S: Final = 0.001  # a timer may fire a little early
ENDED_KEPT_MAX: Final = 2_000
GENERATIONS_AHEAD: Final = 100  # written down at once, so that after a kill none is used twice


class Publishing:
    """See the module."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.look: Callable[[Owner], None] | None = None  # told of every change at once
        self.forget: Callable[[Owner], None] | None = None
        self.reserve: Callable[[str, int], None] | None = None  # no generation up to this is used again
        self._owners: dict[str, Owner] = {}
        self._operations: dict[str, Operation] = {}
        self._ended: deque[tuple[float, str]] = deque()
        self._flushing: asyncio.Handle | None = None
        self._forgetting: asyncio.TimerHandle | None = None

    def changed(self, owner: Owner) -> None:
        """A domain may look different now."""
        self._owners[owner.uuid] = owner
        if self.look is not None:
            self.look(owner)
        self._soon()

    def told(self, operation: Operation) -> None:
        """An operation looks different now."""
        self._operations[operation.id] = operation
        self._soon()

    def removed(self, owner: Owner) -> None:
        """A domain is no more."""
        self._owners.pop(owner.uuid, None)
        if self.forget is not None:
            self.forget(owner)
        self._peer.state.drop(f"domain.{owner.uuid}")

    def status(self, owner: Owner) -> DomainStatus:
        """Return what a domain looks like now; a new look has a new generation, and is told."""
        now = self._look(owner)
        if now is not owner.status:
            owner.status = now
            self.changed(owner)
        return now

    def flush(self) -> None:
        """Tell what is left to tell now."""
        if self._flushing is not None:
            self._flushing.cancel()
        self._flush()

    def close(self) -> None:
        """Tell what is left to tell, and stop."""
        self._flush()
        for timer in (self._flushing, self._forgetting):
            if timer is not None:
                timer.cancel()

    def _look(self, owner: Owner) -> DomainStatus:
        now = status(owner.core)
        before = owner.status
        if before is not None and msgspec.structs.replace(before, generation=0, uptime_s=now.uptime_s) == now:
            return before
        owner.generation += 1
        if self.reserve is not None and owner.generation > owner.reserved:
            owner.reserved = owner.generation + GENERATIONS_AHEAD
            self.reserve(owner.uuid, owner.reserved)
        return msgspec.structs.replace(now, generation=owner.generation)

    def _soon(self) -> None:
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = None
        owners, self._owners = self._owners, {}
        for owner in owners.values():
            owner.status = self._look(owner)
            self._peer.state.put(f"domain.{owner.uuid}", owner.status)
        operations, self._operations = self._operations, {}
        for operation in operations.values():
            self._tell_operation(operation)

    def _tell_operation(self, operation: Operation) -> None:
        self._peer.state.put(f"operation.{operation.id}", operation)
        if has_ended(operation):
            self._ended.append((asyncio.get_running_loop().time(), operation.id))
            self._forget_ended()

    def _forget_ended(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time() + CLOCK_SLACK_S
        while self._ended and (len(self._ended) > ENDED_KEPT_MAX or now - self._ended[0][0] >= ENDED_KEPT_S):
            self._peer.state.drop(f"operation.{self._ended.popleft()[1]}")
        if self._ended and self._forgetting is None:
            due = self._ended[0][0] + ENDED_KEPT_S
            self._forgetting = loop.call_at(due, self._forget_again)

    def _forget_again(self) -> None:
        self._forgetting = None
        self._forget_ended()
