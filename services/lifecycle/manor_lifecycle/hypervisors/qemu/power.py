"""A guest goes on, awake."""

from __future__ import annotations

import asyncio
from typing import Final

from manor_bus.wire.errors import Kind, ManorError
from manor_lifecycle.hypervisors import Activity
from manor_lifecycle.hypervisors.qemu.guest import Guest

WAKE_S: Final = 10.0
LOOK_S: Final = 0.05


async def resume(guest: Guest) -> None:
    """Let it run; one that sleeps is woken first. Raises `timeout` when it sleeps on."""
    activity, _ = await guest.status()
    if activity is Activity.SLEEPS:
        await guest.ask("system_wakeup")
    for _ in range(round(WAKE_S / LOOK_S)):
        if activity is not Activity.SLEEPS:
            await guest.ask("cont")
            return
        await asyncio.sleep(LOOK_S)
        activity, _ = await guest.status()
    message = f"{guest.record.name} did not wake up within {WAKE_S:g} s"
    raise ManorError(Kind.TIMEOUT, message, hint="Reset it.")
