"""Run a service: connect, open the room, serve, drain on request, leave cleanly. The body of every __main__.

Only one instance of a room is open at a time: a second one waits for the room's lock, so a replacement starts
serving the moment the first has drained.
"""

from __future__ import annotations

# isort: off
from manor_bus.peer import lean  # before asyncio

# isort: on
import asyncio
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

from manor_bus import VERSION, keys
from manor_bus.peer.aio import Answer, Peer
from manor_bus.peer.transport import AsyncLink, Link, Listener
from manor_bus.settings import BusSettings
from manor_bus.wire.errors import EXIT_CODES, ManorError
from manor_bus.wire.messages import Message
from manor_host import clock, privileges

READY_S: Final = 60.0  # for the broker to appear
STOP_S: Final = 5.0  # for calls under way when the process is told to end
DRAIN_S: Final = 1.0  # for the broker to confirm it
LOCK_POLL_S: Final = 0.05
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Room:
    """What `open_room` returns: the answers, the subjects it owns, and how to close."""

    answers: Mapping[type[Message], Answer]
    owns: tuple[str, ...]
    close: Callable[[], Awaitable[None]]


class RoomSettings(Protocol):
    """What every room's Settings have."""

    @property
    def bus(self) -> BusSettings:
        """Where the bus is."""

    @property
    def directory(self) -> Path:
        """The room's own state."""


S = TypeVar("S", bound=RoomSettings)
T = TypeVar("T")


def connect(settings: BusSettings) -> Peer:
    """Attach to the bus over ZeroMQ."""
    pair = keys.load(settings.key_file)
    broker_public = keys.load_public(settings.broker_key_file)

    def link(listener: Listener) -> Link:
        return AsyncLink(settings.endpoint, pair, broker_public, listener)

    return Peer(link, version=VERSION, pid=os.getpid(), boot_id=clock.boot_id())


def run(name: str, open_room: Callable[[Peer, S], Awaitable[Room]], settings: Callable[[], S]) -> None:
    """Run the service `name` until it is drained or told to end; exit 0 then."""
    privileges.keep()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(_serve(name, open_room, settings()))
    except ManorError as error:
        sys.stderr.write(f"error: {error}\nhint: {error.hint}\n")
        sys.exit(EXIT_CODES[error.kind])


async def _serve(name: str, open_room: Callable[[Peer, S], Awaitable[Room]], settings: S) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    lock = await _lock(settings.directory, stop)
    if lock is None:
        return
    peer = connect(settings.bus)
    try:
        await _unless(stop, peer.ready(timeout=READY_S))
        if not stop.is_set():
            await serve_until(name, open_room, settings, peer, stop)
    finally:
        await peer.close()
        os.close(lock)


async def serve_until(
    name: str, open_room: Callable[[Peer, S], Awaitable[Room]], settings: S, peer: Peer, stop: asyncio.Event
) -> None:
    """Open the room, serve until `stop` is set (or a drain is asked for), and leave in order.

    Raises ManorError when the broker turns us away for good, as after our key was revoked.
    """
    seconds = [STOP_S]

    def drain(within: float) -> None:
        seconds[0] = within
        stop.set()

    peer.dispatcher.name, peer.dispatcher.drain = name, drain
    room = await _unless(stop, open_room(peer, settings))
    if room is None:
        return
    peer.serve(room.answers, room.owns)
    log.info("%s serves as %s", name, peer.address)
    lean.settle()
    try:
        turned = await _unless(stop, peer.turned_away())
        if turned is not None:
            raise turned
        await _leave(peer, seconds[0])
    finally:
        await room.close()


async def _leave(peer: Peer, within: float) -> None:
    """Let no call in any more, and finish what runs."""
    peer.drain()
    try:
        await asyncio.wait_for(peer.drained.wait(), DRAIN_S)
    except TimeoutError:
        log.warning("the broker did not confirm that it sends no more calls")
    if not await peer.dispatcher.finished(within):
        log.warning("calls still run after %s s and are cancelled", within)


async def _unless(stop: asyncio.Event, work: Awaitable[T]) -> T | None:
    """Wait for something unless told to stop before; None then, and the work is cancelled."""
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        stopping.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


async def _lock(directory: Path, stop: asyncio.Event) -> int | None:
    """Wait for the room's lock; None when told to end before."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    while not stop.is_set():
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.sleep(LOCK_POLL_S)
        else:
            return descriptor
    os.close(descriptor)
    return None
