"""Carries the steps of a plan out: one coroutine for each act. They decide nothing and remember nothing; each
may be repeated, and the owner of the domain brings deadline and order.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import msgspec

from manor_bus.wire.errors import Kind, ManorError, not_found
from manor_bus.wire.messages import Done, Message
from manor_bus.wire.messages.config import Applied, Delete, OwnerRecord, Reference
from manor_bus.wire.messages.config import Rename as RenameDocument
from manor_bus.wire.messages.devices import (
    Connect,
    Connected,
    Descriptor,
    Detach,
    DeviceKey,
    DomainGone,
    Refused,
    Released,
)
from manor_bus.wire.messages.documents import Channel, Disk, Nic
from manor_lifecycle.domain.events import KeptIs
from manor_lifecycle.domain.pieces import device_named, spec_for
from manor_lifecycle.domain.steps import Act, Step
from manor_lifecycle.domain.values import UNREADABLE, Core, Doing, Held
from manor_lifecycle.hypervisors import Attachment, Creation
from manor_lifecycle.hypervisors.seen import Device, Run
from manor_lifecycle.site import Site

CALL_TIMEOUT_S: Final = 12.0
GUEST_UNPLUG_S: Final = 10.0  # rule D5
TAKES_A_TURN: Final = frozenset({Act.CREATE, Act.LOAD})
PROVIDER_TURN_S: Final = 1.0  # whoever waits longer for a provider keeps nobody else waiting


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step that worked brought back."""

    held: Held | None = None
    kept: KeptIs | None = None
    result: Mapping[str, str] = field(default_factory=dict)


NOTHING: Final = Outcome()
NOT_DOING: Final = Doing("tidy", "tidy")


@dataclass(frozen=True, slots=True)
class Work:
    """One step of one domain, as it is known now. `progress` takes 0 to 1."""

    site: Site
    core: Core
    doing: Doing
    step: Step
    progress: Callable[[float], None]

    @property
    def born(self) -> int:
        """The run whose devices are meant, by its first incarnation."""
        run = self.core.run
        ours = run is not None and run.run.incarnation != 0 and run.run.incarnation >= self.doing.incarnation
        return (
            run.born if run is not None and (ours or not self.doing.incarnation) else self.doing.incarnation
        )

    @property
    def key(self) -> DeviceKey:
        """The device that the step is about."""
        return DeviceKey(uuid=self.core.uuid, incarnation=self.born, id=self.step.device)

    def generation(self) -> int:
        """Return the generation of its connection, 0 when it is not known."""
        link = self.core.links.get((self.born, self.step.device))
        return link.generation if link is not None else 0


Carry = Callable[[Work], Awaitable[Outcome | None]]


async def carry(work: Work) -> Outcome:
    """Carry a step out. Raises ManorError, and TimeoutError when it took longer than its bounds say; waiting
    for a turn is no part of that."""
    async with contextlib.AsyncExitStack() as stack:
        if work.step.act in TAKES_A_TURN:
            await stack.enter_async_context(work.site.starts.turn())
        await stack.enter_async_context(asyncio.timeout(work.step.bounds.timeout_s))
        return await CARRIES[work.step.act](work) or NOTHING


# --- the owner record and documents ------------------------------------------------------------------------


async def _write(work: Work, record: OwnerRecord | None) -> Outcome:
    core = work.core
    return Outcome(kept=await work.site.records.write(core.uuid, core.revision, record))


async def _note(work: Work) -> Outcome:
    core = work.core
    record = core.record
    if record is None or record.node == UNREADABLE:
        record = OwnerRecord(node=core.place.node)
    return await _write(work, msgspec.structs.replace(record, **dict(work.step.fields)))


async def _claim(work: Work) -> Outcome:
    core, said = work.core, work.doing.arguments
    wished = core.wish.spec.hypervisor if core.wish is not None else ""
    record = msgspec.structs.replace(
        core.kept,
        node=core.place.node,
        incarnation=work.doing.incarnation,
        run=True,
        ended=max(core.kept.ended, work.doing.incarnation - 1),
        stopped=False,
        failed="",
        crashes=said.crashes,
        reboots=said.reboots,
        hypervisor=wished or core.place.default_hypervisor,
        uid=work.site.uids.of(core.uuid),
        revision=core.wish.metadata.revision if core.wish is not None else 0,
        boot=core.place.session,
        name=core.name,
    )
    return await _write(work, record)


