"""The way to a guest's screen: VNC without a password, on a socket in a folder that is nobody else's."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from manor_bus.wire.errors import ManorError
from manor_lifecycle.hypervisors.qemu import sockets

if TYPE_CHECKING:
    from manor_lifecycle.hypervisors.qemu.guest import Guest

SCREEN: Final = "screen"

_log = logging.getLogger(__name__)


async def show(guest: Guest) -> None:
    """Hand whoever comes to the screen's socket over to QEMU, which could not make one here."""
    loop = asyncio.get_running_loop()
    with sockets.listen(guest.path, SCREEN) as ear:
        ear.setblocking(False)
        while True:
            visitor, _ = await loop.sock_accept(ear)
            with visitor:
                try:
                    await guest.ask("getfd", {"fdname": SCREEN}, lend=visitor.fileno())
                    await guest.ask("add_client", {"protocol": "vnc", "fdname": SCREEN})
                except ManorError as error:
                    _log.warning("screen of %s: %s", guest.record.name, error)
