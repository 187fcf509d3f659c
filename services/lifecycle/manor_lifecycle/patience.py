"""A wish stays a wish, and silence is suspicion.

What a guest did not do is asked again; nobody is ended for being silent unless the document says after how
long.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from manor_lifecycle import machine
from manor_lifecycle.hypervisors import Run
from manor_lifecycle.life import Life
from manor_lifecycle.machine import Trigger
from manor_lifecycle.plan import Arguments

if TYPE_CHECKING:
    from manor_lifecycle.domains import Domains

PAUSES_S: Final = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)  # between two requests to the same guest


def ask_again(domains: Domains, life: Life) -> None:
    """See to it that the guest is asked again for what it did not do, each time a little later."""
    if not life.refused or life.asks:
        return

    def again() -> None:
        life.asks = False
        if domains.by_uuid.get(life.uuid) is life and life.refused:
            life.refused.clear()
            life.failures, life.retry_at = 0, 0.0  # this pause is long enough
            domains.poke(life)

    pause = PAUSES_S[min(life.asked, len(PAUSES_S) - 1)]
    life.asks, life.asked = True, life.asked + 1
    asyncio.get_running_loop().call_later(pause, again)


def silent(domains: Domains, life: Life, detail: str, now: float) -> None:
    """Show that a device model does not answer; `now` is in seconds since 1970."""
    life.silent = f"NOT ANSWERING: {detail}"
    life.silent_since = life.silent_since or now
    policy = life.spec.on_silence
    if policy.action != "never" and life.document is not None:
        loop = asyncio.get_running_loop()
        loop.call_later(policy.after_s, _for_long, domains, life, life.run, life.silent_since)


def _for_long(domains: Domains, life: Life, run: Run, since: float) -> None:
    policy = life.spec.on_silence
    if (life.run, life.silent_since) != (run, since) or life.document is None or life.works:
        return
    if policy.action != "never" and machine.knows(life.state, Trigger(policy.action)):
        reason = f"it did not answer for {policy.after_s:g} s"
        domains.internal(life, policy.action, Arguments(stopped=policy.action == "destroy"), reason)
        domains.driver.wake(life)
