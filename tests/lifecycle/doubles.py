"""A devices service without devices: it keeps books of who connected what, so that tests can see leaks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from manor_bus.peer.aio import Answer, Context, Peer
from manor_bus.peer.serving import Room
from manor_bus.settings import BusSettings
from manor_bus.wire.errors import Kind, ManorError, unavailable
from manor_bus.wire.messages import Done, Message
from manor_bus.wire.messages.devices import (
    Connect,
    Connected,
    ConnectionState,
    Descriptor,
    Detach,
    DeviceKey,
    DeviceStatus,
    DomainGone,
    Refused,
    Released,
)


@dataclass(frozen=True)
class Bare:
    """The settings of a room that has none."""

    bus: BusSettings = field(default_factory=lambda: BusSettings("n1", "", Path(), Path()))
    directory: Path = Path()


@dataclass
class Devices:
    """`open` holds what is connected now; `fail` names devices whose connecting fails; `calls` counts."""

    open: dict[tuple[str, str], Connect] = field(default_factory=dict)
    incarnations: dict[tuple[str, str], int] = field(default_factory=dict)
    generations: dict[tuple[str, str], int] = field(default_factory=dict)
    fail: set[str] = field(default_factory=set)
    calls: list[Message] = field(default_factory=list)
    away: bool = False
    peer: Peer | None = None

    async def open_room(self, peer: Peer, settings: Bare) -> Room:
        self.peer = peer
        answers: dict[type[Message], Answer] = {
            Connect: self.connect,
            Connected: self.connected,
            Detach: self.detach,
            Refused: self.refused,
            Released: self.released,
            DomainGone: self.gone,
        }
        return Room(answers=answers, owns=("device.*.*",), close=self.close)

    async def close(self) -> None:
        self.peer = None

    def take(self, request: Message) -> None:
        self.calls.append(request)
        if self.away:
            raise unavailable("devices is told to be away", delivered=True)

    def publish(self, key: DeviceKey, state: ConnectionState, reason: str = "") -> None:
        request = self.open.get((key.uuid, key.id))
        if self.peer is None or request is None:
            return
        status = DeviceStatus(
            key=key,
            domain=request.domain,
            type=request.type,
            state=state,
            generation=self.generations[key.uuid, key.id],
            reason=reason,
        )
        self.peer.state.put(f"device.{request.domain}.{key.id}", status)

    def drop(self, uuid: str, device: str) -> None:
        request = self.open.pop((uuid, device), None)
        if self.peer is not None and request is not None:
            self.peer.state.drop(f"device.{request.domain}.{device}")

    async def connect(self, request: Connect, context: Context) -> Descriptor:
        self.take(request)
        at = request.key.uuid, request.key.id
        if request.key.id in self.fail:
            raise ManorError(Kind.NOT_FOUND, f"there is no image for {request.key.id}")
        if at not in self.open or self.incarnations[at] != request.key.incarnation:
            self.generations[at] = self.generations.get(at, 0) + 1
        self.open[at], self.incarnations[at] = request, request.key.incarnation
        self.publish(request.key, ConnectionState.READY)
        return Descriptor(type="fake", generation=self.generations[at])

    async def connected(self, request: Connected, context: Context) -> Done:
        self.take(request)
        self.publish(request.key, ConnectionState.CONNECTED)
        return Done()

    async def detach(self, request: Detach, context: Context) -> Done:
        self.take(request)
        if request.mode == "force":
            self.drop(request.key.uuid, request.key.id)
        else:
            self.publish(request.key, ConnectionState.CLOSING)
        return Done()

    async def refused(self, request: Refused, context: Context) -> Done:
        self.take(request)
        self.publish(request.key, ConnectionState.DETACH_PENDING, request.reason)
        return Done()

    async def released(self, request: Released, context: Context) -> Done:
        self.take(request)
        self.drop(request.key.uuid, request.key.id)
        return Done()

    async def gone(self, request: DomainGone, context: Context) -> Done:
        self.take(request)
        for uuid, device in list(self.open):
            if uuid == request.uuid and self.incarnations[uuid, device] <= request.incarnation:
                self.drop(uuid, device)
        return Done()

    def come_back(self, uuid: str, device: str) -> None:
        """The provider of a device is back with a new generation: the front end must connect again."""
        self.generations[uuid, device] += 1
        key = DeviceKey(uuid=uuid, incarnation=self.incarnations[uuid, device], id=device)
        self.publish(key, ConnectionState.READY)
