"""What is there and nobody needs: it goes, whatever is remembered of it. Pure."""

from __future__ import annotations

from manor_lifecycle.domain.ends import untreated
from manor_lifecycle.domain.pieces import open_links
from manor_lifecycle.domain.steps import Act, Step, note
from manor_lifecycle.domain.values import UNREADABLE, Core


def tidy(core: Core) -> Step | None:
    """Return the next clean-up of a domain with nothing under way."""
    run, kept = core.run, core.kept
    if run is not None and not run.ours:
        return None
    if core.anothers:
        return Step(Act.DESTROY) if run is not None else _links(core)
    if run is not None and run.run.incarnation <= kept.ended:
        return Step(Act.DESTROY)
    if core.owed:
        return note("record what could not be recorded", **core.owed)
    return _links(core) or _image(core) or _record(core)


def _record(core: Core) -> Step | None:
    """The record says what is, and goes with the document."""
    run, kept = core.run, core.kept
    if kept.node == UNREADABLE or core.kept_stale or untreated(core) is not None:
        return None
    if core.wish is None and core.record is not None and run is None and core.image is None:
        return Step(Act.REMOVE_LEFTOVERS) if core.seen.last else Step(Act.DELETE_RECORD)
    if run is not None and (not kept.run or kept.incarnation < run.run.incarnation):
        return note("record that there is a run", run=True, incarnation=run.run.incarnation)
    if run is None and kept.run:
        return note("record that the run ended", run=False)
    if core.living is not None and kept.stopped:
        return note("forget that it was stopped", stopped=False)
    return note("let go of the document", deleting="") if kept.deleting else None


def _links(core: Core) -> Step | None:
    run = core.run
    for born, name in open_links(core):
        if run is None or born < run.born:
            return Step(Act.RELEASE_ALL, amount=born)
        if born == run.born and all(one.id != name for one in run.devices):
            return Step(Act.RELEASE, name)
    return None


def _image(core: Core) -> Step | None:
    """An image goes only after a reading of the record that does not name it."""
    image, kept = core.image, core.kept
    if image is None or core.kept_stale or (kept.saved and kept.image in ("", image.id)):
        return None
    return Step(Act.REMOVE_IMAGE)
