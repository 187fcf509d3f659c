"""The laws of a domain's core, in a world that lies, forgets, answers late and kills the service.

Each seed is one history; then the world works, and everything must come to rest as it is wished. More
histories: MANOR_TEST_LAWS=100000; from another seed on: MANOR_TEST_SEED=5000.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from manor_bus.wire.errors import Kind
from manor_bus.wire.messages.devices import ConnectionState
from manor_bus.wire.messages.documents import (
    Cpu,
    Disk,
    Domain,
    DomainSpec,
    Memory,
    Metadata,
    OnEnd,
    RunPolicy,
)
from manor_bus.wire.messages.lifecycle import OperationState, State
from manor_lifecycle.domain import core as core_module
from manor_lifecycle.domain import going, plans, starts, taking, wishes
from manor_lifecycle.domain.events import Asked, Cancelled, Hint, KeptIs, NeedsAre, Publish, StepEnded
from manor_lifecycle.domain.states import state
from manor_lifecycle.domain.steps import DONE, Act, Step, note
from manor_lifecycle.domain.values import Arguments, Core, Doing, Now
from manor_lifecycle.domain.verbs import Yes, admit, may_cancel, under_way
from manor_lifecycle.domain.wishes import differences
from manor_lifecycle.hypervisors.seen import Activity, CauseWord, EndReason
from tests.lifecycle.shell import Shell, error
from tests.lifecycle.world import NODE, UUID, World

HISTORIES = int(os.environ.get("MANOR_TEST_LAWS", "300"))
FIRST = int(os.environ.get("MANOR_TEST_SEED", "0"))
VERBS = (
    "start", "start", "start", "shutdown", "reboot", "reset", "pause", "resume", "destroy", "save", "save",
    "restore", "restore", "discard", "clear", "nmi",
)  # fmt: skip
SAVING = ("start", "save", "save", "restore", "restore", "restore", "resume", "discard")
ENDING = ("start", "start", "shutdown", "shutdown", "destroy", "reboot", "pause", "resume")
ROOT, MORE = Disk(id="root", source="/root"), Disk(id="more", source="/more")
PAUSES_S = (0.0, 0.0, 0.05, 0.1, 1.0, 5.0, 20.0, 90.0)
REST_S = 4 * 3600.0  # the longest pause of the loop guard is a quarter of an hour


def document(chance: random.Random, revision: int) -> Domain:
    disks = [ROOT, MORE][: chance.randrange(1, 3)]
    if chance.random() < 0.3:
        disks.append(Disk(id="spare", source="/spare", required=False))
    spec = DomainSpec(
        cpu=Cpu(count=chance.choice((1, 2)), max=4),
        memory=Memory(size_mib=chance.choice((256, 512)), max_mib=512),
        disks=tuple(disks),
        run=chance.choice((RunPolicy.ON_REQUEST, RunPolicy.ON_REQUEST, RunPolicy.ALWAYS, RunPolicy.HALTED)),
        on_crash=chance.choice((OnEnd.DESTROY, OnEnd.RESTART, OnEnd.PRESERVE)),
        shutdown_timeout_s=10,
    )
    return Domain(metadata=Metadata(name="web", uuid=UUID, revision=revision), spec=spec)


def ask(world: World, number: int, kind: str, **arguments: Any) -> bool:
    """As the service does with a request."""
    shell = world.shell
    assert shell is not None
    said = Arguments(**arguments)
    answer = admit(shell.core, kind, said)
    if not isinstance(answer, Yes):
        return False
    if answer.preempt:
        for one in reversed(under_way(shell.core)):
            if may_cancel(shell.core, one.id) is None:
                shell.take(Cancelled(one.id, error(Kind.DENIED_STATE, "made pointless")))
    doing = Doing(f"o{number}", kind, said, who="alice", created=shell.now().wall)
    shell.journal(doing)
    if not shell.commit() and kind not in ("destroy", "shutdown", "resume", "pause", "end"):
        shell.unwritten.append(doing.id)
        return False
    shell.take(Asked(doing))
    return True


def restart(world: World, number: int) -> None:
    """Half of the kills come while a record is being written, if one is soon."""
    if world.chance.random() < 0.5:
        world.pass_events(30, lambda: world.shell.writes())
    world.shell.kill()
    Shell(world)
    if world.chance.random() < 0.4:
        cancel(world, number)


def end(world: World, number: int) -> None:
    world.end(world.chance.choice(list(EndReason)), kept=world.chance.random() < 0.4)


def apply(world: World, number: int) -> None:
    if world.record is None or not world.record.deleting:
        world.applied(document(world.chance, number + 2))


def cancel(world: World, number: int) -> None:
    shell = world.shell
    for one in under_way(shell.core)[:1]:
        if may_cancel(shell.core, one.id) is None:
            shell.take(Cancelled(one.id, error(Kind.DENIED_STATE, "cancelled")))


def verb(world: World, number: int) -> None:
    chance = world.chance
    stopped, after = chance.random() < 0.7, chance.random() < 0.2
    ask(world, number, chance.choice(world.verbs), timeout_s=10.0, stopped=stopped, force_after=after)


def needs(world: World, number: int) -> None:
    world.shell.take(NeedsAre(missing=("db",) if world.chance.random() < 0.3 else ()))


HAPPENINGS: tuple[tuple[float, Callable[[World, int], object]], ...] = (
    (26, verb),
    (4, restart),
    (2, end),
    (2, lambda world, number: world.stops(world.chance.choice((CauseWord.IO_ERROR, CauseWord.NO_SPACE)))),
    (2, lambda world, number: world.sleeps()),
    (4, apply),
    (2, lambda world, number: world.provider_returns()),
    (2, lambda world, number: setattr(world, "unwritable", world.chance.random() < 0.3)),
    (4, cancel),
    (1, lambda world, number: ask(world, number, "delete", force=world.chance.random() < 0.7)),
    (2, lambda world, number: world.record_is_lost()),
    (2, needs),
    (0.2, lambda world, number: world.taken_over()),
)


def something(world: World, number: int) -> None:
    weights, calls = zip(*HAPPENINGS, strict=True)
    world.chance.choices(calls, weights)[0](world, number)


def rest(world: World) -> None:
    """Nothing goes wrong any more."""
    world.said("--- rest")
    world.hostile = world.unwritable = False
    world.turns = 0
    world.shell.take(NeedsAre())
    world.pass_time(REST_S)


def agree(world: World) -> None:
    """Nothing is under way, nothing is left that nobody needs, and what is wished is so."""
    shell, guest, kept = world.shell, world.guest, world.record
    assert shell is not None
    core = shell.core
    shell.commit()
    assert core.doing is None, f"under way for ever: {core.doing}"
    assert not core.waiting
    assert not core.busy
    assert not world.journal, world.journal
    if kept is not None and kept.node != NODE:
        assert core.record != kept or guest is None, "another node owns it, and it runs here"
        return
    assert world.silent_change or core.record == kept, (core.record, kept)
    assert not core.owed
    assert world.image is None or (kept and kept.saved), f"nobody needs {world.image}: {kept}"
    assert kept is None or not kept.deleting
    born = guest.born if guest is not None else 0
    devices = {(born, name) for name in guest.devices} if guest is not None else set()
    assert set(world.links) == devices, f"links {set(world.links)}, devices {devices}"
    assert (kept is not None and kept.run) is (guest is not None), (kept, guest)
    if guest is None:
        off = (State.DEFINED, State.SUSPENDED, State.FAILED, State.DELETED)
        assert state(core) in off or world.silent_change
        return
    assert kept is not None
    assert not kept.saved, "it runs, and is saved"
    if guest.activity is Activity.ENDED:
        assert state(core) is State.CRASHED
        return
    assert not kept.stopped, "it runs, and is stopped on purpose"
    open_ = [found for found in differences(core) if found.kind and not _excused(world, found)]
    assert not open_, open_
    wish = world.document
    if wish is not None and wish.spec.run is RunPolicy.HALTED:
        assert core.asks["shutdown:"].barred


def _excused(world: World, found: Any) -> bool:
    guest, shell = world.guest, world.shell
    assert guest is not None
    assert shell is not None
    ask_ = shell.core.asks.get(found.key)
    halted = world.document is not None and world.document.spec.run is RunPolicy.HALTED
    stands = guest.activity is not Activity.RUNS
    return halted or (ask_ is not None and ask_.barred) or (found.kind == "unplug" and stands)


def runs_when_wished(world: World) -> None:
    shell, kept, wish = world.shell, world.record, world.document
    assert shell is not None
    anothers = state(shell.core) is State.LOST or (kept is not None and kept.node != NODE)
    if wish is None or anothers or world.guest is not None or (kept and (kept.saved or kept.failed)):
        return
    always = wish.spec.run is RunPolicy.ALWAYS and not (kept and kept.stopped)
    assert not always or world.silent_change, f"it shall always run, and does not: {kept}, {shell.core.asks}"
    halted = wish.spec.run is RunPolicy.HALTED
    assert ask(world, 9_999, "start") is not halted, "who shall be halted is not started, all others are"
    world.pass_time(120.0)
    assert (world.guest is None) is halted, "a start gives up in a world that works"


def history(seed: int, verbs: tuple[str, ...] = (), length: int = 40) -> World:
    """Live one history through. `verbs`: what is asked for, by chance if none are given."""
    chance = random.Random(seed)
    world = World(chance, verbs=verbs or chance.choice((VERBS, SAVING, ENDING)))
    try:
        world.document = document(chance, 1)
        Shell(world)
        for number in range(length):
            something(world, number)
            world.pass_time(chance.choice(PAUSES_S))
        rest(world)
        agree(world)
        runs_when_wished(world)
    except AssertionError as broken:
        broken.add_note(f"seed {seed}\n" + "\n".join(world.log))
        raise
    return world


@pytest.mark.parametrize("part", range(10))
def test_the_laws_hold_in_every_history(part: int) -> None:
    for seed in range(FIRST + part, FIRST + HISTORIES, 10):
        history(seed)


# --- what histories found, step by step --------------------------------------------------------------------


def calm(run: RunPolicy = RunPolicy.ON_REQUEST, *disks: Disk) -> World:
    """A world that works but for what a test tells it."""
    world = World(random.Random(1), hostile=False)
    spec = DomainSpec(disks=disks or (ROOT,), run=run, shutdown_timeout_s=10)
    world.document = Domain(metadata=Metadata(name="web", uuid=UUID, revision=1), spec=spec)
    Shell(world)
    return world


def running(run: RunPolicy = RunPolicy.ON_REQUEST, *disks: Disk) -> World:
    world = calm(run, *disks)
    if run is not RunPolicy.ALWAYS:
        assert ask(world, 1, "start")
    world.pass_time(60.0)
    assert state(world.shell.core) is State.RUNNING
    return world


def changed(world: World, *disks: Disk) -> None:
    before = world.document
    assert before is not None
    spec = msgspec.structs.replace(before.spec, disks=disks)
    revision = before.metadata.revision + 1
    world.applied(Domain(metadata=Metadata(name="web", uuid=UUID, revision=revision), spec=spec))


def test_what_another_node_took_over_is_not_taken_back() -> None:
    world = running()
    world.taken_over()
    assert ask(world, 2, "shutdown", stopped=True)
    world.pass_time(60.0)
    assert ask(world, 3, "reset") is False
    assert world.record is not None
    assert (world.record.node, world.guest, world.links) == ("n2", None, {})


def test_a_record_that_could_not_be_read_again_is_read_later(monkeypatch: pytest.MonkeyPatch) -> None:
    world = running()
    monkeypatch.setattr(Shell, "_read", lambda shell: None)
    world.faults[Act.NOTE] = ["after"]
    world.end(EndReason.POWEROFF)
    world.pass_time(60.0)
    monkeypatch.undo()
    world.pass_time(60.0)
    agree(world)


def test_a_first_record_that_was_given_up_does_not_come_later() -> None:
    world = calm()
    world.faults[Act.CLAIM] = ["late"]
    assert ask(world, 1, "start")
    world.pass_time(1.0)
    cancel(world, 2)
    world.pass_time(600.0)
    agree(world)


def save_that_a_kill_interrupts() -> World:
    """The service is killed while the record of a saved state is written, and then the save is cancelled."""
    world = running()
    assert ask(world, 2, "save")
    world.pass_events(50, lambda: world.shell.writes())
    world.shell.kill("late")
    Shell(world, blind=True)
    cancel(world, 3)
    world.pass_time(600.0)
    agree(world)
    return world


def test_a_record_that_comes_after_a_restart_names_nothing_that_is_gone() -> None:
    assert state(save_that_a_kill_interrupts().shell.core) is State.RUNNING


def test_without_the_mark_in_the_journal_it_names_what_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Shell.journal
    monkeypatch.setattr(Shell, "journal", lambda shell, one: journal(shell, replace(one, unsettled=-1)))
    with pytest.raises(AssertionError, match="the record names"):
        save_that_a_kill_interrupts()


def test_what_could_not_be_recorded_is_withdrawn_once() -> None:
    world = running(RunPolicy.ALWAYS)
    world.deaf = world.unwritable = True
    assert ask(world, 2, "shutdown", timeout_s=120.0, stopped=True)
    world.pass_time(100.0)
    world.unwritable, before = False, world.writes
    world.pass_time(600.0)
    agree(world)
    assert world.writes <= before + 3


def test_a_shutdown_that_a_restart_interrupts_is_withdrawn_too() -> None:
    world = running(RunPolicy.ALWAYS)
    world.deaf = True
    assert ask(world, 2, "shutdown", timeout_s=30.0, stopped=True)
    world.pass_time(5.0)
    assert world.record is not None
    assert world.record.stopped
    world.shell.kill()
    Shell(world)
    cancel(world, 3)
    world.pass_events(100, lambda: world.shell.core.doing is None)
    assert not world.record.stopped


def test_what_ends_a_run_does_not_wait_for_a_store_that_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    world = running()
    world.unwritable = True
    monkeypatch.setattr(World, "destroy", World.nothing)
    assert ask(world, 2, "destroy")
    world.pass_time(300.0)
    ended, why = world.shell.closed["o2"]
    assert ended is OperationState.FAILED
    assert why is not None
    assert "still holds" in why.message
    monkeypatch.undo()
    assert ask(world, 3, "destroy")
    world.pass_time(300.0)
    assert (world.shell.closed["o3"][0], world.guest) == (OperationState.DONE, None)


def test_what_was_saved_before_the_guest_ran_on_is_saved_again() -> None:
    world = running()
    world.faults[Act.NOTE] = ["never"]
    assert ask(world, 2, "save")
    world.pass_events(50, lambda: world.image is not None and world.shell.writes())
    guest = world.guest
    assert guest is not None
    guest.go()
    world.disk += 1
    world.pass_time(120.0)
    assert ask(world, 3, "restore")
    world.pass_time(60.0)
    assert state(world.shell.core) is State.RUNNING


def test_a_guest_that_sleeps_is_not_paused_for_ever() -> None:
    world = running()
    world.sleeps()
    world.pass_time(1.0)
    assert ask(world, 2, "pause")
    world.pass_time(60.0)
    ended, why = world.shell.closed["o2"]
    assert ended is OperationState.FAILED
    assert why is not None
    assert "sleeps" in why.message


def test_a_wish_for_which_there_is_nothing_to_do_is_not_asked_for_at_once() -> None:
    world = running(RunPolicy.ON_REQUEST, ROOT, MORE)
    guest = world.guest
    assert guest is not None
    del guest.devices["more"]  # an adapter whose spec and devices differ
    world.shell.take(Hint())
    world.pass_time(1.0)
    changed(world, ROOT)
    world.pass_time(600.0)
    assert world.turns < 2_000


def test_a_device_that_is_to_go_is_connected_again_when_its_provider_comes_back() -> None:
    world = running(RunPolicy.ON_REQUEST, ROOT, MORE)
    assert ask(world, 2, "pause")
    world.pass_time(1.0)
    changed(world, ROOT)
    world.pass_time(5.0)
    world.provider_returns()
    world.pass_time(60.0)
    assert {link.state for link in world.links.values()} == {ConnectionState.CONNECTED}


# --- each law alone: without it, a history breaks ----------------------------------------------------------


def believing(patch: pytest.MonkeyPatch) -> None:
    """Law 1: after a step that did not plainly work nobody looks."""
    take = core_module.TAKE

    def ended(core: Core, event: StepEnded, now: Now) -> Any:
        after, actions = take[StepEnded](core, event, now)
        return replace(after, stale=core.stale, kept_stale=core.kept_stale), actions

    patch.setattr(core_module, "TAKE", {**take, StepEnded: ended})


def content(patch: pytest.MonkeyPatch) -> None:
    """Law 2: nobody compares what runs with what is wished."""
    patch.setattr(wishes, "differences", lambda core: ())


def asking_once(patch: pytest.MonkeyPatch) -> None:
    """Law 3: what was not granted is not asked for again."""
    may_ask = wishes.may_ask
    patch.setattr(
        wishes, "may_ask", lambda c, w, now: float("inf") if w.key in c.asks else may_ask(c, w, now)
    )


def untidy(patch: pytest.MonkeyPatch) -> None:
    """Law 4: what nobody needs stays."""
    patch.setattr(core_module, "tidy", lambda core: None)


def forgetful(patch: pytest.MonkeyPatch) -> None:
    """Law 5: the next number is made from the record alone."""
    begun = core_module.begun
    unread = lambda core: replace(core, seen=replace(core.seen, last=0))  # noqa: E731
    patch.setattr(core_module, "begun", lambda core, doing, now: begun(unread(core), doing, now))


def twice(patch: pytest.MonkeyPatch) -> None:
    """Law 5: a run that came and went is made again under its number."""
    bring_up = starts._bring_up

    def again(core: Core, doing: Doing, spec: Any, make: Any) -> Any:
        return bring_up(replace(core, seen=replace(core.seen, last=0)), doing, spec, make)

    patch.setattr(starts, "_bring_up", again)


def overtaking(patch: pytest.MonkeyPatch) -> None:
    """Law 6: a look does not wait for what was given up."""
    arrive, look = World.arrive, World.look

    def hasty(world: World) -> Any:
        if world.hostile:
            patch.setattr(World, "arrive", lambda world: None)
        found = look(world)
        patch.setattr(World, "arrive", arrive)
        return found

    patch.setattr(World, "look", hasty)


def unstamped(patch: pytest.MonkeyPatch) -> None:
    """Law 7: a late write of a record wins over what was written since."""
    write = World.write
    patch.setattr(World, "write", lambda world, revision, record: write(world, world.revision, record))
    patch.setattr(World, "is_stale", lambda world, act, lives, writes: False)


def unsettled(patch: pytest.MonkeyPatch) -> None:
    """Law 8: what may have been written is contradicted."""
    next_step = core_module.next_step
    patch.setattr(
        core_module, "next_step", lambda core, doing, now: next_step(core, replace(doing, unsettled=-1), now)
    )


def spent_late(patch: pytest.MonkeyPatch) -> None:
    """Law 9: a restored guest runs before its saved state is let go of."""

    def restore(core: Core, doing: Doing, now: Now) -> Any:
        run = core.run
        stands = run is not None and run.run.incarnation == doing.incarnation and core.kept.saved
        if stands and run is not None and run.activity is Activity.STANDS:
            return Step(Act.RESUME)
        return starts.restore(core, doing, now)

    patch.setattr(plans, "FORWARD", {**plans.FORWARD, "restore": restore})


def unforgiving(patch: pytest.MonkeyPatch) -> None:
    """Law 10: who gave up a shutdown still remembers that it was stopped."""
    nothing = {kind: lambda core, doing, now: DONE for kind in ("shutdown", "destroy")}
    patch.setattr(plans, "BACK", {**plans.BACK, **nothing})
    clean = core_module.tidy
    forget = note("forget that it was stopped", stopped=False)
    patch.setattr(core_module, "tidy", lambda core: None if clean(core) == forget else clean(core))


def floorless(patch: pytest.MonkeyPatch) -> None:
    """Law 11: an older reading of the record is taken."""

    def kept(core: Core, event: KeptIs, now: Now) -> Any:
        return replace(core, record=event.record, revision=event.revision, kept_stale=False), []

    patch.setattr(taking, "_kept", kept)


def needing_space(patch: pytest.MonkeyPatch) -> None:
    """Law 12: what cannot be written keeps a run from being ended."""
    patch.setattr(going, "WITHOUT_RECORD", frozenset())


def ungated(patch: pytest.MonkeyPatch) -> None:
    """Law 13: what is needed, and is not there, is not looked at before a start."""
    patch.setattr(starts, "gate", lambda core, kind: None)


def robbing(patch: pytest.MonkeyPatch) -> None:
    """Law 14: what another node took over goes on here."""
    patch.setattr(Core, "anothers", property(lambda core: False))


def timeless(patch: pytest.MonkeyPatch) -> None:
    """Law 15: nobody comes back when it is time."""
    patch.setattr(core_module, "WakeAt", lambda at: Publish())


MUTANTS = (
    (believing, VERBS), (content, VERBS), (asking_once, VERBS), (untidy, VERBS), (forgetful, ENDING),
    (twice, ENDING), (overtaking, VERBS), (unstamped, VERBS), (unsettled, SAVING),
    (spent_late, SAVING), (unforgiving, ENDING), (floorless, SAVING), (needing_space, ENDING),
    (ungated, VERBS), (robbing, VERBS), (timeless, VERBS),
)  # fmt: skip


def caught(mutant: Callable[[pytest.MonkeyPatch], None], verbs: tuple[str, ...], most: int) -> int | None:
    """Return the first history that breaks without a law."""
    with pytest.MonkeyPatch.context() as patch:
        mutant(patch)
        for seed in range(most):
            try:
                history(seed, verbs)
            except (AssertionError, KeyError):
                return seed
    return None


@pytest.mark.parametrize(("mutant", "verbs"), MUTANTS, ids=[one.__name__ for one, _ in MUTANTS])
def test_without_a_law_a_history_breaks(
    mutant: Callable[[pytest.MonkeyPatch], None], verbs: tuple[str, ...]
) -> None:
    assert caught(mutant, verbs, HISTORIES) is not None
