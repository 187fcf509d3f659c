"""Follows the documents this room serves: networks, volumes and providers; resolves what a device names."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from manor_bus.peer.aio import Change, Peer, Synced
from manor_bus.wire.errors import Kind, ManorError, not_found, unavailable
from manor_bus.wire.messages.config import DocumentChanged, Get, Got, History, HistoryListed
from manor_bus.wire.messages.devices import Connect
from manor_bus.wire.messages.documents import Network, NetworkSpec, Provider, Volume
from manor_devices.backends import Target
from manor_devices.modules import Modules
from manor_devices.pools import Pools
from manor_devices.routes import NotYet, route
from manor_devices.volumes import VolumeRecord

ASK_S: Final = 10.0
AGAIN_S: Final = 30.0
HISTORY_MAX: Final = 200
log = logging.getLogger(__name__)

Watch = Callable[[str], AsyncIterator[Change | Synced]]


class Documents:
    """The present documents. `modules` and `pools` are told of what concerns them."""

    def __init__(self, peer: Peer, node: str, modules: Modules, pools: Pools) -> None:
        self._peer = peer
        self._node = node
        self._modules = modules
        self._pools = pools
        self._networks: dict[str, NetworkSpec] = {}
        self._providers: dict[str, Provider] = {}
        self._synced: set[str] = set()
        self._changed = asyncio.Event()

    def tasks(self) -> list[asyncio.Task[None]]:
        """Begin to follow."""
        loop = asyncio.get_running_loop()
        follow = ("network", self._network), ("volume", self._volume), ("provider", self._provider)
        return [loop.create_task(self._follow(kind, take)) for kind, take in follow] + [
            loop.create_task(self._keep_providers())
        ]

    def stir(self) -> None:
        """Something a waiting device may have waited for is different."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def resolve(self, request: Connect, deadline: float) -> Target:
        """Return what a device's names are here. Waits for what is being made, until the deadline."""
        loop = asyncio.get_running_loop()
        while True:
            changed, disk = self._changed, request.disk
            volume = self._pools.wanted(disk.volume) if disk is not None and disk.volume else None
            found = route(request, self._networks, {disk.volume: volume} if disk and volume else {})
            if isinstance(found, Target):
                return found
            if found.kind and await self._fetch(found, deadline - loop.time()):
                continue
            try:
                async with asyncio.timeout_at(deadline):
                    await changed.wait()
            except TimeoutError:
                raise unavailable(found.reason, delivered=True, hint="Try again when it is ready.") from None

    async def _fetch(self, missing: NotYet, seconds: float) -> bool:
        """Ask config for a document that was not told yet; True: it can be used now."""
        request = Get(kind=missing.kind, name=missing.name)
        try:
            got = await self._peer.call(request, Got, timeout=max(0.1, seconds))
        except ManorError as error:
            if error.kind is Kind.NOT_FOUND:
                raise not_found(missing.reason, hint="Apply the document, or correct the name.") from None
            raise
        if isinstance(got.document, Network):
            self._networks.setdefault(missing.name, got.document.spec)
        return isinstance(got.document, Network)

    async def was_deleted(self, record: VolumeRecord) -> int:
        """Ask config in which revision a volume's document was deleted on purpose, after the one we know."""
        request = History(kind="Volume", name=record.name, uuid=record.uuid, limit=HISTORY_MAX)
        try:
            history = await self._peer.call(request, HistoryListed, timeout=ASK_S)
        except ManorError as error:
            if error.kind is Kind.NOT_FOUND:
                return 0
            raise
        deleted = (entry.revision for entry in history.entries if entry.action == "deleted")
        return max((revision for revision in deleted if revision > record.revision), default=0)

    # --- following ------------------------------------------------------------------------------------

    async def _follow(self, kind: str, take: Callable[[str, Any], None]) -> None:
        while True:
            try:
                async for change in self._peer.watch(f"config.{kind}.*"):
                    self._take(kind, change, take)
            except ManorError as error:
                log.warning("documents of kind %s cannot be followed: %s", kind, error)
                await asyncio.sleep(AGAIN_S)

    def _take(self, kind: str, change: Change | Synced, take: Callable[[str, Any], None]) -> None:
        if isinstance(change, Synced):
            if kind == "volume":
                self._pools.synced()
            self._synced.add(kind)
        else:
            name = change.subject.rpartition(".")[2]
            document = change.value.document if isinstance(change.value, DocumentChanged) else None
            take(name, document)
        self.stir()

    def _network(self, name: str, document: Network | None) -> None:
        self._networks.pop(name, None)
        if document is not None:
            self._networks[name] = document.spec

    def _volume(self, name: str, document: Volume | None) -> None:
        self._pools.document(name, document)

    def _provider(self, name: str, document: Provider | None) -> None:
        self._providers.pop(name, None)
        if document is not None and document.spec.node in ("", self._node):
            self._providers[name] = document

    async def _keep_providers(self) -> None:
        """Make the loadable back ends follow the Provider documents."""
        refused: dict[str, str] = {}
        while True:
            changed = self._changed
            if "provider" in self._synced:
                for name in {*self._providers, *self._modules.given()}:
                    refusal = await self._keep_provider(name)
                    if refusal and refused.get(name) != refusal:
                        log.warning("provider %s: %s", name, refusal)
                    refused[name] = refusal
            try:
                async with asyncio.timeout(AGAIN_S):
                    await changed.wait()
            except TimeoutError:
                continue

    async def _keep_provider(self, name: str) -> str:
        document = self._providers.get(name)
        try:
            if document is None:
                await self._modules.forget(name)
            elif document.spec.domain:
                return f"domain {document.spec.domain} does not offer back ends to this node"
            else:
                await self._modules.configure(name, document.spec.backend, document.spec.settings)
        except ManorError as error:
            return str(error)
        return ""
