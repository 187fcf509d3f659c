"""Questions to file systems. Any of them may hang, for ever: each is asked in the lane of its mount, with a
deadline, so that a dead mount is the trouble of what lies on it and of nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from manor_bus.wire.errors import unavailable
from manor_host.blocking import Lanes, Stuck
from manor_host.paths import mount_of

ASK_S: Final = 10.0
T = TypeVar("T")


class Caller(Protocol):
    """Whoever makes such calls: `Lanes`, or in virtual time the test itself."""

    async def call(self, lane: str, what: str, work: Callable[[], T], timeout: float) -> T:
        """Return what the work returns, or raise Stuck."""
        ...


lanes: Caller = Lanes()


async def ask(path: str, work: Callable[[], T], seconds: float = ASK_S) -> T:
    """Return what `work`, which is about `path`, returns. Raises `unavailable` when its mount hangs."""
    mount = mount_of(path)
    try:
        return await lanes.call(mount, path, work, seconds)
    except Stuck as error:
        raise unavailable(
            str(error),
            delivered=True,
            hint=f"Look at what is mounted at {mount}, and whether its server answers.",
        ) from None
