"""The monitor of one QEMU: questions with deadlines, descriptors handed over, events in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

from qemu.qmp import ExecuteError, Message, QMPClient, QMPError, Runstate

from manor_bus.wire.errors import Kind, ManorError
from manor_lifecycle.hypervisors.qemu import sockets

SOCKET: Final = "monitor"
GREETING_S: Final = 30.0
ANSWER_S: Final = 10.0


logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL + 1)  # what it complains about is raised to us too


class Refusal(Exception):
    """QEMU said no, in its own words."""


class Monitor:
    """One connection. Every question ends: with the answer, `Refusal`, or a ManorError."""

    def __init__(self, name: str) -> None:
        self.connected = False
        self._name = name
        self._client = QMPClient(name)
        self._heard: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._descriptor_turn = asyncio.Lock()
        self._until_end: asyncio.Task[None] | None = None
        self._client.events.event_filter = self._hear  # its own queue would remember every event for ever

    def _hear(self, event: Message) -> bool:
        self._heard.put_nowait(dict(event))
        return False

    async def connect(self, folder: Path) -> None:
        """Greet. Raises `unavailable` when nobody is there, `timeout` when it is silent."""
        try:
            async with asyncio.timeout(GREETING_S):
                made = await sockets.connect(folder, SOCKET)
                try:
                    await self._client.connect(made)
                finally:
                    if (
                        self._client.runstate is Runstate.IDLE
                    ):  # it has not taken the socket, or given it back
                        made.close()
        except TimeoutError:
            await self.close()
            raise self._silent("the greeting", GREETING_S) from None
        except (OSError, EOFError, QMPError) as error:
            await self.close()
            raise self._gone() from error
        self.connected = True
        self._until_end = asyncio.get_running_loop().create_task(self._notice_end())

    async def _notice_end(self) -> None:
        await self._client.runstate_changed()
        self._heard.put_nowait(None)

    async def ask(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        wait_s: float = ANSWER_S,
        lend: int | None = None,
    ) -> Any:
        """Say a command and return its answer.

        `lend`: a descriptor for a command that takes one (`getfd`, `add-fd`); it may be closed afterwards.
        """
        try:
            async with asyncio.timeout(wait_s), contextlib.AsyncExitStack() as turn:
                if lend is not None:  # a descriptor belongs to the command right behind it
                    await turn.enter_async_context(self._descriptor_turn)
                    self._client.send_fd_scm(lend)
                return await self._client.execute(command, arguments)
        except TimeoutError:
            raise self._silent(command, wait_s) from None
        except ExecuteError as error:
            raise Refusal(str(error)) from None
        except (QMPError, OSError, EOFError) as error:
            raise self._gone() from error

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield events until the connection ends."""
        while (event := await self._heard.get()) is not None:
            yield event

    async def close(self) -> None:
        """Hang up."""
        self.connected = False
        if self._until_end is not None:
            self._until_end.cancel()
        with contextlib.suppress(OSError, EOFError, QMPError):
            await self._client.disconnect()

    def _silent(self, what: str, bound: float) -> ManorError:
        message = f"QEMU of {self._name} did not answer {what} within {bound:g} s"
        return ManorError(
            Kind.TIMEOUT, message, hint="Ask for the domain's state; destroy works in any case."
        )

    def _gone(self) -> ManorError:
        message = f"QEMU of {self._name} is not there any more"
        return ManorError(Kind.UNAVAILABLE, message, delivered=None, hint="Ask for the domain's state.")
