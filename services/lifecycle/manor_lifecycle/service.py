"""The lifecycle service: one coroutine per message. `operations` gives the answer, the driver acts.

Every verb answers with its operation as soon as its intent is on disk; whoever wants the outcome follows it.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import Any, Final

import msgspec

from manor_bus.peer.aio import Answer, Context, Peer
from manor_bus.peer.serving import Room
from manor_bus.wire.errors import (
    ErrorBody,
    Kind,
    ManorError,
    Problem,
    bad_request,
    conflict,
    denied_state,
    not_found,
)
from manor_bus.wire.messages import Done, Message, consoles
from manor_bus.wire.messages import lifecycle as m
from manor_bus.wire.messages.guests import GuestsEnded, GuestsShutDown, GuestsStart
from manor_bus.wire.messages.lifecycle import DomainStatus, Operation, OperationState
from manor_lifecycle import closing
from manor_lifecycle.domain.events import Asked, Cancelled
from manor_lifecycle.domain.going import begun
from manor_lifecycle.domain.states import VERBS, denial, state
from manor_lifecycle.domain.values import Arguments, Core, Doing
from manor_lifecycle.domain.verbs import Already, No, admit, may_cancel, under_way
from manor_lifecycle.domains import Domains
from manor_lifecycle.hypervisors.seen import devices_of
from manor_lifecycle.listening import Listening
from manor_lifecycle.opening import Opened, note_boot, open_all
from manor_lifecycle.operations import has_ended
from manor_lifecycle.owner import UNWRITTEN, Owner
from manor_lifecycle.publishing import Publishing
from manor_lifecycle.settings import Settings
from manor_lifecycle.site import Site

OWNS: Final = ("domain.*", "node.*", "operation.*", "console.*")
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
TIMEOUT_S_MAX: Final = 86_400.0
CANCEL_ANSWER_S: Final = 4.5
PART_DOMAINS: Final = 200
LIMIT_MAX: Final = 10_000


class Lifecycle:
    """The answers of the service."""

    def __init__(self, domains: Domains, site: Site, publishing: Publishing) -> None:
        self._domains = domains
        self._site = site
        self._operations = site.operations
        self._publishing = publishing

    # --- verbs ----------------------------------------------------------------------------------------

    async def start(self, request: m.DomainStart, context: Context) -> Operation:
        """Start, or print the plan."""
        arguments = Arguments(paused=request.paused)
        if request.dry_run:
            return self._rehearse("start", arguments, self._domains.find(request.name).core, context)
        return await self._verb("start", request, context, arguments)

    async def shutdown(self, request: m.DomainShutdown, context: Context) -> Operation:
        """Ask the guest to power off."""
        arguments = self._patience(request.name, request.timeout_s, request.force_after, stopped=True)
        arguments = msgspec.structs.replace(arguments, with_users=request.with_users)
        if request.with_users:
            for user in self._domains.find(request.name).core.users:
                first = msgspec.structs.replace(request, name=user)
                await self.shutdown(
                    first, msgspec.structs.replace(context, key=f"{context.key[:50]}-{user[:13]}")
                )
        return await self._verb("shutdown", request, context, arguments)

    async def reboot(self, request: m.DomainReboot, context: Context) -> Operation:
        """Ask the guest to power off, then start it again."""
        arguments = self._patience(request.name, request.timeout_s, request.force_after, stopped=False)
        return await self._verb("reboot", request, context, arguments)

    async def destroy(self, request: m.DomainDestroy, context: Context) -> Operation:
        """End the run; what is under way or queued is cancelled."""
        return await self._verb("destroy", request, context, Arguments(stopped=True))

    async def restore(self, request: m.DomainRestore, context: Context) -> Operation:
        """Continue from the saved state."""
        return await self._verb("restore", request, context, Arguments(paused=request.paused))

    async def rename(self, request: m.DomainRename, context: Context) -> Operation:
        """Give another name."""
        if not NAME.fullmatch(request.new_name):
            problem = Problem(
                path="new_name", value=request.new_name[:80], reason="not a name", allowed=NAME.pattern
            )
            raise bad_request("the new name cannot be used", problem, hint="Choose another name.")
        return await self._verb("rename", request, context, Arguments(new_name=request.new_name))

    async def delete(self, request: m.DomainDelete, context: Context) -> Operation:
        """Delete the document, and with force whatever there is of the domain."""
        return await self._verb("delete", request, context, Arguments(force=request.force))

    async def unplug(self, request: m.DomainUnplug, context: Context) -> Operation:
        """Detach a device that the document does not have any more."""
        core = self._domains.find(request.name).core
        if self._operations.get(context.key) is None:
            if core.wish is not None and request.device in {d.id for d in devices_of(core.spec)}:
                message = f"the document of {core.name} still has the device {request.device}"
                raise denied_state(message, hint="Remove it from the document; that detaches it.")
            if core.run is None or all(one.id != request.device for one in core.run.devices):
                message = f"domain {core.name} has no device {request.device}"
                raise not_found(message, hint=f"Look at it: manor describe domain {core.name}")
        arguments = Arguments(device=request.device, force=request.force)
        return await self._verb("unplug", request, context, arguments)

    def plain(self, kind: str) -> Answer:
        """Return the answer of a verb that says nothing beside the name."""

        async def answer(request: Any, context: Context) -> Operation:
            return await self._verb(kind, request, context, Arguments())

        return answer

    def _patience(self, name: str, timeout_s: float | None, force_after: bool, *, stopped: bool) -> Arguments:
        spec = self._domains.find(name).core.spec
        patience = spec.shutdown_timeout_s if timeout_s is None else timeout_s
        if not 0 <= patience <= TIMEOUT_S_MAX:
            allowed = f"0 to {TIMEOUT_S_MAX:.0f}"
            problem = Problem(path="timeout_s", value=str(patience), reason="out of range", allowed=allowed)
            raise bad_request("the time limit is out of range", problem, hint=f"Use {allowed} seconds.")
        return Arguments(timeout_s=patience, force_after=force_after, stopped=stopped)

    async def _verb(self, kind: str, request: Any, context: Context, arguments: Arguments) -> Operation:
        """Admit, journal, begin. A repetition is answered with the operation of the first time."""
        if not ID.fullmatch(context.key):
            problem = Problem(path="idempotencykey", value=context.key[:80], reason="not usable as an id")
            raise bad_request("the idempotency key names the operation", problem, hint=f"Use {ID.pattern}")
        before = self._operations.get(context.key)
        uuid = before.uuid if before is not None else self._domains.find(request.name).uuid
        repeated = self._operations.repeated(context.key, kind, uuid)
        if repeated is not None:
            await self._operations.commit()
            return self._operations.get(context.key) or repeated
        owner = self._domains.find(request.name)
        if kind == "rename":
            self._check_name_is_free(owner, arguments.new_name)
        doing = self._doing(kind, request, context, arguments)
        match admit(owner.core, kind, arguments):
            case No(error):
                raise error
            case Already(operation=other) if other:
                return self._operations.get(other) or await self._done(owner, doing)
            case Already():
                return await self._done(owner, doing)
            case yes:
                if yes.preempt:
                    self._preempt(owner, f"{kind} by {context.label}")
        return await self._begin(owner, doing)

    def _doing(self, kind: str, request: Any, context: Context, arguments: Arguments) -> Doing:
        return Doing(
            context.key,
            kind,
            arguments,
            who=context.label,
            actor=context.actor,
            reason=getattr(request, "reason", "")[:500],
            created=self._site.wall(),
        )

    async def _begin(self, owner: Owner, doing: Doing) -> Operation:
        """What is not on the disk is refused, and does not run later; an end runs without."""
        self._operations.opened(owner.uuid, owner.core.name, doing)
        try:
            await self._operations.commit()
        except ManorError as full:
            if doing.kind not in UNWRITTEN:
                await self._operations.withdrawn(doing, full.body(), self._site.wall())
                raise
        owner.take(Asked(doing))
        found = self._operations.get(doing.id)
        if found is None:
            raise ManorError(Kind.INTERNAL, f"operation {doing.id} was lost")
        return found

    def _check_name_is_free(self, owner: Owner, name: str) -> None:
        try:
            other = self._domains.find(name)
        except ManorError:
            return
        if other is not owner:
            raise conflict(f"there is a domain {name} already", hint="Choose another name.")

    def _preempt(self, owner: Owner, why: str) -> None:
        for doing in reversed(under_way(owner.core)):
            if may_cancel(owner.core, doing.id) is None:  # otherwise it ends by itself, soon
                message = f"made pointless by {why}"
                error = ErrorBody(kind=Kind.DENIED_STATE, message=message, hint="Ask again if you want it.")
                owner.take(Cancelled(doing.id, error))

    async def _done(self, owner: Owner, doing: Doing) -> Operation:
        """Write down an operation that had nothing to do, so that a repetition finds it."""
        core = owner.core
        done = replace(doing, result={"note": f"{core.name} is {state(core)} already"})
        at = self._site.wall()
        await self._operations.closed(core.uuid, core.name, done, OperationState.DONE, None, at)
        found = self._operations.get(doing.id)
        assert found is not None, "it was noted just now"
        return found

    def _rehearse(self, kind: str, arguments: Arguments, core: Core, context: Context) -> Operation:
        admitted = admit(replace(core, doing=None, waiting=()), kind, arguments)
        if isinstance(admitted, No):
            raise admitted.error
        doing = begun(core, Doing(context.key, kind, arguments), self._site.now())
        return Operation(
            id=context.key,
            kind=kind,
            target=core.name,
            uuid=core.uuid,
            state=OperationState.PENDING,
            steps=tuple(text for text, _ in doing.steps),
            who=context.label,
        )

    async def shut_down_guests(self, request: GuestsShutDown, context: Context) -> GuestsEnded:
        """End all guests of the node, each in its turn and time."""

        async def begin(owner: Owner, arguments: Arguments) -> Operation:
            own = msgspec.structs.replace(context, key=f"{context.key[:45]}-{owner.uuid[:18]}")
            one = m.DomainShutdown(name=owner.uuid, reason=request.reason or closing.REASON)
            return await self._verb("shutdown", one, own, arguments)

        async def outcome(operation: Operation) -> Operation:
            return await self.operation_follow(m.OperationFollow(id=operation.id), _deaf(context))

        return await closing.shut_down_guests(self._site, self._domains, request, context, begin, outcome)

    async def start_guests(self, request: GuestsStart, context: Context) -> Done:
        """Start what runs with the node, as its start does."""
        site, domains = self._site, self._domains
        wishes = (owner.core.wish for owner in domains.listed())
        note_boot(site, {wish.metadata.uuid: wish for wish in wishes if wish is not None})
        domains.place(replace(site.place, phase="open"))
        domains.wake()
        return Done()

    # --- questions ------------------------------------------------------------------------------------

    async def show(self, request: m.DomainShow, context: Context) -> DomainStatus:
        """Return the status of one domain."""
        return self._publishing.status(self._domains.find(request.name))

    async def story(self, request: m.DomainStory, context: Context) -> m.Story:
        """Return what happened to a domain."""
        return m.Story(entries=self._domains.find(request.name).core.story)

    async def listed(self, request: m.DomainsList, context: Context) -> Done:
        """Return the status of all domains, in parts."""
        owners = sorted(self._domains.listed(), key=lambda owner: owner.core.name)
        for at in range(0, len(owners), PART_DOMAINS):
            some = tuple(self._publishing.status(owner) for owner in owners[at : at + PART_DOMAINS])
            await context.part(m.DomainsPart(domains=some))
        return Done()

    async def screenshot(self, request: m.DomainScreenshot, context: Context) -> m.Screenshot:
        """Return a picture."""
        core = self._domains.find(request.name).core
        if (state(core), "screenshot") not in VERBS:
            raise denial(state(core), "screenshot")
        async with asyncio.timeout_at(context.deadline):
            content = await self._site.hypervisor(core).screenshot(core.key)
        return m.Screenshot(content=content)

    # --- operations -----------------------------------------------------------------------------------

    async def operation_list(self, request: m.OperationList, context: Context) -> m.OperationsListed:
        """Return operations, newest first."""
        if not 0 < request.limit <= LIMIT_MAX:
            problem = Problem(path="limit", value=str(request.limit), reason="out of range")
            raise bad_request("the limit is out of range", problem, hint=f"Use 1 to {LIMIT_MAX}.")
        found = self._operations.listed(request.target, request.active, request.limit)
        return m.OperationsListed(operations=found)

    async def operation_show(self, request: m.OperationShow, context: Context) -> Operation:
        """Return one operation."""
        found = self._operations.get(request.id)
        if found is None:
            raise not_found(f"there is no operation {request.id}", hint="List them: manor ops list")
        return found

    async def operation_follow(self, request: m.OperationFollow, context: Context) -> Operation:
        """Send a part at every change; reply when it has ended."""
        found = await self.operation_show(m.OperationShow(id=request.id), context)
        while not has_ended(found):
            await context.part(found)
            found = await self._changed(found)
        return found

    async def _changed(self, seen: Operation) -> Operation:
        """Return the operation when it is different from what was seen."""
        while True:
            now = self._operations.get(seen.id)
            if now is not None and now != seen:
                return now
            await self._operations.next_change(seen.id)

    async def operation_cancel(self, request: m.OperationCancel, context: Context) -> Operation:
        """Cancel, and wait a little for the end."""
        self._cancel(request.id, f"cancelled by {context.label}")
        try:
            async with asyncio.timeout(CANCEL_ANSWER_S):
                return await self.operation_follow(m.OperationFollow(id=request.id), _deaf(context))
        except TimeoutError:
            return await self.operation_show(m.OperationShow(id=request.id), context)

    def _cancel(self, id: str, why: str) -> None:  # noqa: A002 - the word of the message
        """Raises `not_found`, or `denied_state` when it is past its last chance."""
        found = self._operations.get(id)
        if found is None:
            raise not_found(f"there is no operation {id}", hint="List them: manor ops list")
        owner = self._domains.by_uuid.get(found.uuid)
        if has_ended(found) or owner is None:
            return
        if (refusal := may_cancel(owner.core, id)) is not None:
            raise ManorError(refusal.kind, refusal.message, hint=refusal.hint)
        owner.take(
            Cancelled(
                id, ErrorBody(kind=Kind.DENIED_STATE, message=why, hint="Ask for it again if you want it.")
            )
        )


def _deaf(context: Context) -> Context:
    """The same caller, who wants no parts."""
    deaf: Context = msgspec.structs.replace(context, send_part=lambda part: None)
    return deaf


def _answers(service: Lifecycle, listening: Listening) -> dict[type[Message], Answer]:
    plain: dict[str, type[Message]] = {
        "reset": m.DomainReset,
        "pause": m.DomainPause,
        "resume": m.DomainResume,
        "save": m.DomainSave,
        "discard": m.DomainDiscard,
        "nmi": m.DomainNmi,
        "clear": m.DomainClear,
    }
    return {
        m.DomainStart: service.start,
        m.DomainShutdown: service.shutdown,
        m.DomainReboot: service.reboot,
        m.DomainDestroy: service.destroy,
        m.DomainRestore: service.restore,
        m.DomainRename: service.rename,
        m.DomainUnplug: service.unplug,
        m.DomainDelete: service.delete,
        **{request: service.plain(kind) for kind, request in plain.items()},
        m.DomainShow: service.show,
        m.DomainStory: service.story,
        GuestsShutDown: service.shut_down_guests,
        GuestsStart: service.start_guests,
        m.DomainsList: service.listed,
        m.DomainScreenshot: service.screenshot,
        consoles.ConsoleAttach: listening.attach,
        consoles.ConsoleWrite: listening.write,
        consoles.ConsoleDetach: listening.detach,
        consoles.ConsoleRecall: listening.recall,
        m.OperationList: service.operation_list,
        m.OperationShow: service.operation_show,
        m.OperationFollow: service.operation_follow,
        m.OperationCancel: service.operation_cancel,
    }


def room(opened: Opened) -> Room:
    """Put the answers on what was opened."""
    service = Lifecycle(opened.domains, opened.site, opened.publishing)
    return Room(answers=_answers(service, opened.listening), owns=OWNS, close=opened.close)


async def open_room(peer: Peer, settings: Settings) -> Room:
    """Open the service: hear all witnesses, go on where the last instance ended, then serve."""
    return room(await open_all(peer, settings))
