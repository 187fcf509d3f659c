"""Going on, waking up, shutting down: what a person does with a guest that lives."""

from __future__ import annotations

import asyncio
from typing import Final

from manor_bus.wire.errors import Kind, ManorError, denied_state
from manor_lifecycle.hypervisors import Activity, Cause, CauseWord
from manor_lifecycle.hypervisors.qemu import views
from manor_lifecycle.hypervisors.qemu.guest import Guest

WAKE_S: Final = 10.0
LOOK_S: Final = 0.05
HOLD_LOOKS: Final = 10  # what fails again does so within half a second


async def resume(guest: Guest) -> None:
    """Let it run, or wake it; returns when that holds."""
    guest.stopped = False
    _, cause = await wake(guest)
    await guest.ask("cont")
    guest.running = True
    if cause.word is CauseWord.IO_ERROR:
        await _demand_progress(guest)


async def wake(guest: Guest) -> tuple[Activity, Cause]:
    """Wake a guest that sleeps; returns what it did before. Raises `timeout` when it sleeps on."""
    before = await guest.status()
    if before[0] is not Activity.SLEEPS:
        return before
    await guest.ask("system_wakeup")
    for _ in range(round(WAKE_S / LOOK_S)):
        if (await guest.status())[0] is not Activity.SLEEPS:
            return before
        await asyncio.sleep(LOOK_S)
    message = f"{guest.record.name} did not wake up within {WAKE_S:g} s"
    raise ManorError(Kind.TIMEOUT, message, hint="Reset it.")


async def _demand_progress(guest: Guest) -> None:
    """Raise `denied_state` when a guest that stood for a failing disk stops again at once."""
    for _ in range(HOLD_LOOKS):
        await asyncio.sleep(LOOK_S)
        _, cause = await guest.status()
        if cause.word is CauseWord.IO_ERROR:
            await guest.look()
            told = views.living(guest).cause
            why = f"disk {told.device}: {told.detail or told.word}"
            message = f"{guest.record.name} stopped again at once: {why}"
            raise denied_state(message, hint="Make room for the disk or mend it, then resume the domain.")


async def shutdown(guest: Guest) -> None:
    """Press the power button, of a guest that is awake."""
    activity, _ = await wake(guest)
    if activity is Activity.STANDS:
        message = f"{guest.record.name} is paused, so it cannot shut down"
        raise denied_state(message, hint="Resume it first.")
    await guest.ask("system_powerdown")
