"""The devices service: one coroutine per message, and what it publishes.

`device.<domain>.<id>` is the newest run's connection, `backend.<name>` a loadable back end, `volume.<name>` a
volume, `provider.<name>` a loaded back end, `resource.<name>` a volume or an unexplained leftover.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal

from manor_bus.peer.aio import Answer, Context, Peer
from manor_bus.peer.serving import Room
from manor_bus.wire.messages import Done, Message
from manor_bus.wire.messages.devices import (
    BackendList,
    BackendLoad,
    BackendsListed,
    BackendStatus,
    BackendUnload,
    Connect,
    Connected,
    ConnectionState,
    Detach,
    DeviceList,
    DevicesListed,
    DomainGone,
    Refused,
    Released,
    VolumeList,
    VolumesListed,
)
from manor_bus.wire.messages.lifecycle import DomainsList, DomainsPart, DomainStatus
from manor_bus.wire.messages.providers import ProviderStatus, ResourceStatus
from manor_devices.backends import Leftover
from manor_devices.connection import Connection
from manor_devices.connections import Connections
from manor_devices.documents import Documents
from manor_devices.driver import Driver
from manor_devices.modules import Installed, Modules, installed
from manor_devices.pools import Pools
from manor_devices.records import Records
from manor_devices.saved import Saved
from manor_devices.settings import Settings
from manor_devices.sweeps import Sweeps
from manor_devices.uses import Key, key_of
from manor_host import privileges

OWNS: Final = ("device.*.*", "backend.*", "volume.*", "provider.*", "resource.*")
ASK_S: Final = 20.0
STATUS_S: Final = 0.1  # changes of a back end's use within this time are published together

ProviderState = Literal["ready", "loading", "failed", "unloading"]
Run = Callable[[Callable[[], None]], Awaitable[None]]


class Devices:
    """The parts of the room, and what each message asks of them."""

    def __init__(
        self, peer: Peer, settings: Settings, records: Records, found: Mapping[str, Installed]
    ) -> None:
        self._peer = peer
        self._node = settings.bus.node
        self._subjects: dict[Key, str] = {}
        self._stale_statuses: dict[str, None] = {}
        self._status_timer: asyncio.TimerHandle | None = None
        self._ready = False
        self.driver = Driver(records, self._connection_changed, self._backend_changed, self._leftover)
        self.modules = Modules(records, settings.directory, _mark(records), found, self.driver)
        self.driver.modules = self.modules
        self.pools = Pools(
            records,
            settings.volumes,
            self.driver.uses,
            lambda record: self.documents.was_deleted(record),
            self._volume_changed,
        )
        self.documents = Documents(peer, self._node, self.modules, self.pools)
        self.connections = Connections(records, self.driver, self.documents.resolve)
        self.sweeps = Sweeps(self.connections, self._domains)
        self.driver.saved = Saved(records, self.driver.uses, self._domains, self.pools.used)
        self._tasks: list[asyncio.Task[None]] = []

    # --- calls ----------------------------------------------------------------------------------------

    def answers(self) -> dict[type[Message], Answer]:
        """Return what answers each message."""
        links, modules = self.connections, self.modules
        return {
            Connect: lambda asked, context: links.connect(asked, context.deadline),
            Connected: _done(lambda asked, _: links.connected(asked.key, asked.generation)),
            Detach: _done(
                lambda asked, _: links.detach(asked.key, asked.generation, force=asked.mode == "force")
            ),
            Refused: _done(
                lambda asked, _: links.refused(
                    asked.key, asked.generation, asked.reason, pending=asked.pending
                )
            ),
            Released: _done(
                lambda asked, context: links.released(asked.key, asked.generation, context.deadline)
            ),
            DomainGone: _done(
                lambda asked, context: links.domain_gone(asked.uuid, asked.incarnation, context.deadline)
            ),
            DeviceList: lambda asked, _: DevicesListed(devices=links.listed(asked.domain)),
            BackendList: lambda *_: BackendsListed(backends=tuple(map(modules.status, modules.names()))),
            BackendLoad: self._backend_load,
            BackendUnload: self._backend_unload,
            VolumeList: lambda *_: VolumesListed(volumes=self.pools.statuses()),
        }

    async def _backend_load(self, request: BackendLoad, context: Context) -> BackendStatus:
        await self.modules.load(request.name)
        return self.modules.status(request.name)

    async def _backend_unload(self, request: BackendUnload, context: Context) -> BackendStatus:
        await self.modules.unload(request.name, force=request.force)
        return self.modules.status(request.name)

    # --- life -----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Find again what was there, go on with it, and only then let anybody see."""
        self._peer.state.hold()
        await self.pools.start()
        await self.modules.start()
        self.driver.awake()
        for slot in list(self.driver.slots.values()):
            self._connection_changed(slot.connection)
        self._ready = True
        self._publish_statuses()
        self._peer.state.release()
        loop = asyncio.get_running_loop()
        assert self.driver.saved is not None
        keeping = loop.create_task(self.sweeps.keep()), loop.create_task(self.driver.saved.keep())
        self._tasks = [*self.documents.tasks(), *keeping]

    async def close(self) -> None:
        """Stop; what guests use stays."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.pools.close()
        await self.driver.close()
        await self.modules.close()
        if self._status_timer is not None:
            self._status_timer.cancel()

    # --- publishing -----------------------------------------------------------------------------------

    def _connection_changed(self, connection: Connection) -> None:
        request, key = connection.request, key_of(connection.request.key)
        before = self._subjects.pop(key, None)
        subject = f"device.{request.domain}.{request.key.id}"
        if before not in (None, subject):
            self._peer.state.drop(before or "")
        if self.connections.newest(connection):
            if connection.state is ConnectionState.ABSENT:
                self._peer.state.drop(subject)
            else:
                self._subjects[key] = subject
                self._peer.state.put(subject, connection.status())
        self.connections.forget_if_over(connection)
        if request.disk is not None and request.disk.volume:
            self.pools.used(request.disk.volume)

    def _backend_changed(self, name: str) -> None:
        self._stale_statuses[name] = None
        if self._status_timer is None and self._ready:
            self._status_timer = asyncio.get_running_loop().call_later(STATUS_S, self._publish_statuses)

    def _publish_statuses(self) -> None:
        self._status_timer = None
        names, self._stale_statuses = self._stale_statuses, {}
        for name in names:
            fact = f"{self._node}-{name}"
            if name not in self.modules.names():
                self._peer.state.drop(f"backend.{name}")
                self._peer.state.drop(f"provider.{fact}")
                continue
            status, module = self.modules.status(name), self.modules.module(name)
            self._peer.state.put(f"backend.{name}", status)
            if status.state == "available":
                self._peer.state.drop(f"provider.{fact}")
            else:
                state: ProviderState = "ready" if status.state == "loaded" else status.state
                provider = _provider(fact, self._node, module.backend, state, status)
                self._peer.state.put(f"provider.{fact}", provider)

    def _volume_changed(self, name: str) -> None:
        status = self.pools.status(name)
        if status is None:
            self._peer.state.drop(f"volume.{name}")
            self._peer.state.drop(f"resource.{name}")
        else:
            self._peer.state.put(f"volume.{name}", status)
            resource = ResourceStatus(
                name=name, node=self._node, type="volume", state=status.state, reason=status.reason
            )
            self._peer.state.put(f"resource.{name}", resource)
        self.documents.stir()

    def _leftover(self, provider: str, leftover: Leftover) -> None:
        """List what was found and is not touched: it is not ours, or somebody uses it."""
        name = re.sub(r"[^A-Za-z0-9_-]", "-", f"{provider}-{leftover.name}")
        left = ResourceStatus(
            name=name, node=self._node, type="leftover", state="STALE", reason=_why_stale(leftover)
        )
        self._peer.state.put(f"resource.{name}", left)

    # --- asking others --------------------------------------------------------------------------------

    async def _domains(self) -> dict[str, DomainStatus]:
        """Ask lifecycle for all its domains, by uuid."""
        told: dict[str, DomainStatus] = {}

        def take(part: Message) -> None:
            if isinstance(part, DomainsPart):
                told.update((status.uuid, status) for status in part.domains)

        request = DomainsList()
        await self._peer.call(request, Done, timeout=ASK_S, on_part=take, on_restart=told.clear)
        return told


def _done(work: Callable[[Any, Context], Awaitable[object]]) -> Answer:
    """Return what answers when something is done, without more to say."""

    async def answer(asked: Any, context: Context) -> Done:
        await work(asked, context)
        return Done()

    return answer


def _mark(records: Records) -> str:
    """Return this installation's own random name, made once."""
    mark = records.get("mark", str) or secrets.token_hex(6)
    records.put("mark", mark)
    return mark


