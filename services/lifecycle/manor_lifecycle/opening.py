"""Opens the service: adapters, journal, ownership records, documents; then recovery; then the watches."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from manor_bus.peer.aio import Change, Peer, Synced
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import Done
from manor_bus.wire.messages.config import DocumentChanged
from manor_bus.wire.messages.devices import DeviceStatus, DomainGone
from manor_bus.wire.messages.documents import ClusterSettings, ClusterSettingsSpec, Domain, Node
from manor_host import clock
from manor_lifecycle import attached, hypervisors
from manor_lifecycle.awakening import awaken
from manor_lifecycle.capacity import measure
from manor_lifecycle.claims import Claims
from manor_lifecycle.console import Consoles
from manor_lifecycle.domains import Domains
from manor_lifecycle.hypervisors import AdapterSettings, Description, Hypervisor
from manor_lifecycle.journal import Journal
from manor_lifecycle.ledger import Ledger, Numbered
from manor_lifecycle.life import document_of
from manor_lifecycle.listening import Listening
from manor_lifecycle.means import Means, Turns, at_once
from manor_lifecycle.publishing import Publishing
from manor_lifecycle.settings import Settings

CONFIG_TIMEOUT_S: Final = 60.0
CAPACITY_PERIOD_S: Final = 30.0
DEBT_PERIOD_S: Final = 5.0
log = logging.getLogger(__name__)

_Watch = AsyncIterator[Change | Synced]


@dataclass
class Opened:
    """The open service: what answers need, and how to close it."""

    means: Means
    domains: Domains
    publishing: Publishing
    consoles: Consoles
    listening: Listening
    labels: dict[str, str] = field(default_factory=dict)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def close(self) -> None:
        """Stop where we are; guests stay, open operations go on after the next start."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.domains.driver.close()
        await self.consoles.close()
        await self.means.claims.close()
        self.publishing.close()
        for hypervisor in self.means.hypervisors.values():
            await hypervisor.close()
        await self.means.journal.close()


