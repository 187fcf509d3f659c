"""All four rooms and the broker's core in one process, on virtual time, with one seed for every chance.

A seed decides delays on the wire, tokens, uuids, what the operator asks for, and what is killed when. The
same seed gives the same history, so a failure is repeated by its number. Every history ends in quiet, and
then everybody must agree: the documents, lifecycle, the hypervisor, discovery, devices, and somebody who only
watched.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from manor_bus.peer.aio import Change, Peer
from manor_bus.settings import BusSettings
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import Done, Message, config, devices, discovery, lifecycle
from manor_bus.wire.messages.documents import Domain
from manor_bus.wire.messages.lifecycle import Operation, State
from manor_config import service as config_service
from manor_config.settings import Settings as ConfigSettings
from manor_devices import service as devices_service
from manor_devices import storage
from manor_devices.settings import Settings as DevicesSettings
from manor_discovery import service as discovery_service
from manor_discovery.settings import Settings as DiscoverySettings
from manor_lifecycle import service as lifecycle_service
from manor_lifecycle.settings import Settings as LifecycleSettings
from tests.devices.driving import Inline
from tests.testkit import virtual
from tests.testkit.house import House, Open, house

BUS = BusSettings("n1", "", Path(), Path())
ACTIONS = 30
NAMES = ("web", "db", "cache")
KILLED = ("discovery", "lifecycle", "devices", "broker")
QUIET_S = 40.0
HISTORY_S = 2_000.0  # virtual seconds after which a history hangs
VERBS: tuple[type[Any], ...] = (
    lifecycle.DomainStart, lifecycle.DomainShutdown, lifecycle.DomainPause, lifecycle.DomainResume,
    lifecycle.DomainReboot, lifecycle.DomainDestroy, lifecycle.DomainSave, lifecycle.DomainRestore,
)  # fmt: skip


async def inline(work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """In the place of `asyncio.to_thread`: a thread would bring a clock of its own."""
    return work(*arguments, **named)


@pytest.fixture
def chance(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], random.Random]:
    """Let one seed decide every random draw and every clock of the process."""

    def seeded(seed: int) -> random.Random:
        source = random.Random(seed)
        monkeypatch.setattr(
            secrets, "token_hex", lambda size=32: f"{source.getrandbits(size * 8):0{size * 2}x}"
        )
        monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=source.getrandbits(128), version=4))
        monkeypatch.setattr(asyncio, "to_thread", inline)
        monkeypatch.setattr(storage, "lanes", Inline())
        monkeypatch.setattr(time, "time", lambda: 1_700_000_000.0 + asyncio.get_running_loop().time())
        monkeypatch.setattr(time, "time_ns", lambda: int(time.time() * 1e9))
        return source

    return seeded


class Play:
    """One history: who does what, and what was seen of it."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder, self.chance = folder, chance
        self.story: list[str] = []
        self.accepted: list[str] = []
        self.views: dict[str, tuple[str, State]] = {}
        self.generations: dict[str, int] = {}

    def rooms(self) -> dict[str, tuple[Open, Any]]:
        folder = self.folder
        return {
            "config": (config_service.open_room, ConfigSettings(BUS, folder / "config", "memory")),
            "discovery": (discovery_service.open_room, DiscoverySettings(BUS, folder / "discovery")),
            "devices": (
                partial(devices_service.open_room, run=inline),
                DevicesSettings(BUS, folder / "devices", folder / "volumes"),
            ),
            "lifecycle": (
                lifecycle_service.open_room,
                LifecycleSettings(BUS, folder / "lifecycle", hypervisors=("fake",), durable=False),
            ),
        }

    def tell(self, text: str) -> None:
        self.story.append(f"{asyncio.get_running_loop().time():.3f} {text}")

    async def watch(self, peer: Peer) -> None:
        async for change in peer.watch("domain.*"):
            if not isinstance(change, Change):
                continue
            uuid = change.subject.partition(".")[2]
            if change.value is None:
                self.views.pop(uuid, None)
                self.tell(f"{uuid} is gone")
            else:
                status = change.value
                self.views[uuid] = (status.name, status.state)
                assert status.generation >= self.generations.get(status.uuid, 0), "a generation went back"
                self.generations[status.uuid] = status.generation
                self.tell(f"{status.name} is {status.state} (run {status.incarnation})")

    async def act(self, home: House, operator: Peer) -> None:
        name, roll = self.chance.choice(NAMES), self.chance.random()
        if roll < 0.2:
            part = self.chance.choice(KILLED)
            self.tell(f"kill {part}")
            await self.kill(home, part)
        elif roll < 0.4:
            disks = [
                {"id": f"d{n}", "source": f"/images/{n}", "provider": "fake", "required": True}
                for n in range(self.chance.randrange(3))
            ]
            run = self.chance.choice(["always", "on-request", "halted"])
            spec = {
                "run": run,
                "disks": disks,
                "memory": {"size_mib": self.chance.choice([64, 128]), "max_mib": 256},
            }
            document = {"kind": "Domain", "metadata": {"name": name}, "spec": spec}
            await operator.call(config.Apply(documents=(document,)), config.Applied, timeout=30)
            self.tell(f"apply {name} {run} with {len(disks)} disks")
        else:
            await self.ask(operator, self.chance.choice(VERBS)(name=name))
        await asyncio.sleep(self.chance.choice([0.0, 0.01, 0.3, 3.0]))

    async def ask(self, operator: Peer, verb: Message) -> None:
        said = type(verb).__name__
        try:
            accepted = await operator.call(verb, Operation, timeout=30)
        except ManorError as error:
            if error.kind not in (Kind.DENIED_STATE, Kind.NOT_FOUND, Kind.NO_CAPACITY):
                raise
            self.tell(f"{said} {verb.name}: {error.kind}")  # type: ignore[attr-defined]
        else:
            self.accepted.append(accepted.id)
            self.tell(f"{said} {verb.name}: accepted")  # type: ignore[attr-defined]

    async def kill(self, home: House, part: str) -> None:
        if part == "broker":
            home.network.kill_broker()
            await asyncio.sleep(self.chance.random())
            home.network.start_broker()
        else:
            await home.kill(part)
            await asyncio.sleep(self.chance.random())
            await home.start(part, *self.rooms()[part])

    async def run(self, seed: int) -> None:
        async with house(seed, **self.rooms()) as home:
            operator = home.peer()
            watching = asyncio.get_running_loop().create_task(self.watch(operator))
            await operator.call(devices.BackendLoad(name="fake"), devices.BackendStatus, timeout=30)
            for _ in range(ACTIONS):
                await self.act(home, operator)
            await asyncio.sleep(QUIET_S)
            assert not watching.done(), watching.exception()
            await self.everybody_agrees(operator)
            watching.cancel()

    async def everybody_agrees(self, operator: Peer) -> None:
        statuses = {status.name: status for status in await self._statuses(operator)}
        facts = await self._facts(operator)
        assert facts == {name: status.state for name, status in statuses.items()}
        assert dict(self.views.values()) == facts, "the watcher's view is not the owner's state"
        for identity in self.accepted:
            ended = await operator.call(lifecycle.OperationShow(id=identity), Operation, timeout=10)
            assert ended.state in lifecycle.ENDED, ended
        listed = await operator.call(config.List(kind="Domain"), config.Listed, timeout=10)
        assert {document.metadata.name for document in listed.documents} == set(statuses)
        for document in listed.documents:
            self._as_documented(document, statuses[document.metadata.name])
        await self._devices_agree(operator, listed, statuses)

    def _as_documented(self, document: Any, status: lifecycle.DomainStatus) -> None:
        state = status.state
        assert state in (State.RUNNING, State.PAUSED, State.DEFINED, State.SUSPENDED), status
        assert status.operation == "", status
        assert status.revision == document.metadata.revision
        if document.spec.run == "halted":
            assert state in (State.DEFINED, State.SUSPENDED)

    async def _devices_agree(self, operator: Peer, listed: config.Listed, statuses: dict[str, Any]) -> None:
        found = await operator.call(devices.DeviceList(), devices.DevicesListed, timeout=10)
        connected = {
            (one.domain, one.key.id, one.key.incarnation) for one in found.devices if one.state == "CONNECTED"
        }
        wanted = {
            (document.metadata.name, disk.id, statuses[document.metadata.name].incarnation)
            for document in listed.documents
            if statuses[document.metadata.name].state in (State.RUNNING, State.PAUSED)
            if isinstance(document, Domain)
            for disk in document.spec.disks
        }
        assert connected == wanted
        assert {one.state for one in found.devices} <= {"CONNECTED"}, "a connection was left in between"

    async def _statuses(self, operator: Peer) -> list[lifecycle.DomainStatus]:
        found: list[lifecycle.DomainStatus] = []

        def take(part: Message) -> None:
            assert isinstance(part, lifecycle.DomainsPart)
            found.extend(part.domains)

        await operator.call(lifecycle.DomainsList(), Done, timeout=10, on_part=take)
        return found

    async def _facts(self, operator: Peer) -> dict[str, State]:
        found: dict[str, State] = {}
        await operator.call(
            discovery.Find(kind="domain"), discovery.Found, timeout=10,
            on_part=lambda part: found.update({e.fact.name: e.fact.state for e in part.entries}),  # type: ignore[attr-defined]
        )  # fmt: skip
        return found


def play(folder: Path, seed: int, chance: Callable[[int], random.Random]) -> Play:
    history = Play(folder, chance(seed))
    try:
        virtual.run(history.run(seed), limit_s=HISTORY_S)
    except BaseException as error:
        error.add_note(f"seed {seed}:\n  " + "\n  ".join(history.story))
        raise
    return history


@pytest.mark.parametrize("seed", range(12))
def test_after_any_history_everybody_agrees(
    tmp_path: Path, seed: int, chance: Callable[[int], random.Random]
) -> None:
    assert len(play(tmp_path, seed, chance).story) > ACTIONS


def test_a_seed_repeats_its_history(tmp_path: Path, chance: Callable[[int], random.Random]) -> None:
    first = play(tmp_path / "first", 3, chance).story
    second = play(tmp_path / "second", 3, chance).story
    assert first == second
