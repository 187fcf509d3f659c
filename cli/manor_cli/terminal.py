"""The person's terminal: raw while a console is open, and as it was afterwards, whatever happens."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from manor_cli.render import clean

READ_BYTES: Final = 4_096
# What a guest may have switched on in the terminal is switched off: colours, the alternate screen, mouse
# reports, bracketed paste, a hidden cursor.
CALM: Final = b"\x1b[0m\x1b[?1049l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?2004l\x1b[?25h"
_KEPT: Final = "\r\n\t\b"


@contextmanager
def raw(descriptor: int) -> Iterator[None]:
    """Pass every key on as it is; restore the terminal at the end, also when told to end by a signal."""
    before = termios.tcgetattr(descriptor)
    ends = {number: signal.signal(number, _end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setraw(descriptor)
        yield
    finally:
        os.write(descriptor, CALM)
        termios.tcsetattr(descriptor, termios.TCSAFLUSH, before)
        for number, end in ends.items():
            signal.signal(number, end)


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


async def typed(descriptor: int) -> AsyncIterator[bytes]:
    """Yield what arrives at a terminal, a pipe or a file, until its end."""
    loop = asyncio.get_running_loop()
    while True:
        arrived = asyncio.Event()
        try:
            loop.add_reader(descriptor, arrived.set)
        except PermissionError:  # a file is always readable and cannot be waited for
            arrived.set()
        try:
            await arrived.wait()
        finally:
            loop.remove_reader(descriptor)
        try:
            content = os.read(descriptor, READ_BYTES)
        except OSError:  # the terminal was closed
            return
        if not content:
            return
        yield content


def written(descriptor: int, content: bytes) -> None:
    """Write all bytes to a descriptor."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def harmless(content: bytes) -> bytes:
    """Return output of a guest with every control character escaped but those that move within lines."""
    text = content.decode(errors="replace")
    return "".join(one if one in _KEPT else clean(one) for one in text).encode()
