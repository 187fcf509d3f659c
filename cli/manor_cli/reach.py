"""Connect to the bus, or say at once why that cannot work.

A broker that is being restarted by its supervisor is waited for; a machine on which nothing runs is not.
"""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, Final

from manor_bus.settings import BusSettings
from manor_bus.wire.errors import ManorError, unavailable
from manor_cli.settings import Settings, lock_of
from manor_host import locks

if TYPE_CHECKING:
    from manor_bus.peer.aio import Peer
    from manor_bus.peer.blocking import Client

POLL_S: Final = 0.02


def connect(settings: Settings, budget: float) -> Client:
    """Return a client of the bus; `unavailable` with what to do when there is none."""
    wait(settings, budget)
    from manor_bus.peer.blocking import Client

    return Client(settings.bus)


def wait(settings: Settings, budget: float) -> None:
    """Wait for a broker that is being restarted; refuse at once where nothing runs."""
    gc.freeze()  # what was loaded until here stays; from here on there may be garbage
    gc.enable()
    if not settings.bus.broker_key_file.exists():
        raise unavailable(
            f"{settings.directory} has no keys", delivered=False, hint="manor init, then manor up --detach"
        )
    if locks.held(lock_of(settings.directory, "bus")):  # the short way, without opening a socket
        return
    deadline = time.monotonic() + budget
    while not listening(settings.bus):
        if time.monotonic() > deadline or not locks.held(lock_of(settings.directory)):
            raise unreachable(settings.bus.endpoint)
        time.sleep(POLL_S)


def unreachable(endpoint: str) -> ManorError:
    """Return the error of a bus that does not answer."""
    return unavailable(
        f"no bus answers at {endpoint}",
        hint="start this machine's services: manor up --detach",
        delivered=False,
    )


def listening(bus: BusSettings) -> bool:
    """Whether somebody listens at an ipc endpoint; other endpoints are tried by connecting."""
    import socket

    scheme, _, path = bus.endpoint.partition("://")
    if scheme != "ipc":
        return True
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except BlockingIOError:  # its queue of connections is full: somebody is there
            return True
    return True


async def attached(settings: Settings, budget: float) -> Peer:
    """Return an asyncio peer of the bus, for what must listen and speak at the same time."""
    wait(settings, budget)
    from manor_bus.peer.serving import connect as connect_peer

    peer = connect_peer(settings.bus)
    await peer.ready(budget)
    return peer
