"""The devices service in the house, beside a config service that says what the test wants."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from manor_bus.peer.aio import Change
from manor_bus.peer.serving import Room
from manor_bus.settings import BusSettings
from manor_bus.wire.errors import not_found
from manor_bus.wire.messages.config import DocumentChanged, Get, Got, History, HistoryEntry, HistoryListed
from manor_devices import service
from manor_devices.backends.fake import FakeBackend, World
from manor_devices.backends.file import open_backend as open_file
from manor_devices.backends.front import open_console, open_usernet
from manor_devices.modules import Installed
from manor_devices.settings import Settings
from tests.devices.driving import inline
from tests.testkit.house import house

NOWHERE = Path("/nonexistent")


def settings(folder):
    bus = BusSettings(node="n1", endpoint="", key_file=NOWHERE, broker_key_file=NOWHERE)
    return Settings(bus=bus, directory=folder / "devices", volumes=folder / "volumes")


@dataclass
class Config:
    """Publishes documents and remembers deletions."""

    peer: object = None
    histories: dict = field(default_factory=dict)
    documents: dict = field(default_factory=dict)

    async def open_room(self, peer, settings):
        self.peer = peer

        async def close():
            pass

        return Room(answers={History: self.history, Get: self.get}, owns=("config.>",), close=close)

    async def get(self, request, context):
        document = self.documents.get((request.kind, request.name))
        if document is None:
            raise not_found(f"there is no {request.kind} {request.name}")
        return Got(document=document, revision=1)

    async def history(self, request, context):
        if request.name not in self.histories:
            raise not_found(f"there never was {request.name}")
        entry = HistoryEntry(
            revision=self.histories[request.name], at=0.0, by="x", reason="", action="deleted"
        )
        return HistoryListed(entries=(entry,))

    def apply(self, document):
        kind, name = type(document).__name__, document.metadata.name
        self.documents[kind, name] = document
        self.peer.state.put(f"config.{kind.lower()}.{name}", DocumentChanged(document=document))

    def delete(self, kind, name, revision=99):
        self.histories[name] = revision
        self.documents.pop((kind.capitalize(), name), None)
        self.peer.state.drop(f"config.{kind}.{name}")


async def listen(peer, pattern, facts):
    """Keep what is published under a pattern by its name, as discovery does."""
    async for change in peer.watch(pattern):
        if isinstance(change, Change):
            name = change.subject.partition(".")[2]
            facts.pop(name, None) if change.value is None else facts.update({name: change.value})


@dataclass
class Place:
    """A running house with the devices room, its world, and an operator."""

    house: object
    config: Config
    world: World
    operator: object
    facts: dict
    open_room: object
    settings: object

    async def restart(self, *, kill=False):
        await (self.house.kill if kill else self.house.stop)("devices")
        await self.house.start("devices", self.open_room, self.settings)

    async def ask(self, request, reply, within=20.0):
        return await self.operator.call(request, reply, timeout=within)


@asynccontextmanager
async def place(folder, *, config=True, fake=FakeBackend):
    world = World(fresh=False)
    found = {
        "fake": Installed("9", lambda: lambda made: fake(made, world)),
        "file": Installed("9", lambda: open_file),
        "usernet": Installed("9", lambda: open_usernet),
        "console": Installed("9", lambda: open_console),
    }
    open_room = partial(service.open_room, found=found, run=inline)
    async with house() as made:
        told, facts = Config(), {}
        if config:
            await made.start("config", told.open_room, None)
        chosen = settings(folder)
        await made.start("devices", open_room, chosen)
        operator = made.peer()
        await operator.ready()
        listening = [
            asyncio.create_task(listen(operator, f"{kind}.*", facts)) for kind in ("provider", "resource")
        ]
        try:
            yield Place(made, told, world, operator, facts, open_room, chosen)
        finally:
            for task in listening:
                task.cancel()
    await asyncio.sleep(0)
