"""All domains of this node: who is meant by a name, and which owner is told of what.

Identity is the uuid. A name is an index: of several domains that claim it the documented one is meant.
Nothing here waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Final, Protocol

from manor_bus.wire.errors import not_found
from manor_bus.wire.messages.devices import DeviceStatus
from manor_bus.wire.messages.documents import Domain
from manor_bus.wire.messages.lifecycle import State
from manor_lifecycle.domain.events import Hint, LinkIs, NeedsAre, PlaceIs, WishIs
from manor_lifecycle.domain.states import state
from manor_lifecycle.domain.tidy import tidy
from manor_lifecycle.domain.values import Core, Place
from manor_lifecycle.domain.wishes import wants_to_run
from manor_lifecycle.hypervisors import Changed
from manor_lifecycle.hypervisors.seen import Seen
from manor_lifecycle.owner import Owner
from manor_lifecycle.records import is_mine
from manor_lifecycle.site import Site

GONE: Final = frozenset({State.DELETED})
HIDDEN: Final = frozenset({State.DELETED, State.LOST})


class Told(Protocol):
    """Who is told of every change; see `publishing`."""

    def changed(self, owner: Owner) -> None:
        """A domain may look different now."""

    def removed(self, owner: Owner) -> None:
        """A domain is no more."""


class Domains:
    """The owners on this node, by uuid and by name."""

    def __init__(self, site: Site, told: Told) -> None:
        self._site, self._told = site, told
        self.by_uuid: dict[str, Owner] = {}
        self._names: dict[str, dict[str, None]] = {}  # name -> uuids of those that claim it
        self._named: dict[str, str] = {}  # uuid -> the name under which it is indexed
        self._users: dict[str, set[str]] = {}  # name -> uuids of those that depend on it
        self._settling: asyncio.Handle | None = None
        self._touched: dict[str, None] = {}
        self._documents: dict[str, str] = {}  # name -> uuid
        self._leaving: set[asyncio.Task[None]] = set()

    # --- look up -------------------------------------------------------------------------------------------

    def find(self, name: str) -> Owner:
        """Return a domain by name or uuid; `not_found` otherwise."""
        claims = [self.by_uuid[uuid] for uuid in self._names.get(name, ())]
        claims.sort(key=lambda owner: (owner.core.wish is None, owner.core.living is None))
        owner = claims[0] if claims else self.by_uuid.get(name)
        if owner is None or state(owner.core) in GONE:
            message = f"there is no domain {name!r} on node {self._site.place.node}"
            raise not_found(message, hint="List them: manor list")
        return owner

    def listed(self) -> list[Owner]:
        """Return the domains that there are."""
        return [owner for owner in self.by_uuid.values() if state(owner.core) not in HIDDEN]

    def names_of_users(self, owner: Owner) -> tuple[str, ...]:
        """Return the living domains that depend on one."""
        users = (self.by_uuid.get(uuid) for uuid in self._users.get(owner.core.name, ()))
        return tuple(sorted(user.core.name for user in users if user is not None and user.core.living))

    def add(self, core: Core) -> Owner:
        """Take a domain in."""
        owner = self.by_uuid[core.uuid] = Owner(self._site, core, self._changed)
        if core.wish is not None:
            self._documents[core.wish.metadata.name] = core.uuid
        self._index(owner)
        self._learn_needs(owner)
        return owner

    def _index(self, owner: Owner) -> None:
        before, name = self._named.get(owner.uuid), owner.core.name
        if before == name:
            return
        if before is not None:
            self._unindex(owner.uuid)
        self._named[owner.uuid] = name
        self._names.setdefault(name, {})[owner.uuid] = None
        self._touch(name)

    def _unindex(self, uuid: str) -> None:
        name = self._named.pop(uuid)
        claims = self._names[name]
        claims.pop(uuid, None)
        if not claims:
            del self._names[name]
        self._touch(name)

    def _changed(self, owner: Owner) -> None:
        """An owner's core is different: what others need of it may be, too."""
        self._index(owner)
        for name in (owner.core.name, *owner.core.spec.depends_on):
            self._touch(name)
        core = owner.core
        if state(core) not in HIDDEN or core.doing is not None or core.waiting:
            self._told.changed(owner)
            return
        self._told.removed(owner)  # whatever is still to be tidied
        if self._is_no_more(core):
            self._touched[owner.uuid] = None
            self._soon()

    def _touch(self, name: str) -> None:
        if name in self._users or len(self._names.get(name, ())) != 1:
            self._touched[name] = None
            self._soon()

    def _soon(self) -> None:
        if self._settling is None:
            self._settling = asyncio.get_running_loop().call_soon(self._settle)

    def _settle(self) -> None:
        """Tell those that need a name, or share it, how things are; let go of what is no more."""
        self._settling = None
        touched, self._touched = self._touched, {}
        for name in touched:
            owner = self.by_uuid.get(name)
            if owner is not None and self._is_no_more(owner.core):
                self._remove(owner)
            for uuid in (*self._users.get(name, ()), *self._names.get(name, ())):
                if (other := self.by_uuid.get(uuid)) is not None:
                    self._tell_needs(other)

    def _is_no_more(self, core: Core) -> bool:
        idle = core.doing is None and not core.waiting and not core.busy
        return state(core) in HIDDEN and idle and tidy(core) is None

    def _remove(self, owner: Owner) -> None:
        del self.by_uuid[owner.uuid]
        self._unindex(owner.uuid)
        self._site.operations.forget(owner.uuid)
        self._told.removed(owner)
        task = asyncio.get_running_loop().create_task(owner.close())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def publish(self, owner: Owner) -> None:
        """Tell of a domain as it is."""
        self._told.changed(owner)

    async def close(self) -> None:
        """Stop all owners where they are."""
        await asyncio.gather(*(owner.close() for owner in self.by_uuid.values()))

    # --- documents -----------------------------------------------------------------------------------------

    def document(self, name: str, document: Domain | None) -> None:
        """A document is there, was changed, or is gone (None)."""
        uuid = document.metadata.uuid if document is not None else self._documents.pop(name, "")
        if document is not None:
            self._displace(name, uuid)
        owner = self.by_uuid.get(uuid)
        wish = owner.core.wish if owner is not None else None
        if document is None and wish is not None and wish.metadata.name != name:
            return  # it has another name now
        if owner is None:
            kept = self._site.records.known.get(uuid)
            if document is None or not is_mine(document, kept, self._site.place.node):
                return
            core = fresh(self._site, uuid, document, Seen(uuid))
            owner = self.add(core)
            self._tell_needs(owner)
            self._told.changed(owner)
        owner.take(WishIs(document))
        self._learn_needs(owner)
        self._tell_needs(owner)

    def _displace(self, name: str, uuid: str) -> None:
        """Another document may have this name now, as after a restored backup."""
        before = self.by_uuid.get(self._documents.get(name, ""))
        self._documents[name] = uuid
        if before is None or before.uuid == uuid or before.core.wish is None:
            return
        if before.core.wish.metadata.name == name:
            before.take(WishIs(None))

    def _learn_needs(self, owner: Owner) -> None:
        for name in owner.core.spec.depends_on:
            self._users.setdefault(name, set()).add(owner.uuid)

    def _tell_needs(self, owner: Owner) -> None:
        core = owner.core
        missing = tuple(name for name in core.spec.depends_on if self._is_off(name))
        others = (self.by_uuid[uuid] for uuid in self._names.get(core.name, ()) if uuid != core.uuid)
        taken = next((other.uuid for other in others if other.core.living is not None), "")
        users = self.names_of_users(owner)
        if (missing, users, taken) != (core.missing, core.users, core.name_taken):
            owner.take(NeedsAre(missing, users, taken))

    def _is_off(self, name: str) -> bool:
        """A name that is not here is not waited for: it may be on another node."""
        claims = [self.by_uuid[uuid] for uuid in self._names.get(name, ())]
        return bool(claims) and all(state(one.core) is not State.RUNNING for one in claims)

    # --- what happens --------------------------------------------------------------------------------------

    def happened(self, hypervisor: str, event: Changed) -> None:
        """A hypervisor reports something: a hint to look. A guest that is not ours is listed (rule L18)."""
        owner = self.by_uuid.get(event.uuid)
        if owner is None and event.foreign:
            core = fresh(self._site, event.uuid, None, Seen(event.uuid))
            owner = self.add(replace(core, name=self._free_name(event.foreign), hypervisor=hypervisor))
        if owner is not None:
            owner.take(Hint(heard=event.answered))

    def _free_name(self, name: str) -> str:
        name = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)[:48]
        return f"foreign-{name}" if name in self._names else name

    def link(self, status: DeviceStatus | None, key: tuple[str, int, str]) -> None:
        """A connection changed its state, or is gone (None)."""
        uuid, born, name = key
        owner = self.by_uuid.get(uuid)
        if owner is not None:
            owner.take(LinkIs((born, name), status))

    def place(self, place: Place) -> None:
        """The node is different."""
        self._site.place = place
        for owner in list(self.by_uuid.values()):
            owner.take(PlaceIs(place))

    def wake(self) -> None:
        """All see to what is due, in the order in which they are to start."""
        for owner in list(self.by_uuid.values()):
            self._tell_needs(owner)
        at = self._site.now().at
        for owner in sorted(self.by_uuid.values(), key=_order):
            core = owner.core
            if wants_to_run(core):
                at += core.spec.start_delay_s
                owner.core = replace(core, hold_starts_until=at)
            owner.wake()


def _order(owner: Owner) -> tuple[int, str]:
    return owner.core.spec.start_order, owner.core.name


def fresh(site: Site, uuid: str, document: Domain | None, seen: Seen, hypervisor: str = "") -> Core:
    """Return what is known of a domain at first."""
    kept = site.records.known.get(uuid)
    record = kept.record if kept is not None else None
    wished = document.spec.hypervisor if document is not None else ""
    run = seen.run
    began = site.now().at - run.uptime_s if run is not None else None
    named = (run.name if run is not None else "") or (record.name if record is not None else "")
    return Core(
        uuid=uuid,
        place=site.place,
        name=document.metadata.name if document is not None else named or uuid,
        wish=document,
        record=record,
        revision=kept.revision if kept is not None else 0,
        hypervisor=hypervisor
        or (record.hypervisor if record else "")
        or wished
        or site.place.default_hypervisor,
        seen=seen,
        began=began,
        treated=record.incarnation if record is not None and not record.run else 0,
        stale=bool(seen.unknown),
    )


def uuids(*sources: Iterable[str]) -> tuple[str, ...]:
    """Return every uuid that anybody knows of, once."""
    return tuple(dict.fromkeys(uuid for source in sources for uuid in source))
