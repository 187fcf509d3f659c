"""What every command is given: the settings, the budget, and a client that connects when it is first used.

Nothing of the bus is imported before a command needs it.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from manor_bus.peer.blocking import Client
    from manor_bus.wire.errors import ManorError
    from manor_bus.wire.messages import Message
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
        self._answered: set[type[Message]] = set()
        self.timeout: float | None = None
        self.debug = False
        self.partial = False  # an answer was not all there is
        self.told_apart = False  # exit code 1 says "there is a difference" and nothing else

    def configure(self, *, directory: str, timeout: float | None, debug: bool = False) -> None:
        """Take the global options."""
        self._directory, self.timeout, self.debug = directory, timeout, debug

    @cached_property
    def settings(self) -> Settings:
        """Where things are."""
        from manor_cli.settings import Settings

        return Settings.from_environment(self._directory, self._environment)

    def read_again(self) -> None:
        """Forget the settings: what they were read from was made, or made anew."""
        self.__dict__.pop("settings", None)

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

    @property
    def node_clock(self) -> float | None:
        """The time on the monotonic clock of the node; None where we have another, on another machine."""
        return time.monotonic() if self.client.same_clock else None

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
        answer = self.client.call(
            request, reply, timeout=timeout or self.budget, key=key, at=at, on_part=on_part
        )
        self._answered.add(type(request))
        return answer

    @property
    def changed(self) -> str:
        """Say whether this run changed something, for whoever does not get the answer."""
        if not self._answered:
            return "look before you repeat it"
        from manor_bus.wire.messages.catalogue import CALLS

        changing = {call.request for call in CALLS if call.changes}
        return "the change was made" if self._answered & changing else "nothing was changed"

    def close(self) -> None:
        """Leave the bus if we ever met it; a later use connects anew."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def out(self, text: str) -> None:
        """Print a line of the answer."""
        click.echo(text, color=self.terminal or None)

    def note(self, text: str) -> None:
        """Print a line beside the answer: progress, advice. Nobody has to read it."""
        with suppress(OSError):
            click.echo(text, err=True)

    def confirmed(self, question: str) -> None:
        """Ask a person; ends the command unless the answer is yes."""
        try:
            click.confirm(question, abort=True, err=True)
        except click.Abort as abort:
            if not isinstance(abort.__context__, EOFError):
                raise
            from manor_bus.wire.errors import bad_request

            raise bad_request(f"nobody answers: {question}", hint="--yes says yes beforehand") from None

    def until_left(self) -> None:
        """End the program as soon as nobody reads its output any more, also while nothing is printed."""
        import threading

        def wait(descriptor: int) -> None:
            poll = select.poll()
            poll.register(descriptor, 0)  # only of errors: a pipe without a reader
            if poll.poll()[0][1] & select.POLLERR:
                os._exit(0)

        with suppress(OSError, ValueError):
            threading.Thread(target=wait, args=(sys.stdout.fileno(),), daemon=True).start()

    def refused(self, error: ManorError) -> int:
        """Tell an error beside the answer; returns its exit code."""
        from manor_cli import exits

        for line in exits.lines(error):
            self.note(line)
        code = exits.code(error)
        return exits.FAULT_APART if self.told_apart and code == 1 else code

    def details(self, error: BaseException) -> str:
        """Keep the traceback of an unexpected error, and say where it is."""
        from manor_cli import failures

        if self.debug:
            self.note(failures.traced(error))
            return "please report it with the lines above"
        folder = self.settings.log if self.settings.log.is_dir() else None
        return failures.kept(error, folder)