async def _delete_record(work: Work) -> Outcome:
    return await _write(work, None)


async def _delete_document(work: Work) -> None:
    with _is_gone():
        await _config(work, _deletion(work))


async def _try_delete(work: Work) -> None:
    """What keeps a document from being deleted is found before its run ends."""
    request = msgspec.structs.replace(_deletion(work), dry_run=True)
    with _is_gone():
        await work.site.peer.call(request, Applied, timeout=25, on_behalf_of=work.doing.actor)


def _deletion(work: Work) -> Delete:
    """By uuid: whatever has the name by now is another one."""
    reference = Reference(kind="Domain", uuid=work.core.uuid)
    return Delete(references=(reference,), reason=work.doing.reason, operation=work.doing.id)


async def _rename(work: Work) -> Outcome:
    new = work.doing.arguments.new_name
    request = RenameDocument(kind="Domain", name=work.core.name, new_name=new, reason=work.doing.reason)
    await _config(work, request)
    return Outcome(result={"name": new})


async def _config(work: Work, request: Message) -> None:
    key = f"{work.doing.id}-document"[-64:]  # the same whenever it is asked again
    await work.site.peer.call(request, Applied, timeout=25, key=key, on_behalf_of=work.doing.actor)


@contextlib.contextmanager
def _is_gone() -> Any:
    """What is not there needs no removal."""
    try:
        yield
    except ManorError as error:
        if error.kind not in (Kind.NOT_FOUND, Kind.STALE):
            raise


# --- runs --------------------------------------------------------------------------------------------------


def _creation(work: Work) -> Creation:
    core, doing = work.core, work.doing
    held = [one for one in doing.held.values()]
    spec = spec_for(core, doing)
    attachments = tuple(Attachment(one.device, one.descriptor) for one in held)
    return Creation(Run(core.uuid, doing.incarnation), core.name, spec, attachments, core.kept.uid)


def _adapter(work: Work) -> Any:
    return work.site.hypervisor(work.core)


async def _create(work: Work) -> None:
    await _adapter(work).create(_creation(work))


async def _load(work: Work) -> None:
    path = work.site.saved_path(work.core.uuid)
    await _adapter(work).restore(_creation(work), path, work.core.kept.image)


async def _destroy(work: Work) -> None:
    await _adapter(work).destroy(work.core.key)


async def _reset(work: Work) -> None:
    await _adapter(work).reset(work.core.key, work.doing.incarnation)


async def _save(work: Work) -> Outcome:
    path = work.site.saved_path(work.core.uuid)
    await _adapter(work).save(work.core.key, path, work.progress, work.doing.id)
    return Outcome(result={"path": str(path)})


async def _remove_image(work: Work) -> None:
    """Only the one that is meant goes; another one under that name is left alone."""
    path, image = work.site.saved_path(work.core.uuid), work.core.image
    with _is_gone():
        there = await _adapter(work).saved_image(path)
        if image is None or there.id == image.id:
            path.unlink(missing_ok=True)


async def _dump(work: Work) -> Outcome:
    path = work.site.dump_path(work.core)
    await _adapter(work).coredump(work.core.key, path)
    return Outcome(result={"coredump": str(path)})


async def _remove_leftovers(work: Work) -> None:
    await _adapter(work).remove(work.core.uuid)


async def _rename_run(work: Work) -> None:
    await _adapter(work).rename(work.core.key, work.doing.arguments.new_name)


async def _resume(work: Work) -> None:
    await _adapter(work).resume(work.core.key)


async def _pause(work: Work) -> None:
    await _adapter(work).pause(work.core.key)


async def _ask(work: Work) -> None:
    await _adapter(work).shutdown(work.core.key)


async def _nmi(work: Work) -> None:
    await _adapter(work).nmi(work.core.key)


async def _set_memory(work: Work) -> None:
    await _adapter(work).set_memory(work.core.key, work.step.amount)


async def _set_cpus(work: Work) -> None:
    await _adapter(work).set_cpus(work.core.key, work.step.amount)


# --- devices -----------------------------------------------------------------------------------------------


def _device(work: Work) -> Device:
    found = device_named(work.core, work.doing, work.step.device)
    if found is None:
        raise not_found(f"the document has no device {work.step.device} any more")
    return found


