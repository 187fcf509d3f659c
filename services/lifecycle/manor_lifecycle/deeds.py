"""The deeds behind the steps of a plan: one coroutine for each act. They decide nothing.

A deed changes the outside first and then what `Life` says about it, and may be repeated. Its undo is another
deed. Deadlines, order, journal and undo are the driver's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.config import Applied, Delete, OwnerRecord, Reference
from manor_bus.wire.messages.config import Rename as RenameDocument
from manor_lifecycle import plugging
from manor_lifecycle.hypervisors import Attachment, Creation, GuestState
from manor_lifecycle.life import Life, Work, lived
from manor_lifecycle.means import Means
from manor_lifecycle.plan import Act, LiveChange, Step
from manor_lifecycle.reconcile import applied

CALL_TIMEOUT_S: Final = 25.0

NEXT_RUN: Final = frozenset({"restart", "reboot"})  # their ends are begins
log = logging.getLogger(__name__)

Deed = Callable[[Means, Life, Work, Step], Awaitable[None]]


# --- ownership ----------------------------------------------------------------------------------------


async def _write(means: Means, life: Life, change: Callable[[OwnerRecord], OwnerRecord]) -> OwnerRecord:
    """Replace the record by what `change` makes of it. What we wrote ourselves, before the reply got lost, is
    no obstacle."""
    try:
        held = await means.claims.write(life.uuid, change(means.record(life.uuid)))
    except ManorError as error:
        if error.kind is not Kind.STALE or means.record(life.uuid).node != means.node:
            raise
        held = await means.claims.write(life.uuid, change(means.record(life.uuid)))
    life.saved, life.stopped = bool(held.record.saved), held.record.stopped
    return held.record


def _set(**fields: object) -> Callable[[OwnerRecord], OwnerRecord]:
    return lambda record: msgspec.structs.replace(record, **fields)


async def _claim(means: Means, life: Life, work: Work, step: Step) -> None:
    spec = life.spec
    life.hypervisor = spec.hypervisor or means.default_hypervisor
    means.hypervisor(life)
    life.features = means.descriptions[life.hypervisor].features

    def claimed(record: OwnerRecord) -> OwnerRecord:
        return msgspec.structs.replace(
            record,
            incarnation=record.incarnation + 1,
            run=True,
            stopped=False,
            failed="",
            crashes=work.arguments.crashes,
            reboots=work.arguments.reboots,
            hypervisor=life.hypervisor,
            uid=means.uid_for(life),
            revision=life.revision,
        )

    record = await _write(means, life, claimed)
    life.incarnation = life.born = work.incarnation = record.incarnation
    life.cpus, life.memory_mib = spec.cpu.count, spec.memory.size_mib


async def _remember_stopped(means: Means, life: Life, work: Work, step: Step) -> None:
    await _write(means, life, _set(stopped=True))


async def _forget_stopped(means: Means, life: Life, work: Work, step: Step) -> None:
    if means.record(life.uuid).stopped:
        await _write(means, life, _set(stopped=False))


async def _keep(means: Means, life: Life, work: Work, step: Step) -> None:
    path = str(means.saved_path(life.uuid))
    await _write(means, life, _set(saved=path))
    work.result["path"] = path


async def _forget_saved(means: Means, life: Life, work: Work, step: Step) -> None:
    if means.record(life.uuid).saved:
        await _write(means, life, _set(saved=""))


async def _record_failure(means: Means, life: Life, work: Work, step: Step) -> None:
    await _write(means, life, _set(failed=work.arguments.failed, crashes=work.arguments.crashes))


async def _clear_guards(means: Means, life: Life, work: Work, step: Step) -> None:
    if means.claims.held.get(life.uuid) is not None:
        await _write(means, life, _set(failed="", crashes=0, reboots=0))


async def _delete_record(means: Means, life: Life, work: Work, step: Step) -> None:
    """What the hypervisor kept of its runs goes, too."""
    await means.hypervisor(life).remove(life.uuid)
    if means.claims.held.get(life.uuid) is not None:
        await means.claims.write(life.uuid, None)


# --- documents ----------------------------------------------------------------------------------------


async def _mark_deleting(means: Means, life: Life, work: Work, step: Step) -> None:
    """Nobody changes the document from now on; and what keeps it from being deleted is found before the run
    ends."""
    if means.record(life.uuid).deleting != work.id:
        await _write(means, life, _set(deleting=work.id))
    request = msgspec.structs.replace(_deletion(means, life, work), dry_run=True)
    await _of_caller(means, work, request, "")


async def _unmark_deleting(means: Means, life: Life, work: Work, step: Step) -> None:
    if means.record(life.uuid).deleting:
        await _write(means, life, _set(deleting=""))


async def _delete_document(means: Means, life: Life, work: Work, step: Step) -> None:
    try:
        await _of_caller(means, work, _deletion(means, life, work), f"{work.id}-document")
    except ManorError as error:
        if error.kind is not Kind.NOT_FOUND:
            raise


def _deletion(means: Means, life: Life, work: Work) -> Delete:
    """By uuid: whatever has the name by now is another one."""
    reference = Reference(kind="Domain", uuid=life.uuid)
    return Delete(references=(reference,), reason=_asked(means, work)[1], operation=work.id)


def _asked(means: Means, work: Work) -> tuple[str, str]:
    """Return who asked for the operation and why."""
    known = means.ledger.active.get(work.id)
    return (known.begun.caller, known.begun.reason or work.kind) if known else ("", work.kind)


async def _of_caller(means: Means, work: Work, request: Delete | RenameDocument, key: str) -> None:
    """Change a document for who asked for the operation: the history names them."""
    caller, _ = _asked(means, work)
    await means.peer.call(request, Applied, timeout=CALL_TIMEOUT_S, key=key, on_behalf_of=caller)


async def _rename(means: Means, life: Life, work: Work, step: Step) -> None:
    new = work.arguments.new_name
    request = RenameDocument(kind="Domain", name=life.name, new_name=new, reason=_asked(means, work)[1])
    await _of_caller(means, work, request, f"{work.id}-document")
    work.result["name"] = new


async def _rename_run(means: Means, life: Life, work: Work, step: Step) -> None:
    await means.hypervisor(life).rename(life.run, work.arguments.new_name)


# --- runs ---------------------------------------------------------------------------------------------


def _creation(means: Means, life: Life, work: Work) -> Creation:
    attachments = tuple(
        Attachment(connection.device, work.descriptors[name])
        for name, connection in life.connections.items()
        if name in work.descriptors
    )
    return Creation(life.run, life.name, life.made_of, attachments, means.record(life.uuid).uid)


def _is_there(means: Means, life: Life, work: Work) -> None:
    record = means.record(life.uuid)
    life.guest, life.running, life.paused = GuestState.PAUSED, life.made_of, work.arguments.paused
    life.started, life.restarts = means.wall(), record.crashes + record.reboots
    life.ending, life.acknowledged, life.silent = None, False, ""
    means.note(lived(life, means.boot_id))


def _is_paused(means: Means, life: Life, paused: bool) -> None:
    life.guest = GuestState.PAUSED if paused else GuestState.RUNNING
    if life.paused is not paused:
        life.paused = paused
        means.note(lived(life, means.boot_id))


async def _create(means: Means, life: Life, work: Work, step: Step) -> None:
    await means.hypervisor(life).create(_creation(means, life, work))
    _is_there(means, life, work)


async def _restore(means: Means, life: Life, work: Work, step: Step) -> None:
    path = means.saved_path(life.uuid)
    await means.hypervisor(life).restore(_creation(means, life, work), path)
    _is_there(means, life, work)


async def _resume(means: Means, life: Life, work: Work, step: Step) -> None:
    await means.hypervisor(life).resume(life.run)
    _is_paused(means, life, False)


async def _pause(means: Means, life: Life, work: Work, step: Step) -> None:
    await means.hypervisor(life).pause(life.run)
    _is_paused(means, life, True)


async def _reset(means: Means, life: Life, work: Work, step: Step) -> None:
    before = life.run
    incarnation = means.record(life.uuid).incarnation + 1
    await _write(means, life, _set(incarnation=incarnation))
    await means.hypervisor(life).reset(before, incarnation)
    life.incarnation = work.incarnation = incarnation
    means.note(lived(life, means.boot_id))


async def _destroy(means: Means, life: Life, work: Work, step: Step) -> None:
    if life.guest is not None or life.hypervisor in means.hypervisors:
        await means.hypervisor(life).destroy(life.run)
    forget_run(means, life)
    if means.record(life.uuid).run and work.kind not in NEXT_RUN:
        try:  # an end waits for nobody's disk: a mark that stays is taken off by the next end or start
            await _write(means, life, _set(run=False))
        except ManorError as error:
            log.warning("config does not know yet that %s ended: %s", life.name, error)


def forget_run(means: Means, life: Life) -> None:
    """The run is over: what was known about it is of no use any more."""
    life.guest, life.running, life.ending = None, None, None
    life.paused, life.acknowledged, life.silent = False, False, ""
    life.cpus = life.memory_mib = 0
    life.started = 0.0
    if life.uuid in means.ledger.live:
        means.note(lived(life, means.boot_id))


async def _abandon(means: Means, life: Life, work: Work, step: Step) -> None:
    forget_run(means, life)


async def _ask(means: Means, life: Life, work: Work, step: Step) -> None:
    life.acknowledged = False
    await means.hypervisor(life).shutdown(life.run)


async def _save(means: Means, life: Life, work: Work, step: Step) -> None:
    path = means.saved_path(life.uuid)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    await means.hypervisor(life).save(life.run, path, work.progress)
    life.guest = GuestState.PAUSED


async def _unsave(means: Means, life: Life, work: Work, step: Step) -> None:
    means.saved_path(life.uuid).unlink(missing_ok=True)
    if not life.paused and life.guest is not GuestState.ENDED:
        await means.hypervisor(life).resume(life.run)
        life.guest = GuestState.RUNNING


async def _remove_saved(means: Means, life: Life, work: Work, step: Step) -> None:
    await means.aside(lambda: means.saved_path(life.uuid).unlink(missing_ok=True))


async def _dump(means: Means, life: Life, work: Work, step: Step) -> None:
    path = means.dump_path(life)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    await means.hypervisor(life).coredump(life.run, path)
    work.result["coredump"] = str(path)


async def _set_memory(means: Means, life: Life, work: Work, step: Step) -> None:
    await means.hypervisor(life).set_memory(life.run, step.amount)
    if life.running is not None:
        change = LiveChange(type="memory", amount=step.amount)
        life.running = applied(life.running, life.spec, change)


async def _set_cpus(means: Means, life: Life, work: Work, step: Step) -> None:
    await means.hypervisor(life).set_cpus(life.run, step.amount)
    life.cpus = step.amount
    if life.running is not None:
        change = LiveChange(type="cpus", amount=step.amount)
        life.running = applied(life.running, life.spec, change)


async def _nmi(means: Means, life: Life, work: Work, step: Step) -> None:
    await means.hypervisor(life).nmi(life.run)


async def _wait(means: Means, life: Life, work: Work, step: Step) -> None:
    await asyncio.sleep(step.amount)


async def _await_end(means: Means, life: Life, work: Work, step: Step) -> None:
    bell = asyncio.Event()
    life.bell = bell.set
    try:
        while life.ending is None and life.guest in (GuestState.RUNNING, GuestState.PAUSED):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(life.spec.shutdown_repeat_s or None):
                    await bell.wait()
            if not bell.is_set():  # a guest that was booting has not heard it
                with contextlib.suppress(ManorError):
                    await means.hypervisor(life).shutdown(life.run)
            bell.clear()
    finally:
        life.bell = None


DEEDS: Final[Mapping[Act, Deed]] = MappingProxyType(
    {
        Act.REMEMBER_STOPPED: _remember_stopped,
        Act.FORGET_STOPPED: _forget_stopped,
        Act.WAIT: _wait,
        Act.CLAIM: _claim,
        Act.CONNECT: plugging.connect,
        Act.RELEASE: plugging.release,
        Act.CREATE: _create,
        Act.RESTORE: _restore,
        Act.ANNOUNCE: plugging.announce,
        Act.RESUME: _resume,
        Act.PAUSE: _pause,
        Act.ASK: _ask,
        Act.AWAIT_END: _await_end,
        Act.RESET: _reset,
        Act.DUMP: _dump,
        Act.DESTROY: _destroy,
        Act.RELEASE_ALL: plugging.release_all,
        Act.SAVE: _save,
        Act.UNSAVE: _unsave,
        Act.KEEP: _keep,
        Act.FORGET_SAVED: _forget_saved,
        Act.REMOVE_SAVED: _remove_saved,
        Act.PLUG: plugging.plug,
        Act.BEGIN_DETACH: plugging.begin_detach,
        Act.FORCE_DETACH: plugging.force_detach,
        Act.UNPLUG: plugging.unplug,
        Act.FORCE_UNPLUG: plugging.force_unplug,
        Act.SET_MEMORY: _set_memory,
        Act.SET_CPUS: _set_cpus,
        Act.RENAME: _rename,
        Act.RENAME_RUN: _rename_run,
        Act.MARK_DELETING: _mark_deleting,
        Act.UNMARK_DELETING: _unmark_deleting,
        Act.DELETE_DOCUMENT: _delete_document,
        Act.DELETE_RECORD: _delete_record,
        Act.RECORD_FAILURE: _record_failure,
        Act.CLEAR_GUARDS: _clear_guards,
        Act.ABANDON: _abandon,
        Act.NMI: _nmi,
    }
)
assert set(DEEDS) == set(Act), "an act without a deed"
