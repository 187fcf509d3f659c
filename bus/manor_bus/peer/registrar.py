"""Keeps a peer's facts registered in discovery: batched, renewed in time, and all of them after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from manor_bus.peer.aio import Peer
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.discovery import (
    AnyFact,
    FactReference,
    Register,
    Registered,
    Registration,
    Renew,
    Withdraw,
)

BATCH_MAX: Final = 500
BATCH_S: Final = 0.02  # changes within this time travel together
TIMEOUT_S: Final = 5.0
PERIOD_S: Final = 2.0  # until discovery says otherwise
AGAIN_S: Final = 0.5  # after an error
_PASSING: Final = (Kind.UNAVAILABLE, Kind.TIMEOUT, Kind.NO_CAPACITY)
log = logging.getLogger(__name__)

Key = tuple[str, str]


def kind_of(fact: AnyFact) -> str:
    """Return the kind under which a fact is registered."""
    return str(fact.__struct_config__.tag)


class Registrar:
    """Facts of one peer. `put` and `drop` never wait; what could not be told yet is told later."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._facts: dict[Key, Registration] = {}
        self._changed: dict[Key, None] = {}
        self._gone: dict[Key, str] = {}
        self._epoch = ""
        self._period = PERIOD_S
        self._wake = asyncio.Event()
        peer.on_greeted.append(self._everything_again)  # a new session has no facts
        self._task = asyncio.get_running_loop().create_task(self._run())

    def put(self, fact: AnyFact, *, ttl_ms: int = 6_000, bound: bool = True) -> None:
        """Register a fact, or change it."""
        key = (kind_of(fact), fact.name)
        self._facts[key] = Registration(fact=fact, ttl_ms=ttl_ms, bound=bound)
        self._changed[key] = None
        self._gone.pop(key, None)
        self._wake.set()

    def drop(self, kind: str, name: str, reason: str = "") -> None:
        """End a fact."""
        key = (kind, name)
        if self._facts.pop(key, None) is not None:
            self._changed.pop(key, None)
            self._gone[key] = reason
            self._wake.set()

    async def close(self) -> None:
        """Stop telling; bound facts end with the session, others by their time limit."""
        self._peer.on_greeted.remove(self._everything_again)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            # Not wait_for: it may swallow a cancellation that comes at the same moment.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._period / 2):
                    await self._wake.wait()
                await asyncio.sleep(BATCH_S)
            self._wake.clear()
            try:
                await self._tell()
            except ManorError as error:
                if error.kind is Kind.STALE:
                    self._everything_again()
                else:
                    log.log(
                        logging.INFO if error.kind in _PASSING else logging.ERROR,
                        "discovery was not told: %s", error,
                    )  # fmt: skip
                    await asyncio.sleep(AGAIN_S)
                    self._wake.set()

    def _everything_again(self) -> None:
        self._epoch = ""
        self._changed = dict.fromkeys(self._facts)
        self._gone.clear()
        self._wake.set()

    async def _tell(self) -> None:
        if not self._changed and not self._gone and self._epoch:
            renew = Renew(epoch=self._epoch, count=len(self._facts))
            self._learn(await self._peer.call(renew, Registered, timeout=TIMEOUT_S))
            return
        while self._changed:
            batch = [key for key, _ in zip(self._changed, range(BATCH_MAX), strict=False)]
            for key in batch:
                del self._changed[key]
            request = Register(registrations=tuple(self._facts[key] for key in batch))
            try:
                self._learn(await self._peer.call(request, Registered, timeout=TIMEOUT_S))
            except ManorError:
                self._changed |= {key: None for key in batch if key in self._facts}
                raise
        if self._gone:
            gone = dict(self._gone)
            references = tuple(FactReference(kind=kind, name=name) for kind, name in gone)
            done = await self._peer.call(Withdraw(references=references), Registered, timeout=TIMEOUT_S)
            for key in gone:
                self._gone.pop(key, None)
            self._learn(done)

    def _learn(self, answer: Registered) -> None:
        self._period = max(0.1, answer.period_ms / 1000)
        if self._epoch and answer.epoch != self._epoch:
            self._everything_again()
        self._epoch = answer.epoch
