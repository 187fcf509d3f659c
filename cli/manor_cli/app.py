"""What every command is given: the settings, the budget, and a client that connects when it is first used.

Nothing of the bus is imported before a command needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from manor_bus.wire.messages import Message
    from manor_cli.client import Client
    from manor_cli.settings import Settings

    R = TypeVar("R", bound=Message)

CALL_S: Final = 10.0
WAIT_S: Final = 300.0  # for something that takes time, unless --timeout says otherwise


Connect = Callable[["Settings"], "Client"]


class App:
    """One run of the program."""

    def __init__(
        self,
        connect: Connect | None = None,
        environment: Mapping[str, str] | None = None,
        tty: bool | None = None,
    ) -> None:
        self._connect = connect
        self._environment = environment
        self._tty = tty
        self._directory = ""
        self._client: Client | None = None
        self.timeout: float | None = None

    def configure(self, *, directory: str, timeout: float | None) -> None:
        """Take the global options."""
        self._directory, self.timeout = directory, timeout

    @cached_property
    def settings(self) -> Settings:
        """Where things are."""
        from manor_cli.settings import Settings

        return Settings.from_environment(self._directory, self._environment)

    @property
    def budget(self) -> float:
        """Seconds for one call."""
        return self.timeout or CALL_S

    @property
    def patience(self) -> float:
        """Seconds to wait for something that takes time."""
        return self.timeout or WAIT_S

    @property
    def terminal(self) -> bool:
        """Whether a person looks at our output."""
        return sys.stdout.isatty() if self._tty is None else self._tty

    @property
    def client(self) -> Client:
        """The connection to the bus, made when first asked for."""
        if self._client is None:
            self._client = self.connect()
        return self._client

    def connect(self) -> Client:
        """Make a connection of its own, for somebody who waits while others call."""
        if self._connect is not None:
            return self._connect(self.settings)
        from manor_cli.reach import connect

        return connect(self.settings, self.budget)

    def call(
        self,
        request: Message,
        reply: type[R],
        *,
        timeout: float | None = None,
        key: str = "",
        at: str = "",
        on_part: Callable[[Any], None] | None = None,
    ) -> R:
        """Ask within the budget."""
        return self.client.call(
            request, reply, timeout=timeout or self.budget, key=key, at=at, on_part=on_part
        )

    def close(self) -> None:
        """Leave the bus if we ever met it; a later use connects anew."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def out(self, text: str) -> None:
        """Print a line of the answer."""
        click.echo(text, color=self.terminal or None)

    def note(self, text: str) -> None:
        """Print a line beside the answer: progress, advice."""
        click.echo(text, err=True)
