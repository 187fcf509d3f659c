"""Opens the service: adapters, log, owner records, documents; looks at what is there; then the watches."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from manor_bus.peer.aio import Change, Peer, Synced
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.config import DocumentChanged
from manor_bus.wire.messages.devices import DeviceStatus
from manor_bus.wire.messages.documents import ClusterSettings, ClusterSettingsSpec, Domain, Node, RunPolicy
from manor_host import clock
from manor_lifecycle import hypervisors
from manor_lifecycle.capacity import measure
from manor_lifecycle.console import Consoles
from manor_lifecycle.domain.going import resumed
from manor_lifecycle.domain.values import Core, Doing, Place
from manor_lifecycle.domains import Domains, fresh, uuids
from manor_lifecycle.hypervisors import AdapterSettings, Description, Hypervisor
from manor_lifecycle.hypervisors.seen import Seen
from manor_lifecycle.listening import Listening
from manor_lifecycle.operations import Booted, Numbered, Operations, doing_of
from manor_lifecycle.publishing import Publishing
from manor_lifecycle.records import Records, Uids, is_mine
from manor_lifecycle.settings import Settings
from manor_lifecycle.site import Site, Turns, at_once

CONFIG_TIMEOUT_S: Final = 60.0
CAPACITY_PERIOD_S: Final = 30.0
CALLS_MAX: Final = 256  # asked of devices at once
log = logging.getLogger(__name__)

_Watch = AsyncIterator[Change | Synced]
_There = dict[str, tuple[str, Seen]]


@dataclass
class Opened:
    """The open service: what answers need, and how to close it."""

    site: Site
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
        await self.domains.close()
        await self.consoles.close()
        self.publishing.close()
        for hypervisor in self.site.hypervisors.values():
            await hypervisor.close()
        await self.site.operations.close()


async def open_all(peer: Peer, settings: Settings, wall: Callable[[], float] = time.time) -> Opened:
    """Open everything and look at it. Raises `unavailable` when config does not answer in time."""
    for folder in ("", "saved", "dumps"):
        (settings.directory / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    peer.state.hold()  # until we know of every domain
    publishing = Publishing(peer)
    site = await _site(peer, settings, wall, publishing)
    domains = Domains(site, publishing)
    consoles = Consoles(peer.publish)
    listening = Listening(site, domains, consoles)
    publishing.look, publishing.forget = listening.look, listening.forget
    publishing.reserve = lambda uuid, number: site.operations.note(Numbered(uuid=uuid, generation=number))
    opened = Opened(site, domains, publishing, consoles, listening)
    await site.records.load(CONFIG_TIMEOUT_S)
    await _cluster_settings(opened, peer)
    watch = aiter(peer.watch("config.domain.*"))
    documents = await _documents(watch)
    note_boot(site, documents)
    await _take_in(domains, site, documents)
    publishing.flush()
    peer.state.release()
    _begin(opened, peer, watch)
    domains.wake()
    return opened


async def _site(peer: Peer, settings: Settings, wall: Callable[[], float], publishing: Publishing) -> Site:
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
    operations = Operations(settings.directory, publishing.told, durable=settings.durable)
    operations.load()
    features = {name: found.features for name, found in descriptions.items()}
    records = Records(peer)
    return Site(
        peer=peer,
        place=Place(peer.node, clock.boot_id(), features, settings.hypervisors[0]),
        directory=settings.directory,
        hypervisors=adapters,
        descriptions=descriptions,
        records=records,
        operations=operations,
        wall=wall,
        starts=Turns(ClusterSettingsSpec().concurrent_starts),
        calls=Turns(CALLS_MAX),
        uids=Uids(records, settings.uids),
        aside=asyncio.to_thread if settings.durable else at_once,
    )


def note_boot(site: Site, documents: Mapping[str, Domain]) -> None:
    """The first start of the service in a boot of the node notes which domains start with it; by uuid."""
    operations, place = site.operations, site.place
    if operations.booted.boot_id != place.boot_id:
        due = [uuid for uuid, found in documents.items() if found.spec.run is RunPolicy.ON_BOOT]
        number = operations.booted.number + 1
        operations.note(Booted(boot_id=place.boot_id, uuids=tuple(due), number=number))
    booted = operations.booted
    site.place = replace(place, booted=frozenset(booted.uuids), session=f"{booted.boot_id}/{booted.number}")


async def _look(site: Site) -> _There:
    there: _There = {}
    for name, adapter in site.hypervisors.items():
        for uuid, seen in (await adapter.look()).items():
            if uuid not in there or seen.run is not None:
                there[uuid] = name, seen
    return there


async def _take_in(domains: Domains, site: Site, documents: Mapping[str, Domain]) -> None:
    """Take in every domain that anybody knows of. `documents` are by uuid."""
    there, records = await _look(site), site.records.known
    queues: dict[str, list[Doing]] = {}
    for record in list(site.operations.open.values()):
        queues.setdefault(record.uuid, []).append(doing_of(record))
    images = await site.aside(lambda: {path.stem for path in (site.directory / "saved").glob("*.state")})
    for uuid in uuids(documents, records, there, queues, site.operations.generations):
        hypervisor, seen = there.get(uuid, ("", Seen(uuid)))
        mine = is_mine(documents.get(uuid), records.get(uuid), site.place.node)
        if seen.run is None and uuid not in queues and not mine:
            site.operations.forget(uuid)
            continue
        core = fresh(site, uuid, documents.get(uuid), seen, hypervisor)
        if uuid in images:
            core = await _with_image(site, core)
        domains.add(_with_operations(site, core, queues.get(uuid, [])))
    for owner in domains.by_uuid.values():
        for doing in (owner.core.doing, *owner.core.waiting):
            if doing is not None:
                site.operations.changed(owner.uuid, owner.core.name, doing, cancellable=True)
        domains.publish(owner)


async def _with_image(site: Site, core: Core) -> Core:
    try:
        return replace(core, image=await site.hypervisor(core).saved_image(site.saved_path(core.uuid)))
    except ManorError as error:
        log.warning("the saved state of %s: %s", core.name, error)
        return core


def _with_operations(site: Site, core: Core, queue: list[Doing]) -> Core:
    begun = next((one for one in queue if one.begun), None)
    rest = tuple(one for one in queue if one is not begun)
    if begun is not None:
        core = replace(core, doing=resumed(core, begun, site.now()))
        site.operations.opened(core.uuid, core.name, core.doing)  # type: ignore[arg-type]
    return replace(core, waiting=rest)


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


def document_of(value: object) -> Domain | None:
    """Return the Domain document of a watched change, or None."""
    found = value.document if isinstance(value, DocumentChanged) else None
    return found if isinstance(found, Domain) else None


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
    links: dict[str, tuple[str, int, str]] = {}  # subject -> key of the last connection under it

    def document(change: Change) -> None:
        domains.document(change.subject.partition("config.domain.")[2], document_of(change.value))

    def device(change: Change) -> None:
        status = change.value if isinstance(change.value, DeviceStatus) else None
        before = links.pop(change.subject, None)
        key = (status.key.uuid, status.key.incarnation, status.key.id) if status is not None else before
        if before is not None and before != key:
            domains.link(None, before)
        if key is not None:
            domains.link(status, key)
        if status is not None and key is not None:
            links[change.subject] = key

    works: list[Coroutine[Any, Any, None]] = [
        _follow(watch, document),
        _follow(aiter(peer.watch("device.*.*")), device),
        _follow(aiter(peer.watch(f"config.node.{opened.site.place.node}")), lambda c: _take_node(opened, c)),
        _tell_capacity(opened),
    ]
    works += [_listen(domains, name, adapter) for name, adapter in opened.site.hypervisors.items()]
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
    site = opened.site
    site.starts.limit = max(1, spec.concurrent_starts)
    site.operations.keep = max(1, spec.operations_keep)
    chosen, there = spec.default_hypervisor, site.hypervisors
    default = chosen if chosen in there else next(iter(there))
    if site.place.default_hypervisor != default:
        opened.domains.place(replace(site.place, default_hypervisor=default))


def _take_node(opened: Opened, change: Change) -> None:
    found = change.value.document if isinstance(change.value, DocumentChanged) else None
    opened.labels = dict(found.spec.labels) if isinstance(found, Node) else {}
    _tell_node(opened)


def _tell_node(opened: Opened) -> None:
    site, place = opened.site, opened.site.place
    status = measure(place.node, place.boot_id, site.descriptions, opened.labels)
    site.peer.state.put(f"node.{place.node}", status)


async def _tell_capacity(opened: Opened) -> None:
    while True:
        _tell_node(opened)
        await asyncio.sleep(CAPACITY_PERIOD_S)
