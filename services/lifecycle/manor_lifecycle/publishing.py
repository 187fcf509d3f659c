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
from manor_lifecycle.ledger import has_ended
from manor_lifecycle.life import Life, status

ENDED_KEPT_S: Final = 60.0  # so long an ended operation stays in the state stream
CLOCK_SLACK_S: Final = 0.001  # a timer may fire a little early
ENDED_KEPT_MAX: Final = 2_000
GENERATIONS_AHEAD: Final = 100  # written down at once, so that after a kill none is used twice


class Publishing:
    """See the module."""

    def __init__(self, peer: Peer, node: str) -> None:
        self._peer = peer
        self._node = node
        self.look: Callable[[Life], None] | None = None  # told of every change at once
        self.forget: Callable[[Life], None] | None = None
        self.reserve: Callable[[str, int], None] | None = None  # no generation up to this is used again
        self._lives: dict[str, Life] = {}
        self._operations: dict[str, Operation] = {}
        self._ended: deque[tuple[float, str]] = deque()
        self._flushing: asyncio.Handle | None = None
        self._forgetting: asyncio.TimerHandle | None = None

    def changed(self, life: Life) -> None:
        """A domain may look different now."""
        self._lives[life.uuid] = life
        if self.look is not None:
            self.look(life)
        self._soon()

    def told(self, operation: Operation) -> None:
        """An operation looks different now."""
        self._operations[operation.id] = operation
        self._soon()

    def removed(self, life: Life) -> None:
        """A domain is no more."""
        self._lives.pop(life.uuid, None)
        if self.forget is not None:
            self.forget(life)
        self._peer.state.drop(f"domain.{life.uuid}")

    def status(self, life: Life) -> DomainStatus:
        """Return what a domain looks like now; a new look has a new generation, and is told."""
        now = self._look(life)
        if now is not life.status:
            life.status = now
            self.changed(life)
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

    def _look(self, life: Life) -> DomainStatus:
        now = status(life, self._node)
        if life.status == now:
            return life.status
        life.generation += 1
        if self.reserve is not None and life.generation > life.reserved:
            life.reserved = life.generation + GENERATIONS_AHEAD
            self.reserve(life.uuid, life.reserved)
        return msgspec.structs.replace(now, generation=life.generation)

    def _soon(self) -> None:
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = None
        lives, self._lives = self._lives, {}
        for life in lives.values():
            life.status = self._look(life)
            self._peer.state.put(f"domain.{life.uuid}", life.status)
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
