"""The service between a core and its world, as `owner` and `opening` make it, on virtual time.

What a call answers and what it does are two things: it fails before or after its effect, its effect comes
late, or never. Late effects on a run come before the next look at it (law 6), others at any time (law 7).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Final

from manor_bus.wire.errors import ErrorBody, Kind, ManorError
from manor_bus.wire.messages.lifecycle import OperationState
from manor_lifecycle import opening, operations, owner
from manor_lifecycle.carrying import NOT_DOING, Outcome, Work
from manor_lifecycle.domain import core as core_module
from manor_lifecycle.domain import events as e
from manor_lifecycle.domain.starts import gate as may_start
from manor_lifecycle.domain.states import state
from manor_lifecycle.domain.status import status
from manor_lifecycle.domain.steps import Act
from manor_lifecycle.domain.values import Doing, Now, Place
from manor_lifecycle.domains import fresh
from manor_lifecycle.hypervisors.fake.guest import FEATURES
from manor_lifecycle.hypervisors.seen import Activity, Seen
from tests.lifecycle.world import NODE, RECORDS, UUID, World

LANE: Final = frozenset(
    {
        Act.CREATE, Act.LOAD, Act.RESUME, Act.PAUSE, Act.ASK, Act.RESET, Act.DESTROY, Act.SAVE, Act.PLUG,
        Act.UNPLUG, Act.FORCE_UNPLUG, Act.SET_MEMORY, Act.SET_CPUS, Act.NMI,
    }
)  # fmt: skip
LATEST_S: Final = 100.0  # what is late comes within that
BROKEN: Final = (Kind.UNAVAILABLE, Kind.INTERNAL, Kind.TIMEOUT)


def error(kind: Kind, message: str) -> ErrorBody:
    return ErrorBody(kind=kind, message=message)


@dataclass
class Call:
    """A step that is being carried out. `noted`: that it is is in the journal; `how` it goes."""

    step: Any
    effect: Callable[[], Outcome]
    noted: bool = True
    how: str = ""


class Shell:
    """The service: carries out what the core wants, as `owner` and `opening` do. `kill` ends it at once."""

    def __init__(self, world: World, *, blind: bool = False) -> None:
        self.world, self.alive = world, True
        self.unwritten: list[operations.Open | str] = []
        self.call: Call | None = None
        self.wake_number = 0
        self.closed: dict[str, tuple[OperationState, ErrorBody | None]] = {}
        place = Place(NODE, "b1", {"fake": FEATURES}, "fake", session="b1/1")
        known = {UUID: e.KeptIs(world.record, world.revision)} if world.record is not None else {}
        self.site: Any = SimpleNamespace(
            place=place, records=SimpleNamespace(known=known), now=self.now,
            operations=SimpleNamespace(opened=lambda uuid, name, doing: self.journal(doing)),
        )  # fmt: skip
        unseen = Seen(UUID, unknown="no answer")
        there = unseen if blind or world.happens(0.3) else world.look()
        self.core = fresh(self.site, UUID, world.document, there, "fake")
        if world.image is not None:
            self.core = replace(self.core, image=world.image)
        queue = [operations.doing_of(one) for one in world.journal.values()]
        self.core = opening._with_operations(self.site, self.core, queue)
        world.shell = self
        world.said(f"the service begins with {[one.kind for one in queue]}, {state(self.core)}")
        for key, link in world.links.items():
            world.tell(e.LinkIs(key, link), 0.01)
        self.take(e.Tick())

    def now(self) -> Now:
        return Now(self.world.at, self.world.at + 1e6)

    def writes(self) -> bool:
        """Whether a record is being written."""
        return self.call is not None and self.call.step.act in RECORDS

    def kill(self, how: str = "") -> None:
        """Nothing of it goes on; what it had not made durable may be lost, what it asked for may come: `how`
        it does, by chance if that is not said."""
        world, call = self.world, self.call
        world.said("the service is killed")
        self.alive, world.shell = False, None
        if not world.unwritable:
            for one in self.unwritten[: world.chance.randrange(len(self.unwritten) + 1)]:
                self._durable(one)
        if call is not None:
            self._given_up(call, how)

    def take(self, event: e.Event) -> None:
        if not self.alive:
            return
        before = state(self.core)
        self.core, actions = core_module.step(self.core, event, self.now())
        if type(event) is not e.Tick or state(self.core) is not before:
            self.world.said(f"{_short(event)} -> {state(self.core)}")
        for action in actions:
            self._act(action)

    def _act(self, action: e.Action) -> None:
        match action:
            case e.Do():
                self._carry(action)
            case e.Look():
                self._look(kept=action.kept)
            case e.Stop() if self.call is not None:
                self._stop(self.call)
            case e.Journal():
                self.journal(action.doing)
            case e.Close():
                self._close(action)
            case e.WakeAt():
                self._wake_at(action.at)
            case e.Publish():
                assert status(self.core).state is state(self.core)
            case _:
                pass

    def _wake_at(self, at: float) -> None:
        self.wake_number += 1
        number = self.wake_number
        if at < float("inf"):
            self.world.later(
                max(0.0, at - self.world.at), lambda: number == self.wake_number and self.take(e.Tick())
            )

    # --- the journal ---------------------------------------------------------------------------------------

    def journal(self, doing: Doing) -> None:
        fields = {name: getattr(doing, name) for name in operations._FIELDS}
        past = tuple(sorted(doing.past & operations.KEPT_PAST))
        self.unwritten.append(operations.Open(target="web", uuid=UUID, past=past, **fields))

    def commit(self) -> bool:
        if self.world.unwritable:
            return False
        for one in self.unwritten:
            self._durable(one)
        self.unwritten.clear()
        return True

    def _durable(self, one: operations.Open | str) -> None:
        if isinstance(one, str):
            self.world.journal.pop(one, None)
        else:
            self.world.journal[one.id] = one

    def _close(self, action: e.Close) -> None:
        doing, world = action.doing, self.world
        world.said(f"{doing.kind} {doing.id} {action.state} {action.error and action.error.message}")
        self.unwritten.append(doing.id)
        world.later(0.05, lambda: self.alive and self.commit())
        self.closed[doing.id] = action.state, action.error
        if action.state is OperationState.DONE:
            promised(world, doing)
        if doing.kind in ("destroy", "shutdown", "end") and action.error is not None:
            full = action.error.kind is Kind.NO_CAPACITY
            assert not full, "it does not end because nothing can be written"

    # --- steps and looks -----------------------------------------------------------------------------------

    def _carry(self, action: e.Do) -> None:
        world, step, doing = self.world, action.step, action.doing
        if step.act is Act.CLAIM and doing is not None:
            assert may_start(self.core, doing.kind) is None, "it is begun, and must not be"
        work = Work(self.site, self.core, doing or NOT_DOING, step, lambda within: None)
        call = self.call = Call(step, world.effect(work))
        world.said(
            f"    {step.text} ({doing.kind if doing else 'tidy'}{' back' * bool(doing and doing.back)})"
        )
        call.noted = self.commit()
        written = call.noted or doing is None or doing.kind in owner.UNWRITTEN
        how = call.how = self._how(step.act)
        if not written:
            self._ends(call, 0.0, error(Kind.NO_CAPACITY, "the journal cannot be written"))
        elif world.unwritable and step.act in RECORDS:
            self._ends(call, 0.1, error(Kind.NO_CAPACITY, "the store is full"))
        elif how in ("ok", "after", "lie"):
            world.later(world.chance.choice((0.001, 0.1, 2.0)), lambda: self._effected(call, how))
        elif how == "before":
            kind = world.chance.choice(BROKEN)
            self._ends(call, 0.1, error(kind, "it failed before its effect"))
        else:
            self._ends(call, step.bounds.timeout_s, error(Kind.TIMEOUT, f"no answer, {how}"), how)

    def _how(self, act: Act) -> str:
        if told := self.world.faults.get(act):
            return told.pop(0)
        if not self.world.hostile:
            return "ok"
        weights = [14, 1, 1, 1, 1, 1 if act in LANE else 0]
        return self.world.chance.choices(("ok", "before", "after", "late", "never", "lie"), weights)[0]

    def _ends(self, call: Call, delay: float, what: ErrorBody, how: str = "") -> None:
        def ended() -> None:
            if self.call is call and self.alive:
                if how == "late":
                    self._late(call)
                self._answered(call, what, Outcome())

        self.world.later(delay, ended)

    def _effected(self, call: Call, how: str) -> None:
        if self.call is not call or not self.alive:
            return
        if call.step.act in LANE:
            self.world.arrive()
        outcome, what = Outcome(), None
        try:
            if how != "lie":
                outcome = call.effect()
        except ManorError as refusal:
            what = refusal.body()
        if how == "after":
            outcome, what = Outcome(), error(Kind.UNAVAILABLE, "it failed after its effect")
        self._answered(call, what, outcome)

    def _answered(self, call: Call, what: ErrorBody | None, outcome: Outcome) -> None:
        self.call = None
        if what is not None:
            self.world.said(f"      {what.message}")
        self.take(e.StepEnded(call.step, what, outcome.held, outcome.kept, outcome.result))

    def _given_up(self, call: Call, how: str = "") -> None:
        """Nobody waits for its answer any more: its effect comes all the same, or not."""
        match (
            how
            or (call.how if call.how in ("late", "never") else "")
            or self.world.chance.choice(("never", "now", "late"))
        ):
            case "now":
                if call.step.act in LANE:
                    self.world.arrive()
                _quietly(call.effect)
            case "late":
                self._late(call)
            case _:
                pass

    def _late(self, call: Call) -> None:
        world = self.world

        def comes() -> None:
            world.said(f"      late: {call.step.text}")
            _quietly(call.effect)

        if call.step.act in LANE:
            world.lane.append(comes)
        elif call.step.act is not Act.REMOVE_IMAGE and (call.noted or call.step.act not in RECORDS):
            # a file goes at once or not at all; without its mark in the journal law 8 cannot hold
            world.later(world.chance.random() * LATEST_S, comes)

    def _stop(self, call: Call) -> None:
        self._given_up(call)
        doing = self.core.doing
        what = (doing.back if doing is not None else None) or error(Kind.TIMEOUT, "cancelled")
        self.world.later(
            0.0, lambda: self.call is call and self.alive and self._answered(call, what, Outcome())
        )

    def _read(self) -> e.KeptIs | None:
        """The record; in a hostile world sometimes nothing, or what it was before."""
        world = self.world
        if world.happens(0.1):
            return None
        older = world.before.record is not None and world.record is not None and world.happens(0.2)
        return world.before if older else e.KeptIs(world.record, world.revision)

    def _look(self, *, kept: bool) -> None:
        world, core = self.world, self.core
        record = self._read() if kept else None
        kind = core.doing.kind if core.doing is not None else ""
        wants = bool(core.kept.saved) or core.image is not None or kind in owner.LOOKS_AT_IMAGES

        def looked() -> None:
            if not self.alive:
                return
            if world.happens(0.05):
                self.take(e.SeenIs("", Seen(UUID, unknown="no answer in time"), core.image, record))
                return
            found = world.look()
            world.surprised = False
            self.take(e.SeenIs("fake", found, world.image if wants else None, record))

        world.later(world.chance.choice((0.001, 0.05)), looked)


def _quietly(effect: Callable[[], Outcome]) -> None:
    with contextlib.suppress(ManorError):
        effect()


def _short(event: e.Event) -> str:
    match event:
        case e.StepEnded():
            return f"ended: {event.step.text}, {event.error.kind if event.error else 'ok'}"
        case e.SeenIs():
            run = event.seen.run
            there = event.seen.unknown or (f"{run.run.incarnation} {run.activity}" if run else "no run")
            kept = event.kept is not None
            return f"seen: {there}, last {event.seen.last}, image {event.image and event.image.id}, {kept}"
        case e.Asked():
            return f"asked: {event.doing.kind} {event.doing.id}"
        case e.LinkIs():
            return f"link {event.key} {event.status and event.status.state}"
        case _:
            return type(event).__name__


# --- what an operation promises -----------------------------------------------------------------------------


def promised(world: World, doing: Doing) -> None:
    """What is said to be done holds in the world at this moment."""
    if not world.surprised:
        holds = PROMISES.get(doing.kind, lambda world, doing: True)(world, doing)
        assert holds, f"{doing.kind} is done, and there is {world.guest}, {world.record}, {world.image}"


def _lives(world: World) -> bool:
    return world.guest is not None and world.guest.activity is not Activity.ENDED


def _runs(world: World, doing: Doing) -> bool:
    """It runs, or stands if that was asked for; a run that was there before may do either."""
    guest = world.guest
    if guest is None or guest.activity is Activity.ENDED:
        return False
    other = guest.incarnation != doing.incarnation
    return other or (guest.activity is Activity.STANDS) is doing.arguments.paused


def _has(world: World, doing: Doing) -> bool:
    return world.guest is not None and doing.arguments.device in world.guest.devices


def _saved(world: World, doing: Doing) -> bool:
    kept, image = world.record, world.image
    named = kept is not None and bool(kept.saved) and image is not None and image.id == kept.image
    return named and world.guest is None


def _deleted(world: World, doing: Doing) -> bool:
    """A document that came since is another one."""
    wish, kept = world.document, world.record
    gone = wish is None or wish.metadata.revision > world.deleted
    return gone and world.guest is None and not (kept and kept.saved)


PROMISES: Final[dict[str, Callable[[World, Doing], bool]]] = {
    "start": _runs, "restart": _runs, "reboot": _runs, "restore": _runs, "resume": _runs,
    "reset": lambda world, doing: _lives(world),
    "pause": lambda world, doing: _lives(world) and world.guest.activity is Activity.STANDS,  # type: ignore[union-attr]
    "shutdown": lambda world, doing: world.guest is None,
    "destroy": lambda world, doing: world.guest is None,
    "end": lambda world, doing: world.guest is None,
    "save": _saved,
    "discard": lambda world, doing: not (world.record and world.record.saved),
    "plug": _has, "reconnect": _has,
    "unplug": lambda world, doing: not (_lives(world) and _has(world, doing)),
    "delete": _deleted,
    "clear": lambda world, doing: not (world.record and world.record.failed),
}  # fmt: skip