async def _tell(work: Work, request: Message) -> None:
    await work.site.peer.call(request, Done, timeout=CALL_TIMEOUT_S)


async def _connect(work: Work) -> Outcome:
    device = _device(work)
    request = Connect(
        key=work.key,
        domain=work.core.name,
        type="disk" if isinstance(device, Disk) else "nic" if isinstance(device, Nic) else "channel",
        disk=device if isinstance(device, Disk) else None,
        nic=device if isinstance(device, Nic) else None,
        channel=device if isinstance(device, Channel) else None,
        uid=work.core.kept.uid,
    )
    doing = work.doing
    key = f"{doing.id}-{doing.attempts}-{doing.tries}-{work.born}-{device.id}"
    timeout = work.step.bounds.timeout_s - 2
    async with work.site.calls.turn():
        called = asyncio.ensure_future(work.site.peer.call(request, Descriptor, timeout=timeout, key=key))
        try:
            await asyncio.wait({called}, timeout=PROVIDER_TURN_S)
        except asyncio.CancelledError:
            called.cancel()
            raise
    return Outcome(held=Held(device, await called))


async def _announce(work: Work) -> None:
    held = work.doing.held.get(work.step.device)
    generation = held.descriptor.generation if held is not None else work.generation()
    await _tell(work, Connected(key=work.key, generation=generation))


async def _release(work: Work) -> None:
    with _is_gone():
        generation = work.generation()
        if generation:
            await _tell(work, Released(key=work.key, generation=generation))
        else:
            await _tell(work, Detach(key=work.key, mode="force"))


async def _release_all(work: Work) -> None:
    with _is_gone():
        await _tell(work, DomainGone(uuid=work.core.uuid, incarnation=work.step.amount))


async def _begin_detach(work: Work) -> None:
    await _tell(work, Detach(key=work.key, generation=work.generation()))


async def _plug(work: Work) -> None:
    held = work.doing.held[work.step.device]
    await _adapter(work).plug(work.core.key, Attachment(held.device, held.descriptor))


async def _unplug(work: Work) -> None:
    """Ask the guest to let a device go; a refusal is passed on to devices."""
    adapter, name = _adapter(work), work.step.device
    try:
        await adapter.unplug(work.core.key, name, force=False, timeout_s=GUEST_UNPLUG_S)
    except ManorError as refusal:
        if refusal.kind in (Kind.DENIED_STATE, Kind.TIMEOUT):
            told = Refused(key=work.key, generation=work.generation(), reason=refusal.message, pending=True)
            with contextlib.suppress(ManorError):  # devices finds it out by itself after its time limit
                await work.site.peer.call(told, Done, timeout=CALL_TIMEOUT_S / 2)
        raise


async def _force_unplug(work: Work) -> None:
    await _adapter(work).unplug(work.core.key, work.step.device, force=True, timeout_s=GUEST_UNPLUG_S)


CARRIES: Final[Mapping[Act, Carry]] = MappingProxyType(
    {
        Act.NOTE: _note,
        Act.CLAIM: _claim,
        Act.CONNECT: _connect,
        Act.CREATE: _create,
        Act.LOAD: _load,
        Act.ANNOUNCE: _announce,
        Act.RESUME: _resume,
        Act.PAUSE: _pause,
        Act.ASK: _ask,
        Act.RESET: _reset,
        Act.DUMP: _dump,
        Act.DESTROY: _destroy,
        Act.RELEASE: _release,
        Act.RELEASE_ALL: _release_all,
        Act.SAVE: _save,
        Act.REMOVE_IMAGE: _remove_image,
        Act.PLUG: _plug,
        Act.BEGIN_DETACH: _begin_detach,
        Act.UNPLUG: _unplug,
        Act.FORCE_UNPLUG: _force_unplug,
        Act.SET_MEMORY: _set_memory,
        Act.SET_CPUS: _set_cpus,
        Act.RENAME: _rename,
        Act.RENAME_RUN: _rename_run,
        Act.TRY_DELETE: _try_delete,
        Act.DELETE_DOCUMENT: _delete_document,
        Act.DELETE_RECORD: _delete_record,
        Act.REMOVE_LEFTOVERS: _remove_leftovers,
        Act.NMI: _nmi,
    }
)
assert set(CARRIES) == set(Act), "an act that nobody carries out"
