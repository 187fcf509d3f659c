"""What all guests of an adapter share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from manor_bus.wire.errors import Kind, ManorError
from manor_host.blocking import Lanes, Stuck
from manor_host.paths import mount_of
from manor_lifecycle.hypervisors import Changed
from manor_lifecycle.hypervisors.qemu.options import Options
from manor_lifecycle.hypervisors.qemu.program import Program

FILE_S: Final = 10.0  # for a look at a file that may lie on a mount which does not answer
T = TypeVar("T")


@dataclass(frozen=True)
class Site:
    """`say` takes what happens; `wall` gives seconds since 1970; `state_id` goes with each guest."""

    program: Program
    directory: Path
    options: Options
    durable: bool
    say: Callable[[Changed], None]
    wall: Callable[[], float]
    state_id: str = ""
    mounts: Lanes = field(default_factory=Lanes)

    async def look_at(self, path: str, work: Callable[[], T]) -> T:
        """Do what may hang, outside of the loop. Raises `unavailable` naming the mount, and OSError."""
        try:
            return await self.mounts.call(mount_of(path), f"a look at {path}", work, FILE_S)
        except Stuck as stuck:
            hint = "Look at the server behind that mount, or unmount it."
            raise ManorError(Kind.UNAVAILABLE, str(stuck), hint=hint) from None
