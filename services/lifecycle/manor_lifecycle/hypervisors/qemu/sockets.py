"""Unix sockets in a folder whose path may be longer than the 107 bytes that an address can hold."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

CONNECT_S: Final = 5.0


@contextlib.contextmanager
def _short(folder: Path, name: str) -> Iterator[str]:
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def listen(folder: Path, name: str) -> socket.socket:
    """Return a listening socket, the only one of that name; nobody but us may connect."""
    (folder / name).unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX)
    with _short(folder, name) as path:
        made.bind(path)
        Path(path).chmod(0o600)
    made.listen(1)
    return made


async def connect(folder: Path, name: str) -> socket.socket:
    """Return a connected socket. Raises OSError (also when nobody takes the connection in time)."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with _short(folder, name) as path:
            async with asyncio.timeout(CONNECT_S):
                await asyncio.get_running_loop().sock_connect(made, path)
    except BaseException:
        made.close()
        raise
    return made
