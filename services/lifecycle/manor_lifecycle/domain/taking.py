"""What each event changes of what is known of a domain. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from manor_bus.wire.messages.lifecycle import OperationState
from manor_lifecycle.domain import ends
from manor_lifecycle.domain.events import (
    Action,
    Asked,
    Cancelled,
    Close,
    Hint,
    Journal,
    KeptIs,
    LinkIs,
    NeedsAre,
    PlaceIs,
    Progress,
    SeenIs,
    StepEnded,
    Stop,
    Tell,
    Tick,
    WishIs,
)
from manor_lifecycle.domain.going import failed, goes_on, worked
from manor_lifecycle.domain.steps import GUARDED, Act
from manor_lifecycle.domain.values import Ask, Core, Link, Now
from manor_lifecycle.hypervisors.seen import Seen, SeenRun

SILENT_S: Final = 10.0  # a device model that has not answered for so long is said not to answer
TIDY_PAUSES_S: Final = (0.5, 2.0, 5.0, 10.0)
GONE_S: Final = 1.0  # a document that is gone for a moment only is not gone
LOOKS_AFTER: Final = frozenset(
    {
        Act.CREATE, Act.LOAD, Act.RESUME, Act.PAUSE, Act.RESET, Act.DESTROY, Act.SAVE, Act.REMOVE_IMAGE,
        Act.PLUG,
        Act.UNPLUG, Act.FORCE_UNPLUG, Act.SET_MEMORY, Act.SET_CPUS, Act.RENAME_RUN, Act.REMOVE_LEFTOVERS,
    }
)  # fmt: skip
ENDS_RUNS: Final = frozenset({"shutdown", "destroy", "reboot", "restart", "end", "save", "delete"})
MAKES_RUNS: Final = frozenset({"start", "restart", "reboot", "restore"})

Taken = tuple[Core, list[Action]]


def _asked(core: Core, event: Asked, now: Now) -> Taken:
    return replace(core, waiting=(*core.waiting, event.doing)), [Tell(event.doing)]


def _cancelled(core: Core, event: Cancelled, now: Now) -> Taken:
    doing = core.doing
    for one in core.waiting:
        if one.id == event.id:
            rest = tuple(other for other in core.waiting if other is not one)
            return replace(core, waiting=rest), [Close(one, OperationState.CANCELLED, event.error)]
    if doing is None or doing.id != event.id or doing.back is not None:
        return core, []
    doing = replace(doing, back=event.error, cancelled=True, failed="", tries=0, not_before=0.0)
    stops = core.busy == "do" and not doing.firm
    return replace(core, doing=doing), [Journal(doing), Tell(doing), *([Stop()] if stops else [])]


def _wish(core: Core, event: WishIs, now: Now) -> Taken:
    document, known = event.document, core.wish
    if document is not None and known is not None and document.metadata.revision < known.metadata.revision:
        return core, []
    name = document.metadata.name if document is not None else core.name
    tidy_at = core.tidy_at if document is not None else max(core.tidy_at, now.at + GONE_S)
    core = replace(core, wish=document, name=name, tidy_at=tidy_at)
    if core.record is None and document is not None and core.run is None:
        core = replace(core, hypervisor=document.spec.hypervisor or core.place.default_hypervisor)
    return core, []


def _kept(core: Core, event: KeptIs, now: Now) -> Taken:
    """An own write that was acknowledged is a floor: older readings are not taken."""
    if event.revision < core.revision and event.record is not None:
        return core, []
    return replace(core, record=event.record, revision=event.revision, kept_stale=False), []


def _seen(core: Core, event: SeenIs, now: Now) -> Taken:
    if event.kept is not None:
        core, _ = _kept(core, event.kept, now)
    before, run, seen = core.living, event.seen.run, event.seen
    core = replace(
        core,
        busy="" if core.busy == "look" else core.busy,
        hypervisor=event.hypervisor or core.hypervisor,
        heard=not seen.unknown,
    )
    core = _silence(core, now, run.silent_for_s if run is not None else 0.0, unknown=bool(seen.unknown))
    if seen.unknown:
        return replace(core, seen=replace(core.seen, uuid=core.uuid, unknown=seen.unknown)), []
    core = replace(core, seen=seen, image=event.image, asks=_asks_after(core, seen))
    return _ended(_present(core, before, now) if run is not None else _absent(core, before)), []


def _present(core: Core, before: SeenRun | None, now: Now) -> Core:
    """There is a run: since when, and under which name."""
    run = core.run
    assert run is not None
    same = before is not None and before.run == run.run and core.began is not None
    core = replace(core, began=core.began if same else now.at - run.uptime_s, vanished=0)
    return replace(core, name=run.name) if core.wish is None and run.name and run.ours else core


def _absent(core: Core, before: SeenRun | None) -> Core:
    """There is no run; one that was there and that nobody was ending has vanished."""
    doing = core.doing
    quiet = doing is None or doing.kind not in ENDS_RUNS | MAKES_RUNS
    if before is not None and quiet and before.run.incarnation > core.treated:
        core = replace(core, vanished=before.run.incarnation)
    return replace(core, attached={}) if core.attached else core


def _ended(core: Core) -> Core:
    """How the last run ended is remembered; an end that the operation under way is for is seen to by it."""
    over, doing = ends.untreated(core), core.doing
    if over is None:
        return replace(core, last_end="") if core.living is not None else core
    core = replace(core, last_end=over.text)
    ending = doing is not None and doing.begun and doing.kind in ENDS_RUNS
    if doing is not None and ending and (not doing.incarnation or over.incarnation < doing.incarnation):
        return replace(core, treated=over.incarnation)
    return core


def _asks_after(core: Core, seen: Seen) -> Mapping[str, Ask]:
    """Whoever could not hear is asked at once when that may be different."""
    before, after = core.run, seen.run
    if before is None or after is None or before.activity is after.activity or not core.asks:
        return core.asks
    return {key: replace(ask, next_at=0.0) for key, ask in core.asks.items()}


def _silence(core: Core, now: Now, silent_for_s: float, *, unknown: bool) -> Core:
    silent = unknown or silent_for_s >= SILENT_S
    if not silent:
        return replace(core, silent_since=0.0, silent_at=0.0, not_answering=False)
    since = core.silent_since or now.wall - silent_for_s
    at = core.silent_at if core.silent_since else now.at - silent_for_s
    there = core.run is not None or unknown
    return replace(core, silent_since=since, silent_at=at, not_answering=there)


def _link(core: Core, event: LinkIs, now: Now) -> Taken:
    links = dict(core.links)
    if event.status is None:
        links.pop(event.key, None)
    else:
        links[event.key] = Link(*event.key, event.status.generation, event.status)
        if event.status.state == "CONNECTED" and core.run is not None and event.key[0] == core.run.born:
            core = replace(core, attached={**core.attached, event.key[1]: event.status.generation})
    return replace(core, links=links), []


def _step_ended(core: Core, event: StepEnded, now: Now) -> Taken:
    core = replace(core, busy="")
    doing, error = core.doing, event.error
    if event.kept is not None:
        core, _ = _kept(core, event.kept, now)
    if error is not None:
        core = replace(core, stale=True, kept_stale=core.kept_stale or event.step.act in GUARDED)
    else:
        core = worked(replace(core, stale=core.stale or event.step.act in LOOKS_AFTER), event)
    if doing is None:
        tidied = core.tidied + 1 if error is not None or event.step.act is Act.DESTROY else 0
        pause = TIDY_PAUSES_S[min(max(tidied - 1, 0), len(TIDY_PAUSES_S) - 1)]
        return replace(core, tidied=tidied, tidy_at=now.at + pause), []
    doing = failed(doing, event, now) if error is not None else goes_on(core, doing, event, now)
    return replace(core, doing=doing), []


def _needs(core: Core, event: NeedsAre, now: Now) -> Taken:
    doing = core.doing
    if (
        doing is not None
        and core.users
        and not event.users
        and doing.arguments.with_users
        and not doing.asked
    ):
        doing = replace(doing, until=now.at + doing.arguments.timeout_s)  # its own time begins now
    core = replace(core, missing=event.missing, users=event.users, name_taken=event.name_taken)
    return replace(core, doing=doing), []


def _hint(core: Core, event: Hint, now: Now) -> Taken:
    doing = core.doing
    if event.heard and doing is not None:
        doing = replace(doing, past=doing.past | {"heard"})
    return replace(core, stale=True, doing=doing), []


def _progress(core: Core, event: Progress, now: Now) -> Taken:
    doing = core.doing
    if doing is None:
        return core, []
    doing = replace(doing, within=event.within)
    return replace(core, doing=doing), [Tell(doing)]


TAKE: Final[Mapping[type, Callable[..., Taken]]] = MappingProxyType(
    {
        Asked: _asked,
        Cancelled: _cancelled,
        WishIs: _wish,
        KeptIs: _kept,
        SeenIs: _seen,
        LinkIs: _link,
        StepEnded: _step_ended,
        NeedsAre: _needs,
        PlaceIs: lambda core, event, now: (replace(core, place=event.place), []),
        Hint: _hint,
        Progress: _progress,
        Tick: lambda core, event, now: (core, []),
    }
)
