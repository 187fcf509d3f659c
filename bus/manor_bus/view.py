"""A subscriber's view of the objects under a pattern, kept equal to the owners' state. Pure.

Each owner numbers its changes (epoch, rev). The view asks an owner for a snapshot when it first hears of it,
when its epoch changed, and when items were lost; changes that arrive meanwhile wait. An owner that went away
leaves its objects in the view until its successor's snapshot says what became of them: a restart removes
nothing.
Source: design page "The bus", section Events are state streams.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from manor_bus import codec
from manor_bus.envelope import Envelope
from manor_bus.messages.bus import Owner, OwnerChanged
from manor_bus.messages.catalogue import EVENT_BY_TYPE
from manor_bus.messages.node import SnapshotItem
from manor_bus.subjects import matches


@dataclass(frozen=True)
class Fetch:
    """The shell shall ask this owner for its snapshot and feed `snapshot` or `failed`."""

    address: str


@dataclass(frozen=True)
class News:
    """One change for the application; `wire` is None when the object is gone."""

    subject: str
    sender: str
    epoch: str
    rev: int
    type: str
    data: codec.Body | None


@dataclass(frozen=True)
class AllKnown:
    """The view equals the state of every owner that answered."""


@dataclass(frozen=True)
class Change:
    """What an application sees: a new value of one object.

    `value` is None when the object is gone, and plain builtins when its type is not in the catalogue.
    """

    subject: str
    value: Any
    sender: str = ""
    epoch: str = ""
    rev: int = 0
    type: str = ""


@dataclass(frozen=True)
class Synced:
    """What an application sees when everything that is there now has been told."""


Action = Fetch | News | AllKnown


@dataclass
class _Owner:
    address: str
    epoch: str = ""
    rev: int = 0
    fetching: bool = False
    waiting: list[tuple[str, Envelope]] = field(default_factory=list)
    objects: dict[str, tuple[str, int]] = field(default_factory=dict)  # subject -> (epoch, rev)


def base(address: str) -> str:
    """Return who owns, without the instance: successors of one instance continue its state."""
    return address.partition("/")[0] + "/" + address.partition("/")[2].partition("/")[0]


class View:
    """All owners and objects under one pattern."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self._owners: dict[str, _Owner] = {}
        self._told = False

    def live(self, owners: tuple[Owner, ...]) -> list[Action]:
        """The subscription is live (again): ask everybody."""
        self._told = False
        for gone in set(self._owners) - {base(owner.address) for owner in owners}:
            self._owners[gone].fetching = False
            self._owners[gone].waiting.clear()
        actions: list[Action] = [self._fetch(owner.address) for owner in owners]
        return actions + self._all_known()

    def missed(self) -> list[Action]:
        """Items were lost: ask everybody again."""
        self._told = False
        return [self._fetch(owner.address) for owner in self._owners.values()]

    def owner_changed(self, news: OwnerChanged) -> list[Action]:
        """An owner came or went."""
        key = base(news.owner.address)
        if news.present:
            self._told = False
            return [self._fetch(news.owner.address)]
        owner = self._owners.get(key)
        if owner is not None and owner.address == news.owner.address and owner.fetching:
            owner.fetching = False
            owner.waiting.clear()
            owner.epoch = ""
        return self._all_known()

    def item(self, sender: str, wire: Envelope) -> list[Action]:
        """One event arrived."""
        if not wire.epoch:
            return [News(wire.subject, sender, "", 0, wire.type, _body(wire))]
        owner = self._owners.get(base(sender))
        if owner is None or (owner.address != sender and wire.epoch > owner.epoch):
            self._told = False
            fetch = self._fetch(sender)
            self._owners[base(sender)].waiting.append((sender, wire))
            return [fetch]
        if owner.address != sender:
            return []  # a predecessor's last words
        if owner.fetching:
            owner.waiting.append((sender, wire))
            return []
        return self._apply(owner, sender, wire)

    def snapshot(self, address: str, epoch: str, rev: int, items: list[SnapshotItem]) -> list[Action]:
        """An owner's snapshot is complete."""
        owner = self._owners.get(base(address))
        if owner is None or owner.address != address or not owner.fetching:
            return []
        present = {item.subject for item in items}
        actions: list[Action] = [
            News(subject, address, epoch, rev, "", None)
            for subject in owner.objects
            if subject not in present
        ]
        for item in items:
            if owner.objects.get(item.subject) != (epoch, item.rev) and matches(self.pattern, item.subject):
                actions.append(
                    News(item.subject, address, epoch, item.rev, item.type, codec.Body(item.value))
                )
        owner.objects = {item.subject: (epoch, item.rev) for item in items}
        owner.epoch, owner.rev, owner.fetching = epoch, rev, False
        waiting, owner.waiting = owner.waiting, []
        for sender, wire in waiting:
            actions += self._apply(owner, sender, wire)
        return actions + self._all_known()

    def failed(self, address: str) -> list[Action]:
        """An owner could not be asked; its successor will announce itself."""
        owner = self._owners.get(base(address))
        if owner is not None and owner.address == address:
            owner.fetching = False
            owner.epoch = ""
            owner.waiting.clear()
        return self._all_known()

    def _apply(self, owner: _Owner, sender: str, wire: Envelope) -> list[Action]:
        if wire.epoch != owner.epoch:
            if wire.epoch < owner.epoch:
                return []
            self._told = False
            return [self._fetch(sender)]
        if wire.rev <= owner.rev:
            return []
        before = owner.objects.get(wire.subject)
        owner.rev = wire.rev
        gone = wire.data == codec.NIL
        if gone and before is None:
            return []
        if gone:
            del owner.objects[wire.subject]
        else:
            owner.objects[wire.subject] = (wire.epoch, wire.rev)
        data = None if gone else _body(wire)
        return [News(wire.subject, sender, wire.epoch, wire.rev, wire.type, data)]

    def _fetch(self, address: str) -> Fetch:
        owner = self._owners.setdefault(base(address), _Owner(address))
        owner.address, owner.fetching = address, True
        owner.waiting.clear()
        return Fetch(address)

    def _all_known(self) -> list[Action]:
        if self._told or any(owner.fetching for owner in self._owners.values()):
            return []
        self._told = True
        return [AllKnown()]


def _body(wire: Envelope) -> codec.Body:
    return codec.Body(wire.data)


def reading(view: View | None, sender: str, wire: Envelope) -> list[Action]:
    """Take one item of a subscription with a view, or without one."""
    if wire.subject == "bus.owner" and sender.startswith("bus@"):
        return view.owner_changed(codec.decode(wire.data, OwnerChanged)) if view is not None else []
    if view is not None:
        return view.item(sender, wire)
    data = None if wire.data == codec.NIL else _body(wire)
    return [News(wire.subject, sender, wire.epoch, wire.rev, wire.type, data)]


def change_of(news: News) -> Change:
    """Decode what the application gets."""
    event = EVENT_BY_TYPE.get(news.type)
    wanted: type[Any] = event.body if event is not None else object
    value = None if news.data is None else news.data.read(wanted)
    return Change(news.subject, value, news.sender, news.epoch, news.rev, news.type)
