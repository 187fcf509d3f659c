"""A subscriber's view of the objects under a pattern, kept equal to the owners' state. Pure.

Each instance of an owner numbers its changes (epoch, rev). The view asks an instance for a snapshot when it
first hears of it and when its predecessor left; changes that arrive meanwhile wait. Of several instances the
one with the greatest epoch counts. One that went away leaves its objects in the view until its successor's
snapshot says what became of them: a restart removes nothing. When items were lost, the shell subscribes anew.
Source: design page "The bus", section Events are state streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from manor_bus.peer.events import Change, Noted, OwnerSeen, Synced
from manor_bus.wire import codec
from manor_bus.wire.envelope import Envelope
from manor_bus.wire.envelope import Kind as Frame
from manor_bus.wire.errors import ManorError
from manor_bus.wire.messages.bus import Owner, OwnerChanged
from manor_bus.wire.messages.catalogue import EVENT_BY_TYPE
from manor_bus.wire.messages.node import SnapshotItem
from manor_bus.wire.subjects import matches

OWNER_NEWS: Final = "bus.owner"


class Fetch(msgspec.Struct, frozen=True):
    """The shell shall ask this instance for its snapshot and feed `snapshot` or `failed`.

    `again`: it could not be asked just now, so wait a little first.
    """

    address: str
    number: int
    again: bool = False


Action = Fetch | Change | Noted | Synced | OwnerSeen


@dataclass
class _Asked:
    """A snapshot under way, and by subject the newest of what came meanwhile, oldest first."""

    number: int
    waiting: dict[str, Envelope] = field(default_factory=dict)
    failing: bool = False


@dataclass
class _Owner:
    """All instances of one principal on one node; the objects are those of `address` at (epoch, rev)."""

    attached: dict[str, tuple[str, ...]] = field(default_factory=dict)  # address -> what it may own
    asked: dict[str, _Asked] = field(default_factory=dict)
    address: str = ""
    epoch: str = ""
    rev: int = 0
    objects: dict[str, tuple[str, int]] = field(default_factory=dict)  # subject -> (epoch, rev)
    told: tuple[str, bool, bool] | None = None

    def seen(self, principal: str, reason: str) -> OwnerSeen:
        """Return where it stands."""
        counts = self.address in self.attached and self.address not in self.asked
        newest = next(reversed(self.attached), self.address or principal)
        return OwnerSeen(newest, bool(self.attached), bool(self.epoch) and counts, reason)


def principal(address: str) -> str:
    """Return who owns, without the instance: successors of one instance continue its state."""
    label, _, place = address.partition("@")
    return f"{label}@{place.partition('/')[0]}"


class View:
    """All owners and objects under one pattern. Without `snapshot` nobody is asked: what passes is told.

    `owners`: where each owner stands is told, too.
    """

    def __init__(self, pattern: str, *, snapshot: bool = True, owners: bool = False) -> None:
        self.pattern = pattern
        self._snapshot, self._tells_owners = snapshot, owners
        self._owners: dict[str, _Owner] = {}
        self._told = False
        self._fetches = 0

    def live(self, owners: tuple[Owner, ...]) -> list[Action]:
        """The subscription is live (again): ask everybody."""
        if not self._snapshot:
            return [Synced()]
        self._told = False
        for known in self._owners.values():
            known.attached.clear()
            known.asked.clear()
            known.epoch = ""
        actions: list[Action] = [self._attach(owner) for owner in owners]
        for name in self._owners:
            actions += self._seen(name, "not attached")
        return actions + self._all_known()

    def owner_changed(self, news: OwnerChanged) -> list[Action]:
        """An owner came or went."""
        address = news.owner.address
        if news.present:
            return [self._attach(news.owner), *self._seen(principal(address))]
        owner = self._owners.get(principal(address))
        if owner is None:
            return []
        owner.attached.pop(address, None)
        owner.asked.pop(address, None)
        actions: list[Action] = []
        if owner.address == address:
            owner.epoch = ""  # whoever is still there counts now, also an older one
            actions = [self._fetch(other) for other in owner.attached if other not in owner.asked]
        return actions + self._seen(principal(address), news.reason) + self._all_known()

    def item(self, sender: str, wire: Envelope) -> list[Action]:
        """One event arrived; raises ManorError when it is news of owners that cannot be read."""
        if wire.subject == OWNER_NEWS and sender.startswith("bus@"):
            return self.owner_changed(codec.read_body(wire.data, OwnerChanged)) if self._snapshot else []
        if not wire.epoch or not self._snapshot:
            return [_change(wire, sender)]
        owner = self._owners.get(principal(sender))
        if owner is None or sender not in owner.attached:
            return []  # who does not own it (any more) has no say
        actions: list[Action] = []
        if sender not in owner.asked:
            if sender == owner.address and wire.epoch == owner.epoch:
                return [_change(wire, sender)] if self._applies(owner, wire) else []
            if wire.epoch <= owner.epoch:
                return []  # a predecessor's last words
            actions.append(self._fetch(sender))
        waiting = owner.asked[sender].waiting
        waiting.pop(wire.subject, None)
        waiting[wire.subject] = wire
        return actions

    def snapshot(self, fetch: Fetch, epoch: str, rev: int, items: Sequence[SnapshotItem]) -> list[Action]:
        """An owner's snapshot is complete."""
        owner = self._taken(fetch)
        if owner is None:
            return []
        asked = owner.asked.pop(fetch.address)
        if asked.failing:
            self._told = False
        if epoch < owner.epoch:  # a predecessor that has not left yet
            return self._seen(principal(fetch.address)) + self._all_known()
        present = {item.subject: item for item in items if self._may_own(owner, fetch.address, item.subject)}
        actions: list[Action] = [
            Change(subject, None, fetch.address, epoch, rev)
            for subject in owner.objects
            if subject not in present
        ]
        for item in present.values():
            if owner.objects.get(item.subject) != (epoch, item.rev):
                wire = Envelope(
                    k=Frame.PUB,
                    subject=item.subject,
                    epoch=epoch,
                    rev=item.rev,
                    type=item.type,
                    data=item.value,
                )
                actions.append(_change(wire, fetch.address))
        owner.objects = {item.subject: (epoch, item.rev) for item in present.values()}
        owner.address, owner.epoch, owner.rev = fetch.address, epoch, rev
        for wire in asked.waiting.values():
            if wire.epoch == epoch and self._applies(owner, wire):
                actions.append(_change(wire, fetch.address))
        return actions + self._seen(principal(fetch.address)) + self._all_known()

    def failed(self, fetch: Fetch) -> list[Action]:
        """An owner could not be asked: try again while it is attached, but let nobody wait for it."""
        owner = self._taken(fetch)
        if owner is None:
            return []
        del owner.asked[fetch.address]
        actions: list[Action] = []
        if fetch.address in owner.attached:
            actions = [self._fetch(fetch.address, again=True)]
        return actions + self._all_known()

    def wants(self, fetch: Fetch) -> bool:
        """Whether the snapshot is still awaited: no later one has taken its place."""
        return self._taken(fetch) is not None

    def _taken(self, fetch: Fetch) -> _Owner | None:
        """Return whose fetch it is, if no later one has taken its place."""
        owner = self._owners.get(principal(fetch.address))
        asked = owner.asked.get(fetch.address) if owner is not None else None
        return owner if asked is not None and asked.number == fetch.number else None

    def _applies(self, owner: _Owner, wire: Envelope) -> bool:
        """Take a change of the present owner; False when it is old, or the end of what is not known."""
        if wire.rev <= owner.rev:
            return False
        owner.rev = wire.rev
        if wire.data == codec.NIL:
            return owner.objects.pop(wire.subject, None) is not None
        owner.objects[wire.subject] = (wire.epoch, wire.rev)
        return True

    def _attach(self, owner: Owner) -> Fetch:
        self._owners.setdefault(principal(owner.address), _Owner()).attached[owner.address] = owner.owns
        return self._fetch(owner.address)

    def _may_own(self, owner: _Owner, address: str, subject: str) -> bool:
        owns = owner.attached.get(address, ())
        return matches(self.pattern, subject) and any(matches(pattern, subject) for pattern in owns)

    def _seen(self, name: str, reason: str = "") -> list[Action]:
        owner = self._owners[name]
        now = owner.seen(name, reason)
        before, owner.told = owner.told, (now.address, now.present, now.heard)
        return [now] if self._tells_owners and before != owner.told else []

    def _fetch(self, address: str, *, again: bool = False) -> Fetch:
        self._told = self._told and again
        self._fetches += 1
        self._owners[principal(address)].asked[address] = _Asked(self._fetches, failing=again)
        return Fetch(address, self._fetches, again)

    def _all_known(self) -> list[Action]:
        pending = (asked for owner in self._owners.values() for asked in owner.asked.values())
        if self._told or not all(asked.failing for asked in pending):
            return []
        self._told = True
        return [Synced()]


def _change(wire: Envelope, sender: str) -> Change | Noted:
    """Return an event as an application gets it, or why it does not: it is not what its type says."""
    event = EVENT_BY_TYPE.get(wire.type)
    try:
        value = None
        if wire.data != codec.NIL:
            value = codec.read_body(wire.data, object if event is None else event.body)
    except ManorError as error:
        return Noted(f"left out {wire.subject} of {sender}: {error}")
    return Change(wire.subject, value, sender, wire.epoch, wire.rev, wire.type)
