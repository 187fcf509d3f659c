"""A back end without anything behind it: for tests, for fake domains, and for a first look around.

It can be told to misbehave: by the setting `prepare` or `release` of its Provider document, or for one disk
by its source: `fake:fail`, `fake:refuse`, `fake:hang`. Tests hold its `World` and may kill what it serves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from manor_bus.wire.errors import Kind, ManorError, denied_state
from manor_bus.wire.messages.devices import DeviceKey
from manor_devices.backends import (
    BackendSettings,
    Claim,
    Leftover,
    Notice,
    Observation,
    Order,
    Prepared,
)

WORDS: Final = ("ok", "fail", "refuse", "hang")


@dataclass
class World:
    """What the fake serves. It outlives the back end, as processes and interfaces outlive the service."""

    served: dict[DeviceKey, tuple[int, int]] = field(default_factory=dict)  # generation, epoch
    behaviour: dict[str, str] = field(default_factory=dict)  # `prepare`, `release`, `observe` -> word
    fresh: bool = True  # nothing is known of an earlier life: believe what the service remembers
    tell: Callable[[Notice], None] | None = None  # of the back end that is open now

    def kill(self, key: DeviceKey, reason: str = "killed") -> None:
        """One device is no longer served."""
        generation, epoch = self.served.pop(key, (0, 0))
        if self.tell is not None and generation:
            self.tell(Notice("lost", reason, key, generation, epoch))

    def take_away(self, key: DeviceKey, reason: str = "unplugged") -> None:
        """The resource behind one device goes away."""
        generation, epoch = self.served.get(key, (0, 0))
        if self.tell is not None and generation:
            self.tell(Notice("gone", reason, key, generation, epoch))

    def die(self, reason: str = "died") -> None:
        """The whole back end dies, and what it served with it."""
        self.served.clear()
        if self.tell is not None:
            self.tell(Notice("lost", reason))


WORLDS: Final[dict[Path, World]] = {}  # by the back end's folder, for as long as this process lives


class FakeBackend:
    """Serves everything and does nothing."""

    classes: Final = ("disk", "nic", "channel", "console")

    def __init__(self, settings: BackendSettings, world: World) -> None:
        self._provider = settings.provider
        self._values = settings.values
        self.world = world
        world.tell = settings.notify

    async def observe(self, known: Sequence[Order]) -> Observation:
        """Find what the world still serves."""
        await self._behave("observe", "")
        if self.world.fresh:
            self.world.served.update({order.key: (order.generation, order.epoch) for order in known})
        self.world.fresh = False
        keys = {order.key for order in known}
        left = [Leftover(str(key.id), repr(key), ours=True) for key in self.world.served if key not in keys]
        return Observation(tuple(key for key in keys if key in self.world.served), tuple(left))

    async def claim(self, order: Order) -> tuple[Claim, ...]:
        """Claim nothing: any number of fakes may say the same source."""
        return ()

    async def prepare(self, order: Order) -> Prepared:
        """Serve it."""
        await self._behave("prepare", order.request.disk.source if order.request.disk else "")
        self.world.served[order.key] = (order.generation, order.epoch)
        return Prepared("fake", {})

    async def release(self, order: Order) -> None:
        """Serve it no more."""
        await self._behave("release", "")
        self.world.served.pop(order.key, None)

    async def discard(self, leftover: Leftover) -> None:
        """Serve a leftover no more."""
        for key in [key for key in self.world.served if repr(key) == leftover.detail]:
            del self.world.served[key]

    async def close(self) -> None:
        """Stop telling."""
        self.world.tell = None

    async def _behave(self, verb: str, source: str) -> None:
        word = source.removeprefix("fake:") if source.startswith("fake:") else ""
        match word or self.world.behaviour.get(verb) or self._values.get(verb, "ok"):
            case "fail":
                raise ManorError(Kind.INTERNAL, f"back end {self._provider} was told to fail")
            case "refuse":
                raise denied_state(f"back end {self._provider} was told to refuse", hint="Tell it: ok")
            case "hang":
                await asyncio.get_running_loop().create_future()
            case _:
                return


def open_backend(settings: BackendSettings) -> FakeBackend:
    """Open the back end on the world of its folder."""
    return FakeBackend(settings, WORLDS.setdefault(settings.directory, World()))
