"""One lane per domain: calls about its run go through one after the other, and a look waits behind them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final
from weakref import WeakValueDictionary

LOOK_S: Final = 5.0  # how long a look waits behind a call
DESTROY_S: Final = 5.0  # and a destroy, before it goes past whatever is stuck there


class Lanes:
    """See the module. A lane takes no room while nothing is in it."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def turn(self, uuid: str) -> AsyncIterator[None]:
        """Wait for the lane, and hold it. The caller brings its own deadline."""
        lock = self._locks.setdefault(uuid, asyncio.Lock())
        async with lock:
            yield

    @contextlib.asynccontextmanager
    async def turn_within(self, uuid: str, wait_s: float) -> AsyncIterator[bool]:
        """Wait so long for the lane; says whether it is held."""
        lock = self._locks.setdefault(uuid, asyncio.Lock())
        held = not lock.locked()
        if held:
            await lock.acquire()
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    held = await lock.acquire()
        try:
            yield held
        finally:
            if held:
                lock.release()
