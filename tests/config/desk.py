"""The opened room without a bus: ask it as the peer library would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, TypeVar

import msgspec

from manor_bus.peer.aio import Context
from manor_bus.peer.serving import Room
from manor_bus.peer.state import State
from manor_bus.settings import BusSettings
from manor_bus.wire import codec
from manor_bus.wire.messages import Message
from manor_bus.wire.messages.config import DocumentChanged
from manor_config.service import open_room
from manor_config.settings import Settings

R = TypeVar("R", bound=Message)


@dataclass
class FakePeer:
    """What the room needs of a peer: its published state, and what was published."""

    published: list[tuple[str, DocumentChanged | None]] = field(default_factory=list)
    dispatcher: Any = field(default_factory=lambda: SimpleNamespace(detail={}))
    session: Any = field(default_factory=lambda: SimpleNamespace(greeted=False, broker_epoch=""))

    def __post_init__(self) -> None:
        def publish(subject: str, type_name: str, body: Any, epoch: str, rev: int) -> None:
            gone = body == codec.NIL
            self.published.append((subject, None if gone else codec.decode(body, DocumentChanged)))

        self.state = State(publish, epoch="e")


@dataclass
class Desk:
    """An open room; `parts` are the partial replies of all calls."""

    room: Room
    peer: FakePeer
    parts: list[Message] = field(default_factory=list)
    keys: Any = field(default_factory=lambda: count(1))

    async def ask(
        self,
        request: Message,
        reply: type[R],
        *,
        key: str = "",
        label: str = "operator/me",
        on_behalf_of: str = "",
        within: float = 30.0,
    ) -> R:
        context = Context(
            caller=f"{label}@n1/i",
            label=label,
            key=key or f"key{next(self.keys)}",
            deadline=asyncio.get_running_loop().time() + within,
            correlationid="",
            send_part=self.parts.append,
            on_behalf_of=on_behalf_of,
        )
        # As it comes over the bus.
        request = codec.decode(msgspec.Raw(codec.encode(request)), type(request))
        answer = await self.room.answers[type(request)](request, context)
        assert isinstance(answer, reply)
        # What is answered must fit a frame.
        assert len(codec.encode(answer)) <= 1_048_576
        return answer


@asynccontextmanager
async def opened(directory: Path, engine: Literal["sqlite", "memory"] = "sqlite") -> AsyncIterator[Desk]:
    settings = Settings(bus=BusSettings("n1", "", Path(), Path()), directory=directory, engine=engine)
    clock, numbers = count(1_000), count(1)
    peer = FakePeer()
    room = await open_room(
        peer,  # type: ignore[arg-type]
        settings,
        now=lambda: float(next(clock)),
        new_uuid=lambda: f"00000000-0000-4000-8000-{next(numbers):012}",
    )
    desk = Desk(room, peer)
    try:
        yield desk
    finally:
        await room.close()
