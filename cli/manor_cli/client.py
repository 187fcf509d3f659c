"""The seam to the bus: what commands use of `manor_bus.peer.blocking.Client`. Tests give another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol, TypeVar

from manor_bus.peer.view import Change, Synced
from manor_bus.wire.envelope import Envelope
from manor_bus.wire.messages import Message

R = TypeVar("R", bound=Message)
Policy = Literal["coalesce", "gap", "kick"]


class Client(Protocol):
    """One connection, for one thread that waits."""

    def call(
        self, request: Message, reply: type[R], *, timeout: float, key: str = "", at: str = "",
        on_part: Callable[[Any], None] | None = None,
    ) -> R:  # fmt: skip
        """Ask and wait for the reply; raises ManorError."""

    def raw_call(
        self,
        to: str,
        data: Any,
        *,
        timeout: float,
        key: str = "",
        on_part: Callable[[Any], None] | None = None,
    ) -> Any:
        """Call any subject with plain values."""

    def publish(self, subject: str, type_name: str, data: Any, *, timeout: float = 5.0) -> None:
        """Publish passing news."""

    def watch(
        self,
        pattern: str,
        *,
        policy: Policy = "coalesce",
        snapshot: bool = True,
        timeout: float | None = None,
    ) -> Iterator[Change | Synced]:
        """Follow every object under a pattern."""

    def items(
        self, pattern: str, *, tap: bool = False, policy: Policy = "gap", timeout: float | None = None
    ) -> Iterator[tuple[str, Envelope]]:
        """Follow a pattern as it passes, envelopes and all."""

    def close(self) -> None:
        """Leave the bus."""