def _why_stale(leftover: Leftover) -> str:
    what = leftover.detail or "it carries no mark"
    return f"no device explains it ({what})" + (
        ", and a front end is connected to it" if leftover.used else ""
    )


def _provider(
    name: str, node: str, backend: str, state: ProviderState, status: BackendStatus
) -> ProviderStatus:
    return ProviderStatus(
        name=name,
        backend=backend,
        node=node,
        epoch=status.epoch,
        classes=status.classes,
        state=state,
        reason=status.reason,
        version=status.version,
        in_use=status.in_use,
    )


async def open_room(
    peer: Peer,
    settings: Settings,
    found: Mapping[str, Installed] | None = None,
    run: Run = asyncio.to_thread,
) -> Room:
    """Open the service on a connected peer."""
    _make_passable(settings)
    records = Records(settings.directory / "records", run)
    devices = Devices(peer, settings, records, found if found is not None else installed())
    await devices.start()

    async def close() -> None:
        await devices.close()
        await records.close()

    return Room(answers=devices.answers(), owns=OWNS, close=close)


def _make_passable(settings: Settings) -> None:
    """Let domains' users pass through to their sockets and images; what lies there is closed by itself."""
    settings.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if privileges.may(privileges.SETUID):
        os.chmod(settings.directory, 0o711)
