"""The owner of one domain: gives its core what happens, and carries out what the core wants, in order.

It decides and remembers nothing. One task at most is under way for a domain: a step, or a look.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from manor_bus.wire.errors import ErrorBody, Kind, ManorError
from manor_bus.wire.messages.lifecycle import DomainStatus
from manor_lifecycle import carrying
from manor_lifecycle.carrying import NOT_DOING, Work
from manor_lifecycle.domain.core import step
from manor_lifecycle.domain.events import (
    Action,
    Close,
    Do,
    Event,
    Journal,
    KeptIs,
    Look,
    Progress,
    Publish,
    SeenIs,
    StepEnded,
    Stop,
    Tell,
    Tick,
    WakeAt,
)
from manor_lifecycle.domain.steps import Step
from manor_lifecycle.domain.values import Core, Doing
from manor_lifecycle.domain.verbs import may_cancel
from manor_lifecycle.hypervisors.seen import SavedImage, Seen
from manor_lifecycle.site import Site

LOOK_TIMEOUT_S: Final = 15.0
LOOKS_AT_IMAGES: Final = frozenset({"save", "restore", "discard", "delete"})
UNWRITTEN: Final = frozenset({"destroy", "shutdown", "resume", "pause", "end"})  # a full disk stops none
log = logging.getLogger(__name__)


class Owner:
    """See the module. `published` is called when the domain may look different."""

    def __init__(self, site: Site, core: Core, published: Callable[[Owner], None]) -> None:
        self._site, self.core, self._published = site, core, published
        self.status: DomainStatus | None = None
        self.generation = self.reserved = site.operations.generations.get(core.uuid, 0)
        self._task: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False

    @property
    def uuid(self) -> str:
        """The identity of the domain."""
        return self.core.uuid

    def take(self, event: Event) -> None:
        """Something happened."""
        if self._ended:
            return
        self.core, actions = step(self.core, event, self._site.now())
        for action in actions:
            self._act(action)

    def wake(self) -> None:
        """See whether there is something to do."""
        self.take(Tick())

    async def close(self) -> None:
        """Stop where we are: the next start finds out what is to be done."""
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        tasks = [*self._closing, *([self._task] if self._task is not None else [])]
        if self._task is not None:
            self._task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- actions -------------------------------------------------------------------------------------------

    def _act(self, action: Action) -> None:
        operations, core = self._site.operations, self.core
        match action:
            case Do():
                self._begin(self._carry(action.step, action.doing))
            case Look():
                self._begin(self._look(kept=action.kept))
            case Stop() if self._task is not None:
                self._task.cancel()
            case Journal():
                operations.opened(core.uuid, core.name, action.doing)
            case Tell():
                free = may_cancel(core, action.doing.id) is None
                operations.changed(core.uuid, core.name, action.doing, cancellable=free)
            case Close():
                doing, at = action.doing, self._site.wall()
                closed = operations.closed(core.uuid, core.name, doing, action.state, action.error, at)
                task = asyncio.get_running_loop().create_task(closed)
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
            case Publish():
                self._published(self)
            case WakeAt():
                self._wake_at(action.at)
            case _:
                pass

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.get_running_loop().create_task(work)

    def _wake_at(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(at, self.wake)

    async def _carry(self, found: Step, doing: Doing | None) -> None:
        work = Work(self._site, self.core, doing or NOT_DOING, found, lambda within: self._progress(within))
        outcome, error = carrying.NOTHING, None
        try:
            await self._written(doing)
            outcome = await carrying.carry(work)
        except asyncio.CancelledError:
            if self._ended or self.core.doing is None or self.core.doing.back is None:
                raise
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            error = self.core.doing.back
        except ManorError as refusal:
            error = refusal.body()
        except TimeoutError:
            message = f"{found.text}: not done within {found.bounds.timeout_s:g} s"
            error = ErrorBody(kind=Kind.TIMEOUT, message=message, hint="Ask for the state, then decide.")
        except Exception:
            log.exception("a bug in %s of %s", found.text, self.core.name)
            error = ErrorBody(kind=Kind.INTERNAL, message="a bug; its details are in the service's log")
        self.take(StepEnded(found, error, outcome.held, outcome.kept, outcome.result))

    def _progress(self, within: float) -> None:
        self.take(Progress(within))

    async def _written(self, doing: Doing | None) -> None:
        """What the journal says is on the disk before the first effect; some ends do not wait for a disk."""
        try:
            await self._site.operations.commit()
        except ManorError:
            if doing is not None and doing.kind not in UNWRITTEN:
                raise

    async def _look(self, *, kept: bool) -> None:
        record: KeptIs | None = None
        core = self.core
        try:
            if kept:
                with contextlib.suppress(ManorError):  # then it is read again after the next write
                    record = await self._site.records.read(core.uuid)
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                name, seen = await self._seen(core)
                image = await self._image(core) if self._wants_image() else None
        except (ManorError, TimeoutError) as error:
            name, image, seen = "", core.image, Seen(core.uuid, unknown=str(error) or "no answer in time")
        except Exception:
            log.exception("a bug in a look at %s", core.name)
            name, image, seen = "", core.image, Seen(core.uuid, unknown="a bug; see the service's log")
        self.take(SeenIs(name, seen, image, record))

    async def _seen(self, core: Core) -> tuple[str, Seen]:
        adapter = self._site.hypervisors.get(core.hypervisor)
        if adapter is None:
            return "", Seen(core.uuid)
        found = await adapter.look(core.uuid)
        return core.hypervisor, found.get(core.uuid, Seen(core.uuid))

    def _wants_image(self) -> bool:
        core = self.core
        kind = core.doing.kind if core.doing is not None else ""
        return bool(core.kept.saved) or core.image is not None or kind in LOOKS_AT_IMAGES

    async def _image(self, core: Core) -> SavedImage | None:
        adapter = self._site.hypervisors.get(core.hypervisor)
        if adapter is None:
            return None
        try:
            return await adapter.saved_image(self._site.saved_path(core.uuid))
        except ManorError as error:
            if error.kind not in (Kind.NOT_FOUND, Kind.BAD_REQUEST):
                raise
            return None
