"""The serial console of a guest: typed into a socket, read from the log that QEMU keeps.

The log is complete, also for the time when no service ran, and a place in it is the same number for ever; the
socket only says that there is more. Without a log (`spec.console.log: false`) the socket is all there is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Final

from manor_bus.wire.errors import Kind, ManorError, unavailable
from manor_lifecycle.hypervisors.qemu import sockets
from manor_lifecycle.hypervisors.qemu.folder import CONSOLE_LOG, CONSOLE_LOG_KEPT

SOCKET: Final = "console"
SCROLL_BACK: Final = 256 << 10
CHUNK: Final = 64 << 10
LOOK_S: Final = 1.0  # how often the log is looked at without being told
SETTLE_S: Final = 0.005  # QEMU writes to the socket first and to the log right after
WRITE_S: Final = 5.0


class SerialConsole:
    """See `ConsoleStream`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, log: int) -> None:
        self._reader = reader
        self._writer = writer
        self._log = log
        self._offset = max(0, os.fstat(log).st_size - SCROLL_BACK) if log >= 0 else 0

    @property
    def offset(self) -> int:
        """Of the byte that `read` returns next."""
        return self._offset

    async def read(self) -> bytes:
        """Return what the guest printed next; empty at the end."""
        over = False
        while True:
            if self._log >= 0 and (content := self._from_log()):
                return content
            if over:
                return b""
            try:
                async with asyncio.timeout(LOOK_S):
                    told = await self._reader.read(CHUNK)
            except TimeoutError:
                continue
            except OSError:
                told = b""
            over = not told
            if self._log < 0:
                self._offset += len(told)
                return told
            await asyncio.sleep(SETTLE_S)

    def _from_log(self) -> bytes:
        self._offset = max(self._offset, os.fstat(self._log).st_size - CONSOLE_LOG_KEPT)
        content = os.pread(self._log, CHUNK, self._offset)
        self._offset += len(content)
        return content

    async def write(self, content: bytes) -> None:
        """Type. Raises `timeout` when the guest does not take it."""
        try:
            self._writer.write(content)
            async with asyncio.timeout(WRITE_S):
                await self._writer.drain()
        except TimeoutError:
            message = f"the guest took nothing from its console for {WRITE_S:g} s"
            raise ManorError(Kind.TIMEOUT, message, hint="It may be busy, or not be reading.") from None
        except OSError as error:
            raise unavailable("the console is closed", delivered=False) from error

    async def close(self) -> None:
        """Let the console go."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        if self._log >= 0:
            os.close(self._log)
            self._log = -1


async def open_console(folder: Path, *, logged: bool) -> SerialConsole:
    """Open the console of a living guest. Raises `unavailable`."""
    try:
        reader, writer = await asyncio.open_connection(sock=await sockets.connect(folder, SOCKET))
    except OSError as error:
        raise unavailable("the console cannot be reached", delivered=False) from error
    writer.transport.set_write_buffer_limits(high=0)
    log = os.open(folder / CONSOLE_LOG, os.O_RDONLY | os.O_CLOEXEC) if logged else -1
    return SerialConsole(reader, writer, log)
