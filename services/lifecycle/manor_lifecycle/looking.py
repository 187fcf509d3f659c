"""After an operation that did not plainly work, what is there is asked of the hypervisor, never taken from
memory: a call that failed or came late may have had its effect.
"""

from __future__ import annotations

import asyncio
from typing import Final

from manor_bus.wire.errors import ManorError
from manor_lifecycle.hypervisors import Activity, Ended, EndReason, GuestState
from manor_lifecycle.life import Life, lived
from manor_lifecycle.means import Means

LOOK_S: Final = 15.0


async def look_again(means: Means, life: Life) -> None:
    """Let `life` be as its run is: under another incarnation, standing, or over. What cannot be asked now
    stays as it is known."""
    adapter = means.hypervisors.get(life.hypervisor)
    if adapter is None or life.guest is None or life.ending is not None:
        return
    try:
        async with asyncio.timeout(LOOK_S):
            seen = (await adapter.look(life.uuid))[life.uuid]
    except (ManorError, TimeoutError):
        return
    if seen.unknown or life.ending is not None:
        return
    if seen.run is None:
        last = seen.ended if seen.ended is not None and seen.ended.incarnation >= life.incarnation else None
        reason = last.reason if last is not None else EndReason.DEVICE_MODEL
        detail = last.detail if last is not None else "it is gone, and nobody said why"
        life.guest, life.ending = None, Ended(life.run, reason, detail)
    elif seen.run.ours and seen.run.activity is not Activity.ENDED:
        stands = seen.run.activity is Activity.STANDS
        life.guest = GuestState.PAUSED if stands else GuestState.RUNNING
        if life.incarnation != seen.run.run.incarnation:
            life.incarnation = seen.run.run.incarnation
            means.note(lived(life, means.boot_id))
