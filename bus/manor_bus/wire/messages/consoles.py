"""Calls and events about serial consoles, answered by the lifecycle service."""

from __future__ import annotations

from typing import Final

from manor_bus.wire.messages import Call, Done, Event, Message


class ConsoleAttach(Message, frozen=True, kw_only=True):
    """Attach to the serial console. The output goes on as events under `console.<name>`.

    One writer at a time: a second one is refused with `conflict`, naming the first, unless `steal`.
    """

    name: str
    write: bool = True
    steal: bool = False


class ConsoleAttached(Message, frozen=True, kw_only=True):
    """`scrollback` ends at byte `offset` of the console's output; events continue there."""

    token: str  # proves the right to write; empty for watchers
    scrollback: bytes
    offset: int
    incarnation: int
    subject: str


class ConsoleWrite(Message, frozen=True, kw_only=True):
    """Bytes typed at the console, at most 4 KiB; kept in order."""

    name: str
    token: str
    content: bytes


class ConsoleDetach(Message, frozen=True, kw_only=True):
    """Give the console back."""

    name: str
    token: str


class ConsoleRecall(Message, frozen=True, kw_only=True):
    """Ask for what the last run that is over left. `not_found` when nothing is kept of one."""

    name: str


class LastRun(Message, frozen=True, kw_only=True):
    """The ends, up to 256 KiB each, of what the guest printed and of what the hypervisor said of its run."""

    console: bytes
    log: bytes


class ConsoleOutput(Message, frozen=True, kw_only=True):
    """Bytes the guest printed, from byte `offset` of this incarnation's output."""

    name: str
    incarnation: int
    offset: int
    content: bytes


CALLS: Final = (
    Call("lifecycle.console.attach", ConsoleAttach, ConsoleAttached, changes=True),
    Call("lifecycle.console.write", ConsoleWrite, Done, changes=True),
    Call("lifecycle.console.detach", ConsoleDetach, Done, changes=True),
    Call("lifecycle.console.recall", ConsoleRecall, LastRun),
)
EVENTS: Final = (Event(("console.*",), ConsoleOutput, "lifecycle", "lifecycle.console", state=False),)
