"""Processes that outlive the service: started in a session of their own, found again, watched, ended.

A process is ours when its command line says so in an argument nobody else uses (`mark`); it is held by a
pidfd, so that a number used again by another process can never be mistaken for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Final

from manor_bus.wire.errors import Kind, ManorError
from manor_devices.processes import run
from manor_host import processes

PEER: Final = struct.Struct("3i")  # struct ucred
START_S: Final = 20.0
TERM_S: Final = 5.0  # then SIGKILL
KILL_S: Final = 10.0  # a process that survives SIGKILL this long sits in the kernel


class Daemon:
    """One process that was found. `on_end` is called once, from the loop, when it ends unasked."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._ended = asyncio.Event()
        self._on_end: Callable[[], None] | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pidfd, self._end)

    def watch(self, on_end: Callable[[], None]) -> None:
        """Say whom to tell about its end."""
        self._on_end = on_end
        if self._ended.is_set():
            self._loop.call_soon(on_end)

    def kill(self) -> None:
        """End it at once; `on_end` is told."""
        if not self._ended.is_set():
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def stop(self) -> None:
        """End it, politely first; `on_end` is not told. Raises `timeout` when even SIGKILL does not help."""
        self._on_end = None
        for number, seconds in ((signal.SIGTERM, TERM_S), (signal.SIGKILL, KILL_S)):
            if self._ended.is_set():
                return
            signal.pidfd_send_signal(self._pidfd, number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._ended.wait()
        if not self._ended.is_set():
            raise ManorError(
                Kind.TIMEOUT,
                f"process {self.pid} does not end: it waits in the kernel",
                hint="Look at its storage.",
            )

    def let_go(self) -> None:
        """Stop watching; it lives on."""
        self._on_end = None
        self._close()

    def _end(self) -> None:
        self._close()
        if self._on_end is not None:
            self._on_end()

    def _close(self) -> None:
        if not self._ended.is_set():
            self._ended.set()
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)


async def start(argv: Sequence[str], served: str, uid: int, mark: str) -> Daemon:
    """Start a program that knows `--daemonize` and serves a socket; returns when it says that it does."""
    await run([*argv, "--daemonize"], START_S, uid=uid, limited=False)
    daemon = hold(_listener(served), mark)
    if daemon is None:
        raise ManorError(Kind.DENIED_STATE, f"{argv[0]} ended right after its start")
    return daemon


def _listener(path: str) -> int:
    """Return who listens at a socket, by the kernel's word; 0 when nobody does."""
    with socket.socket(socket.AF_UNIX) as link:
        try:
            link.connect(path)
        except OSError:
            return 0
        pid, _, _ = PEER.unpack(link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size))
        return int(pid)


def find(program: str, prefix: str) -> dict[str, int]:
    """Return the running processes of a program with an argument of that prefix: argument -> pid."""
    found: dict[str, int] = {}
    for pid in processes.pids():
        argv = processes.command_line(pid)
        if argv and os.path.basename(argv[0]) == program:
            found |= {argument: pid for argument in argv[1:] if argument.startswith(prefix)}
    return found


def hold(pid: int, mark: str) -> Daemon | None:
    """Hold a process that carries the mark; None when it ended, or its number is another's by now."""
    identity = processes.Identity.of(pid)
    if identity is None or mark not in processes.command_line(pid):
        return None
    pidfd = identity.open()
    return Daemon(pid, pidfd) if pidfd >= 0 else None
