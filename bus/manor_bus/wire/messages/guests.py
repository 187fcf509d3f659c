"""Calls of the lifecycle service about all guests of its node."""

from __future__ import annotations

from typing import Final, Literal

from manor_bus.wire.messages import Call, Done, Message


class GuestsShutDown(Message, frozen=True, kw_only=True):
    """Shut all guests of the node down, each after those that depend on it and in its own time; one that has
    not ended then is cut off. Nothing is started meanwhile, and nothing by itself until the service or the
    node is started again. A part at each end.
    """

    timeout_s: float | None = None  # at most, for each guest; 0 cuts all off at once
    reason: str = ""


class GuestEnded(Message, frozen=True, kw_only=True):
    """How it went with one guest. `left`: it still runs, `why` says what was in the way."""

    name: str
    how: Literal["shut down", "cut off", "left"]
    why: str = ""


class GuestsEnded(Message, frozen=True, kw_only=True):
    """All of them, in the order in which they ended."""

    guests: tuple[GuestEnded, ...]


class GuestsStart(Message, frozen=True, kw_only=True):
    """Start what runs with the node (`run: always` and `on-boot`), as a start of the node does."""

    reason: str = ""


CALLS: Final = (
    Call("lifecycle.node.shutdown_guests", GuestsShutDown, GuestsEnded, part=GuestEnded, changes=True),
    Call("lifecycle.node.start_guests", GuestsStart, Done, changes=True),
)
EVENTS: Final = ()
