"""Plans made from what is seen: the next thing that is missing, forward or back. Pure.

There is one function per kind of operation and direction, without a position: what is already so is passed
over, so a repetition after a restart, a failure or a lost answer needs no code of its own. Back leads to "as
before"; what has been committed (a saved state that the record names, a restored run whose saved state is
spent) leads forward to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from manor_lifecycle.domain import changes, starts, stops
from manor_lifecycle.domain.steps import DONE, WITHOUT_RECORD, Done, Next, note
from manor_lifecycle.domain.values import Core, Doing, Now

SETTLE: Final = note("settle what was recorded last")


def next_step(core: Core, doing: Doing, now: Now) -> Next:
    """Return what comes next for an operation."""
    plan = FORWARD[doing.kind] if doing.back is None else BACK.get(doing.kind, _nothing)
    found = plan(core, doing, now)
    given_up = doing.kind in WITHOUT_RECORD and SETTLE.text in doing.past
    unsettled = doing.unsettled >= 0 and doing.unsettled == core.revision and not given_up
    ends = doing.back is not None or isinstance(found, Done)
    return SETTLE if unsettled and ends else found  # a late write is settled before it is contradicted


def _nothing(core: Core, doing: Doing, now: Now) -> Next:
    return DONE


Plan = Callable[[Core, Doing, Now], Next]
FORWARD: Final[Mapping[str, Plan]] = MappingProxyType(
    {
        "start": starts.start,
        "restart": starts.restart,
        "reboot": starts.reboot,
        "restore": starts.restore,
        "shutdown": stops.shutdown,
        "destroy": stops.destroy,
        "end": stops.end,
        "save": stops.save,
        "discard": stops.discard,
        "pause": changes.pause,
        "resume": changes.resume,
        "reset": changes.reset,
        "nmi": changes.nmi,
        "plug": changes.plug,
        "reconnect": changes.plug,
        "unplug": changes.unplug,
        "resize": changes.resize,
        "rename": changes.rename,
        "delete": changes.delete,
        "clear": changes.clear,
    }
)
BACK: Final[Mapping[str, Plan]] = MappingProxyType(
    {
        "start": starts.back_bring_up,
        "restart": starts.back_bring_up,
        "reboot": starts.back_bring_up,
        "restore": starts.back_bring_up,
        "shutdown": stops.back_end,
        "destroy": stops.back_end,
        "save": stops.back_save,
        "pause": changes.back_pause,
        "plug": changes.back_plug,
        "delete": changes.back_delete,
        "discard": stops.back_discard,
    }
)