async def open_all(peer: Peer, settings: Settings, wall: Callable[[], float] = time.time) -> Opened:
    """Open everything and recover. Raises `unavailable` when config does not answer in time."""
    for folder in ("", "saved", "dumps"):
        (settings.directory / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    peer.state.hold()  # until we know of every domain
    means = await _means(peer, settings, wall)
    publishing = Publishing(peer, means.node)
    domains = Domains(means, publishing)
    consoles = Consoles(peer.publish)
    listening = Listening(means, domains, consoles)
    publishing.look, publishing.forget = listening.look, listening.forget
    publishing.reserve = lambda uuid, generation: means.note(Numbered(uuid=uuid, generation=generation))
    opened = Opened(means, domains, publishing, consoles, listening)
    await means.claims.load(CONFIG_TIMEOUT_S)
    await _cluster_settings(opened, peer)
    watch = aiter(peer.watch("config.domain.*"))
    documents = await _documents(watch)
    await awaken(domains, means, documents)
    publishing.flush()
    peer.state.release()
    _begin(opened, peer, watch)
    return opened


async def _means(peer: Peer, settings: Settings, wall: Callable[[], float]) -> Means:
    adapters: dict[str, Hypervisor] = {}
    descriptions: dict[str, Description] = {}
    for name in settings.hypervisors:
        directory = settings.directory / name
        directory.mkdir(mode=0o700, exist_ok=True)
        own = AdapterSettings(
            directory, peer.node, settings.options.get(name, {}), settings.durable, settings.state_id
        )
        adapters[name] = await hypervisors.load(name)(own)
        descriptions[name] = await adapters[name].describe()
    ledger = Ledger()
    journal = Journal(settings.directory, durable=settings.durable, records=ledger.records)
    for record in journal.load():
        ledger.apply(record)
    return Means(
        peer=peer,
        node=peer.node,
        boot_id=clock.boot_id(),
        directory=settings.directory,
        hypervisors=adapters,
        descriptions=descriptions,
        default_hypervisor=settings.hypervisors[0],
        claims=Claims(peer),
        journal=journal,
        ledger=ledger,
        wall=wall,
        starts=Turns(ClusterSettingsSpec().concurrent_starts),
        uids=settings.uids,
        aside=asyncio.to_thread if settings.durable else at_once,
    )


async def _documents(watch: _Watch) -> dict[str, Domain]:
    """Return all Domain documents by uuid: what there is when the watch is complete for the first time."""
    documents: dict[str, Domain] = {}
    try:
        async with asyncio.timeout(CONFIG_TIMEOUT_S):
            async for change in watch:
                if isinstance(change, Synced):
                    return documents
                document = document_of(change.value)
                if document is not None:
                    documents[document.metadata.uuid] = document
    except TimeoutError:
        pass
    raise ManorError(Kind.UNAVAILABLE, "config did not send its documents in time", hint="Is it running?")


async def _cluster_settings(opened: Opened, peer: Peer) -> None:
    """Learn the settings before the first start; later changes come by the watch."""
    watch = aiter(peer.watch("config.clustersettings.*"))
    async with asyncio.timeout(CONFIG_TIMEOUT_S):
        async for change in watch:
            if isinstance(change, Synced):
                break
            _take_settings(opened, change)
    opened.tasks.append(_task(_follow(watch, lambda change: _take_settings(opened, change))))


def _begin(opened: Opened, peer: Peer, watch: _Watch) -> None:
    domains = opened.domains

    def document(change: Change) -> None:
        domains.document(change.subject.partition("config.domain.")[2], document_of(change.value))

    def device(change: Change) -> None:
        _, domain, name = change.subject.split(".", 2)
        status = change.value if isinstance(change.value, DeviceStatus) else None
        attached.told(domains, domain, name, status)

    works: list[Coroutine[Any, Any, None]] = [
        _follow(watch, document),
        _follow(aiter(peer.watch("device.*.*")), device),
        _follow(aiter(peer.watch(f"config.node.{opened.means.node}")), lambda c: _take_node(opened, c)),
        _tell_capacity(opened),
        _pay_debts(opened.means),
    ]
    works += [_listen(domains, name, adapter) for name, adapter in opened.means.hypervisors.items()]
    opened.tasks += [_task(work) for work in works]


def _task(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(_report)
    return task


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.critical("a part of the lifecycle service ended", exc_info=task.exception())


async def _follow(watch: _Watch, take: Callable[[Change], None]) -> None:
    """Take every change. A bug about one object is logged and does not make us deaf to the others."""
    async for change in watch:
        if isinstance(change, Change):
            try:
                take(change)
            except Exception:
                log.exception("a bug while %s was taken", change.subject)


async def _listen(domains: Domains, name: str, adapter: Hypervisor) -> None:
    """Take every event of an adapter, as `_follow` does."""
    async for event in adapter.events():
        try:
            domains.happened(name, event)
        except Exception:
            log.exception("a bug while an event of %s was taken: %r", name, event)


def _take_settings(opened: Opened, change: Change) -> None:
    found = change.value.document if isinstance(change.value, DocumentChanged) else None
    spec = found.spec if isinstance(found, ClusterSettings) else ClusterSettingsSpec()
    opened.means.starts.limit = max(1, spec.concurrent_starts)
    opened.means.ledger.keep = max(1, spec.operations_keep)
    chosen, there = spec.default_hypervisor, opened.means.hypervisors
    opened.means.default_hypervisor = chosen if chosen in there else next(iter(there))


def _take_node(opened: Opened, change: Change) -> None:
    found = change.value.document if isinstance(change.value, DocumentChanged) else None
    opened.labels = dict(found.spec.labels) if isinstance(found, Node) else {}
    _tell_node(opened)


def _tell_node(opened: Opened) -> None:
    means = opened.means
    status = measure(means.node, means.boot_id, means.descriptions, opened.labels)
    means.peer.state.put(f"node.{means.node}", status)


async def _tell_capacity(opened: Opened) -> None:
    while True:
        _tell_node(opened)
        await asyncio.sleep(CAPACITY_PERIOD_S)


async def _pay_debts(means: Means) -> None:
    """Tell devices of runs that ended while it could not be told."""
    while True:
        await asyncio.sleep(DEBT_PERIOD_S)
        for uuid, incarnation in list(means.owed):
            try:
                gone = DomainGone(uuid=uuid, incarnation=incarnation)
                await means.peer.call(gone, Done, timeout=DEBT_PERIOD_S)
            except ManorError as error:
                log.info("devices cannot be told of the end of %s: %s", uuid, error)
                if error.kind not in (Kind.STALE, Kind.NOT_FOUND):
                    break
            means.owed.pop((uuid, incarnation), None)
