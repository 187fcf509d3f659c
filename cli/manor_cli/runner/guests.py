"""Let the guests of this node end before what they stand on ends, and start again afterwards."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from manor_bus import keys
from manor_bus.wire.errors import ManorError
from manor_bus.wire.messages import Done
from manor_bus.wire.messages.guests import GuestEnded, GuestsEnded, GuestsShutDown, GuestsStart
from manor_cli import follow
from manor_cli.app import App
from manor_cli.render import clean
from manor_cli.runner import present

PATIENCE_S: Final = 86_400.0  # each guest has its own time; this is for all of them


@dataclass(frozen=True)
class Ended:
    """How the guests of a node ended: who was `cut_off`, and why nobody could be asked, if so."""

    cut_off: tuple[str, ...] = ()
    unasked: str = ""


def shut_down(app: App, limit: float | None, reason: str) -> Ended:
    """Shut all guests of this node down, those first that others do not need.

    Each has the time of its document, `limit` seconds at most, and is cut off when that is over. What could
    not be ended is told, and the rest goes on.
    """
    absent = {"bus", "lifecycle"} - present.services(app.settings.directory).keys()
    if absent:
        return Ended(unasked=f"{' and '.join(sorted(absent))} not running")
    with suppress(ManorError, OSError):
        keys.create(app.settings.keys)  # what follows from the keys may have been lost

    def told(guest: GuestEnded) -> None:
        app.note(f"{clean(guest.name)}: {guest.how}" + (f" ({clean(guest.why)})" if guest.why else ""))

    try:
        request = GuestsShutDown(timeout_s=limit, reason=reason)
        ended = app.call(request, GuestsEnded, timeout=PATIENCE_S, key=follow.new_id(), on_part=told)
    except ManorError as error:
        return Ended(unasked=error.message)
    return Ended(tuple(guest.name for guest in ended.guests if guest.how == "cut off"))


def start(app: App, reason: str) -> None:
    """Start those again that are to run with the node."""
    app.call(GuestsStart(reason=reason), Done, key=follow.new_id())
