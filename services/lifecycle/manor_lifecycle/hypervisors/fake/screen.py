"""What a person sees of a fake guest: a console that greets and echoes, and one black pixel."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

PICTURE: Final = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c6360000000020001e221bc330000000049454e44ae426082"
)


@dataclass(slots=True)
class EchoConsole:
    """A serial console that greets and repeats what is typed."""

    offset: int
    queue: asyncio.Queue[bytes]

    @staticmethod
    def greeting(name: str) -> EchoConsole:
        """Return one that has said who it is."""
        console = EchoConsole(0, asyncio.Queue(1024))
        console.queue.put_nowait(f"fake domain {name}\r\n".encode())
        return console

    async def read(self) -> bytes:
        """Return what is there next."""
        content = await self.queue.get()
        self.offset += len(content)
        return content

    async def write(self, content: bytes) -> None:
        """Type; it is echoed."""
        self.queue.put_nowait(content.replace(b"\r", b"\r\n"))

    async def close(self) -> None:
        """End the reader."""
        self.queue.put_nowait(b"")
