"""After a start: hear the witnesses of every domain and carry out what `recovery` made of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.documents import Domain
from manor_bus.wire.messages.lifecycle import OperationState, State
from manor_lifecycle import machine, recovery
from manor_lifecycle.deeds import forget_run
from manor_lifecycle.domains import Domains
from manor_lifecycle.hypervisors import Ended, GuestState, Run, RunningDomain, Seen
from manor_lifecycle.ledger import Closed, Open, Stepped
from manor_lifecycle.life import Connection, Life, Work, learn, lived
from manor_lifecycle.machine import Trigger
from manor_lifecycle.means import Means
from manor_lifecycle.ownership import is_mine
from manor_lifecycle.plan import Arguments, devices_of
from manor_lifecycle.recovery import Recovered, Witnesses

READ_TIMEOUT_S: Final = 10.0
LEFTOVER_TIMEOUT_S: Final = 35.0
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """One guest, and the adapter that has it."""

    hypervisor: str
    domain: RunningDomain
    seen: Seen


async def awaken(domains: Domains, means: Means, documents: Mapping[str, Domain]) -> None:
    """Take in every domain that anybody knows of. `documents` are by uuid."""
    found = await _list(means)
    queues: dict[str, list[Open]] = {}
    for operation in means.ledger.active.values():
        queues.setdefault(operation.begun.uuid, []).append(operation)
    uuids = dict.fromkeys([*documents, *means.claims.held, *means.ledger.live, *queues, *found])
    for uuid in uuids:
        if uuid in found and not found[uuid].domain.ours:
            domains.foreign(found[uuid].hypervisor, uuid, found[uuid].domain)
        else:
            await _take_in(domains, means, uuid, documents.get(uuid), found.get(uuid), queues.get(uuid, ()))
    for uuid in means.ledger.generations.keys() - domains.by_uuid.keys():
        means.ledger.forget(uuid)
    await _tidy(means, found)
    if means.ledger.boot_id != means.boot_id:  # the node was started
        domains.starts_with_node()
    for life in list(domains.by_uuid.values()):
        domains.poke(life)


async def _tidy(means: Means, found: Mapping[str, Found]) -> None:
    """Let the records say what is: no run that is not there, no deletion that nobody carries out."""
    writes = []
    for uuid, held in means.claims.held.items():
        record = held.record
        run = record.run and uuid in found
        deleting = record.deleting if record.deleting in means.ledger.active else ""
        if record.node == means.node and (run, deleting) != (record.run, record.deleting):
            writes.append(
                means.claims.write(uuid, msgspec.structs.replace(record, run=run, deleting=deleting))
            )
    for outcome in await asyncio.gather(*writes, return_exceptions=True):
        if isinstance(outcome, ManorError):
            log.warning("an ownership record was not tidied: %s", outcome)


async def _list(means: Means) -> dict[str, Found]:
    found: dict[str, Found] = {}
    for name, hypervisor in means.hypervisors.items():
        there = await hypervisor.look()
        for domain in await hypervisor.domains():
            found[domain.uuid] = Found(name, domain, there.get(domain.uuid, Seen(domain.uuid)))
    return found


async def _take_in(
    domains: Domains,
    means: Means,
    uuid: str,
    document: Domain | None,
    found: Found | None,
    queue: Iterable[Open],
) -> None:
    waiting = list(queue)
    held = means.claims.held.get(uuid)
    listed = found.domain if found else None
    expected = means.ledger.live.get(uuid)
    if listed is None and not waiting and expected is None and not is_mine(document, held, means.node):
        return
    if document is None and listed is None and not waiting and not (held and held.record.saved):
        means.ledger.forget(uuid)
        return
    seen = Witnesses(
        node=means.node,
        boot_id=means.boot_id,
        operation=waiting[0] if waiting else None,
        lived=expected,
        listed=listed,
        record=held.record if held else None,
    )
    recovered = recovery.recover(seen)
    life = await _life(means, seen, recovered, uuid, document, found)
    domains.add(life)
    if recovered.diverged:
        log.warning("DIVERGED: domain %s: %s", life.name, recovered.diverged)
        life.reason = f"DIVERGED: {recovered.diverged}"
    if recovered.leftover:
        await _destroy_leftover(means, life, recovered.leftover)
    _resume(domains, means, life, seen, recovered, waiting)


async def _life(
    means: Means,
    seen: Witnesses,
    recovered: Recovered,
    uuid: str,
    document: Domain | None,
    found: Found | None,
) -> Life:
    """Build what is known of the domain."""
    record, expected, listed = seen.record, seen.lived, seen.listed
    name = document.metadata.name if document else ""
    name = (
        name or (listed.name if listed else "") or (seen.operation.begun.target if seen.operation else uuid)
    )
    life = Life(uuid, name, document=document, state=recovered.state, reason=recovered.reason)
    life.hypervisor = found.hypervisor if found else (record.hypervisor if record else "")
    life.hypervisor = life.hypervisor or means.default_hypervisor
    if life.hypervisor in means.descriptions:
        life.features = means.descriptions[life.hypervisor].features
    life.incarnation = recovered.incarnation or (record.incarnation if record else 0)
    same = expected is not None and expected.incarnation == life.incarnation
    life.born = expected.born if expected is not None and same else life.incarnation
    life.generation = means.ledger.generations.get(uuid, 0)
    life.saved, life.stopped = bool(record and record.saved), bool(record and record.stopped)
    life.restarts = record.crashes + record.reboots if record else 0
    life.guest = recovered.guest
    life.paused = expected.paused if expected is not None else recovered.guest is GuestState.PAUSED
    if listed is not None:
        life.cpus, life.memory_mib, life.started = listed.cpus, listed.memory_mib, listed.started
    if life.started == 0.0 and expected is not None:
        life.started = expected.started
    if found is not None and life.guest is not None:
        learn(life, found.seen)
        if life.running is None:  # an older version of this service made it
            life.running = life.spec
        devices = {device.id: device for device in devices_of(life.running)}
        life.connections = {
            id_: Connection(devices[id_], 0) for id_ in found.domain.devices if id_ in devices
        }
    elif expected is not None:  # it is gone: whatever was connected is to be released
        life.connections = {device.id: Connection(device, 0) for device in devices_of(life.spec)}
    return life


async def _destroy_leftover(means: Means, life: Life, incarnation: int) -> None:
    try:
        async with asyncio.timeout(LEFTOVER_TIMEOUT_S):
            await means.hypervisor(life).destroy(Run(life.uuid, incarnation))
    except (ManorError, TimeoutError) as error:
        log.error("run %d of %s cannot be ended: %s", incarnation, life.name, error)  # noqa: TRY400
        life.state, life.reason = (
            State.FAILED,
            f"run {incarnation} is still there and cannot be ended: {error}",
        )


def _resume(
    domains: Domains,
    means: Means,
    life: Life,
    seen: Witnesses,
    recovered: Recovered,
    waiting: list[Open],
) -> None:
    if recovered.superseded:
        _give_way(domains, means, life, recovered, waiting)
        return
    for number, found in enumerate(waiting):
        begun = found.begun
        work = Work(
            begun.id,
            begun.kind,
            begun.arguments,
            internal=begun.who.startswith("lifecycle@"),
            attempt=begun.attempt + 1,
        )
        if number == 0:
            work.undo_first = recovered.undo
            work.close_with = recovered.error if recovered.operation == "close" else None
            work.enter = recovered.state is begun.before
            work.renewed = recovery.is_renewed(seen.lived, seen.listed, found)
            work.incarnation = found.incarnation if work.renewed else 0
            domains.driver.attempt(life, work, begun.before)
            if work.renewed:
                means.note(Stepped(id=work.id, index=0, incarnation=work.incarnation))
        domains.driver.adopt(life, work)
    if recovered.ended is not None:
        kept = recovered.guest is GuestState.ENDED
        life.ending = Ended(life.run, recovered.ended, "while the service was away", kept)
    elif not waiting and life.guest is None and life.state is not State.CRASHED:
        if recovered.undo:
            means.owed[life.uuid, life.born] = None
        forget_run(means, life)
    elif not waiting and life.uuid not in means.ledger.live:
        means.note(lived(life, means.boot_id))


def _give_way(domains: Domains, means: Means, life: Life, recovered: Recovered, waiting: list[Open]) -> None:
    """Another node owns the domain now: our copy of it ends (rule L15)."""
    error = ManorError(Kind.STALE, recovered.reason, hint="Ask that node.").body()
    for found in waiting:
        state, at = OperationState.FAILED, means.wall()
        means.note(Closed(id=found.begun.id, state=state, at=at, error=error))
    if recovered.guest is None:
        life.state, _ = machine.step(life.state, Trigger.GONE)
        domains.remove(life)
        return
    life.state, _ = machine.step(life.state, Trigger.LEASE_TAKEN)
    work = Work(f"yield-{life.uuid}-{life.incarnation}", "destroy", Arguments(), internal=True, enter=False)
    domains.driver.begin(life, work, who=f"lifecycle@{means.node}", reason=recovered.reason)
