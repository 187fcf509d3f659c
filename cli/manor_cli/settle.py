"""Wait until what was applied is what is: the level-triggered counterpart of following an operation."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from manor_bus.peer.events import Synced
from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.config import Change
from manor_bus.wire.messages.devices import VolumeStatus
from manor_bus.wire.messages.lifecycle import (
    ENDED,
    DomainStatus,
    Operation,
    OperationList,
    OperationShow,
    OperationsListed,
    OperationState,
)
from manor_cli import follow
from manor_cli.app import App
from manor_cli.render import clean

FOLLOWED_MAX: Final = 8  # more domains or operations are waited for, but not shown step by step
PENDING: Final = {
    "next-start": "for its next start", "in-progress": "in progress", "asked": "asked for again and again",
    "refused": "refused (see `manor describe`)",
}  # fmt: skip
Judge = Callable[[Any], bool]


def wait(app: App, changes: Iterable[Change], *, device: str = "") -> None:
    """Wait until every domain and volume has taken its revision in and rests; fail if that failed, also where
    nothing was changed now: what a document asks for may have failed before.

    `device`: only what failed with this one is a failure; its domain may wait for others.
    """
    changed = [change for change in changes if change.action != "deleted"]
    as_before = {change.name for change in changed if change.action == "unchanged"}
    began = time.time()
    volumes = {change.name: change for change in changed if change.kind == "Volume"}
    domains = {change.uuid: change for change in changed if change.kind == "Domain"}
    for name, status in _until(app, "volume", volumes, _volume_rests).items():
        app.out(_line("volume", name, status.state, status.reason))
        if status.state == "failed":
            raise ManorError(Kind.DENIED_STATE, f"volume {name}: {status.reason}", hint="manor volume list")
    judge = _following(app) if len(domains) <= FOLLOWED_MAX else _rests
    for name, status in _until(app, "domain", domains, judge).items():
        app.out(told(status))
        elsewhere = device and not any(f"[{device}]" in change.path for change in status.pending)
        if len(domains) <= FOLLOWED_MAX and not elsewhere:
            _check(app, name, began, as_before=name in as_before)


def told(status: DomainStatus) -> str:
    """Say where a domain stands."""
    counts = Counter(change.applies for change in status.pending)
    words = [f"{_changes(count)} {PENDING[applies]}" for applies, count in sorted(counts.items())]
    return ", ".join([_line("domain", status.name, status.state.value, status.reason), *words])


def _changes(count: int) -> str:
    return f"{count} change{'' if count == 1 else 's'}"


def _line(kind: str, name: str, state: str, reason: str) -> str:
    return clean(f"{kind}/{name} is {state}" + (f" ({reason})" if reason else ""))


def _until(app: App, kind: str, wanted: Mapping[str, Change], rests: Judge) -> dict[str, Any]:
    """Watch objects, by the last part of their subject, until each has reached its revision and rests.

    Returns their last values by name.
    """
    left, found, waits = dict(wanted), {}, dict[str, str]()
    if not left:
        return {}
    pattern = f"{kind}.{next(iter(left))}" if len(left) == 1 else f"{kind}.*"
    for change in app.client.watch(pattern, timeout=app.patience):
        if isinstance(change, Synced) or change.value is None:
            continue
        key, status = change.subject.partition(".")[2], change.value
        if key not in left or status.revision < left[key].revision:
            continue
        if rests(status):
            found[status.name] = status
            del left[key]
        elif status.reason != waits.get(status.name, "") and not getattr(status, "operation", ""):
            waits[status.name] = status.reason
            app.note(clean(f"{kind}/{status.name} waits: {status.reason}"))
        if not left:
            return found
    names = sorted(change.name for change in left.values())
    why = next((f" ({waits[name]})" for name in names if waits.get(name)), "")
    raise ManorError(
        Kind.TIMEOUT,
        f"the change is stored, but not done yet for {kind} {', '.join(names[:5])}{why}",
        hint="watch it with `manor watch`, see `manor ops list --active`, or do not wait: --no-wait",
    )


def _rests(status: DomainStatus) -> bool:
    return not status.operation and "DUE" not in status.conditions


def _volume_rests(status: VolumeStatus) -> bool:
    return status.state in ("ready", "failed")


def _following(app: App) -> Judge:
    """Return a judge that follows the operation of a domain that does not rest."""
    seen: set[str] = set()

    def judge(status: DomainStatus) -> bool:
        if status.operation and status.operation not in seen and len(seen) < FOLLOWED_MAX:
            seen.add(status.operation)
            operation = app.call(OperationShow(id=status.operation), Operation)
            if operation.state not in ENDED:
                follow.follow(app, operation)
        return _rests(status)

    return judge


def _check(app: App, name: str, began: float, *, as_before: bool) -> None:
    """Raise what the domain's last operation failed with, if it came from our change, or from a document that
    is as it was."""
    listed = app.call(OperationList(target=name, limit=1), OperationsListed).operations
    for operation in listed:
        ours = operation.ended >= began or (as_before and operation.who.startswith("lifecycle@"))
        if operation.state is OperationState.FAILED and ours:
            follow.check(operation)
