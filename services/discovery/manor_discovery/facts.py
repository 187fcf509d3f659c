"""What is there, as its owners said it, and whose word is missing. Pure: time comes in as an argument.

The rules:
- A fact belongs to whoever owns the thing: the principal on its node. A domain is its uuid, anything else its
  owner and name. Names are for people: several facts may have one.
- An owner that went keeps its facts, marked stale, until it was gone for the time limit; the state of its
  successor replaces them. The stream itself says what is no more.
- Every kind has one owner on this node that must be heard, whether or not it is there: no word from it
  does not mean that there is nothing. Any other owner counts from when the broker first names it.
- Who says what is not its own to say is not believed; what does not fit any more makes the answer partial.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from manor_bus.peer.events import Change, OwnerSeen
from manor_bus.peer.view import principal
from manor_bus.wire.messages.discovery import AnyFact, Entry
from manor_bus.wire.messages.lifecycle import DomainStatus, NodeStatus

FACTS_MAX: Final = 250_000
PATTERNS: Final[Mapping[str, str]] = {
    "domain": "domain.*",
    "node": "node.*",
    "provider": "provider.*",
    "resource": "resource.*",
    "service": "service.>",
}
_OWNERS: Final[Mapping[str, str]] = {
    "domain": "service/lifecycle",
    "node": "service/lifecycle",
    "provider": "service/devices",
    "resource": "service/devices",
    "service": "bus",
}
SHARED: Final = ("provider", "resource")  # third parties have some of them, too


@dataclass(slots=True)
class _Held:
    """One fact as we hold it. `size` is that of its encoding, in bytes."""

    fact: AnyFact
    said_by: str
    since: float
    size: int


@dataclass(slots=True)
class _Owner:
    """One owner of one kind. `moved`: when it came, was heard or went, on our clock."""

    moved: float
    present: bool = False
    heard: bool = False
    reason: str = ""
    held: dict[str, _Held] = field(default_factory=dict)
    too_many: bool = False


class Facts:
    """All facts on all nodes. `node` is ours, `keep_s` how long the word of a vanished owner counts."""

    def __init__(self, *, node: str, keep_s: float, now: float) -> None:
        self._keep_s = keep_s
        self._count = 0
        self._owners: dict[str, dict[str, _Owner]] = {
            kind: {f"{label}@{node}": _Owner(now)} for kind, label in _OWNERS.items()
        }
        self._expected = {kind: f"{label}@{node}" for kind, label in _OWNERS.items()}

    # --- events ---------------------------------------------------------------------------------------

    def lost(self, now: float) -> None:
        """The broker is a new one, or has forgotten us: nobody counts as heard before it is heard again."""
        for owners in self._owners.values():
            for owner in owners.values():
                if owner.heard:
                    owner.heard, owner.moved, owner.reason = False, now, "the bus was away"

    def seen(self, kind: str, news: OwnerSeen, now: float) -> None:
        """An owner came, was heard to the end, or went."""
        owner = self._owners[kind].setdefault(principal(news.address), _Owner(now))
        if (owner.present, owner.heard) != (news.present, news.heard):
            owner.moved = now
        if not news.heard:
            owner.too_many = False  # its whole state comes again
        owner.present, owner.heard, owner.reason = news.present, news.heard, news.reason

    def changed(self, kind: str, change: Change, size: int, now: float, wall: float) -> str:
        """Take one change (`size`: of its encoding, `wall`: seconds since 1970); say why it was not taken."""
        who = principal(change.sender)
        key = change.subject.partition(".")[2]
        owner = self._owners[kind].get(who)
        before = owner.held.get(key) if owner is not None else None
        if change.value is None:
            if owner is not None and before is not None:
                del owner.held[key]
                self._count -= 1
            return ""
        if not change.epoch:
            return "passing news is not state"
        wrong = _refusal(kind, key, who, change.value)
        if wrong:
            return wrong
        owner = self._owners[kind].setdefault(who, _Owner(now))
        if before is None:
            if self._count >= FACTS_MAX:
                owner.too_many = True
                return f"{FACTS_MAX} facts are the limit"
            self._count += 1
        since = wall if before is None else before.since
        owner.held[key] = _Held(change.value, change.sender, since, size)
        return ""

    # --- questions ------------------------------------------------------------------------------------

    def find(self, kind: str, name: str, now: float) -> Iterator[tuple[Entry, int]]:
        """Yield the facts of a kind with their sizes, those of one name (or uuid) if it is given."""
        best: dict[tuple[str, str], tuple[tuple[bool, int, int], Entry, int]] = {}
        for who, owner in self._owners[kind].items():
            if self._over(owner, now):
                continue
            age = 0 if owner.heard else max(1, int((now - owner.moved) * 1000))
            for key, held in owner.held.items():
                fact = held.fact
                if name and name not in (fact.name, key):
                    continue
                entry = Entry(fact=fact, owner=held.said_by, since=held.since, heard=age, stale=age > 0)
                if isinstance(fact, DomainStatus):  # it may have moved: the newest word counts
                    rank, identity = (owner.heard, fact.incarnation, fact.generation), ("", key)
                else:
                    rank, identity = (owner.heard, 0, 0), (who, key)
                known = best.get(identity)
                if known is None or known[0] < rank:
                    best[identity] = rank, entry, held.size
        for _, entry, size in best.values():
            yield entry, size

    def missing(self, kind: str, now: float) -> tuple[str, ...]:
        """Say whose word on a kind is missing, and why; empty: we know all there is."""
        return tuple(
            f"{who} {_why(owner, now)}"
            for who, owner in sorted(self._owners[kind].items())
            if owner.too_many or self._waits(kind, who, owner, now)
        )

    def moved(self, kind: str, now: float) -> float:
        """Return when the last of the missing owners came or went: who is gone for long is not waited for."""
        owners = self._owners[kind].items()
        return max((o.moved for who, o in owners if self._waits(kind, who, o, now)), default=float("-inf"))

    def _waits(self, kind: str, who: str, owner: _Owner, now: float) -> bool:
        return not owner.heard and (who == self._expected[kind] or not self._over(owner, now))

    def _over(self, owner: _Owner, now: float) -> bool:
        return not owner.present and now - owner.moved >= self._keep_s


def _why(owner: _Owner, now: float) -> str:
    if owner.heard:
        return f"has more than we hold ({FACTS_MAX} facts)"
    since = f"since {now - owner.moved:.0f} s"
    if owner.present:
        return f"is there {since}, but was not heard to the end yet"
    if owner.reason:
        return f"is gone {since} ({owner.reason})"
    return f"was not heard yet, {since}"


def _refusal(kind: str, key: str, who: str, fact: object) -> str:
    """Say why this owner cannot mean this under this subject; empty when it can."""
    label, _, node = who.partition("@")
    if not isinstance(fact, AnyFact) or fact.__struct_config__.tag != kind:
        return f"it is no {kind}"
    if kind not in SHARED and label != _OWNERS[kind]:
        return f"{label} does not own it"
    named = fact.uuid if isinstance(fact, DomainStatus) else fact.name
    there = fact.name if isinstance(fact, NodeStatus) else fact.node
    return "" if (named, there) == (key, node) else "its name or node is not that of its subject and owner"
