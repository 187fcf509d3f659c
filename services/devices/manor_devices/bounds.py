"""Await somebody else's coroutine within a time, whatever it does: hang, refuse to be cancelled, crash."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from manor_bus.wire.errors import Kind, ManorError

GRACE_S: Final = 5.0  # for cleaning up after a cancellation
R = TypeVar("R")
log = logging.getLogger(__name__)


async def bounded(who: str, work: Coroutine[Any, Any, R], seconds: float) -> R:
    """Return the result, or raise ManorError: `timeout`, or `internal` (logged) for a bug of `who`."""
    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(_take)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=GRACE_S)
    try:
        return task.result()
    except ManorError:
        raise
    except (asyncio.CancelledError, asyncio.InvalidStateError):
        raise ManorError(
            Kind.TIMEOUT,
            f"{who} did not answer within {seconds:.0f} s",
            hint="Look whether what is below it (storage, network, a server) answers.",
        ) from None
    except OSError as error:
        raise ManorError(Kind.DENIED_STATE, f"{who}: {error}") from error
    except Exception as error:
        log.exception("%s failed in a way that is a bug", who)
        raise ManorError(Kind.INTERNAL, f"{who}: {type(error).__name__}: {error}") from error


def _take(task: asyncio.Task[Any]) -> None:
    """Take the outcome, so that nobody complains when it was abandoned meanwhile."""
    if not task.cancelled():
        task.exception()
