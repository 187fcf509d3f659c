"""Who uses what: images (written by one or read by many, unless all share), back ends, volumes. Pure.

A volume that shares the clusters of other images claims to read them for as long as it exists, attached or
not: whoever wrote one of them would destroy it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Final

from manor_bus.wire.messages.devices import ConnectionState, DeviceKey
from manor_devices.backends import Claim
from manor_devices.connection import Connection

S = ConnectionState
SAVED: Final = "saved"
Key = tuple[str, int, str]


def key_of(key: DeviceKey) -> Key:
    """Return a device key that can be a dictionary's."""
    return key.uuid, key.incarnation, key.id


def holds(connection: Connection) -> bool:
    """Return whether a connection keeps its back end, or may still have something of it."""
    failed = connection.state is S.FAILED and not connection.leaving
    return connection.state not in (S.ABSENT, S.WAITING) and not failed


def name_of(connection: Connection) -> str:
    """Return `domain/device`."""
    return f"{connection.request.domain}/{connection.request.key.id}"


@dataclass(frozen=True, slots=True)
class Clash:
    """Two claims of one resource that exclude each other, and who has the one that is there."""

    mine: Claim
    theirs: Claim
    name: str
    saved: bool = False  # it is a domain that may be saved

    @property
    def reason(self) -> str:
        """Say who keeps whom away."""
        if self.theirs.founded:
            return f"{self.mine.name} may only be read: {self.name} stands on it"
        return f"{self.mine.name} is being {'written' if self.theirs.write else 'read'} by {self.name}"

    @property
    def hint(self) -> str:
        """Say what to do about it."""
        if self.theirs.founded:
            return "Say readonly: true, or attach a clone of it."
        if self.saved:
            return "Restore that domain, or throw its saved state away: manor discard."
        return "Detach it there, or say shareable: true in both (only for file systems made for that)."


def _is_saved(claimant: Hashable) -> bool:
    return isinstance(claimant, tuple) and claimant[0] == SAVED


def _one(key: Hashable, claimant: Hashable) -> bool:
    """Return whether both are one, or what is held for a domain and a device of its next run."""
    return key == claimant or (_is_saved(claimant) and isinstance(key, tuple) and (SAVED, key[0]) == claimant)


@dataclass
class Uses:
    """What all connections and volumes hold, by what is held."""

    _claims: dict[Hashable, tuple[str, tuple[Claim, ...]]] = field(default_factory=dict)
    _claimants: dict[str, dict[Hashable, None]] = field(default_factory=dict)
    _users: dict[str, dict[Hashable, str]] = field(default_factory=dict)
    _volumes: dict[str, dict[Hashable, tuple[str, bool]]] = field(default_factory=dict)

    def hold(self, key: Hashable, connection: Connection) -> bool:
        """Take a connection as it is now into account; True: its back end is used by more or fewer."""
        name, disk = name_of(connection), connection.request.disk
        self.claim(key, name, connection.claims)
        if disk is not None and disk.volume:
            self._volumes.setdefault(disk.volume, {})[key] = (name, not disk.read_only)
            if not holds(connection):
                del self._volumes[disk.volume][key]
        users = self._users.setdefault(connection.target.provider, {})
        before = len(users)
        users[key] = name
        if not holds(connection):
            del users[key]
        return len(users) != before

    def users(self, provider: str) -> tuple[str, ...]:
        """Name the connections that use a back end."""
        return tuple(self._users.get(provider, {}).values())

    def of_volume(self, volume: str) -> tuple[tuple[str, bool], ...]:
        """Name the connections that use a volume, and whether they write."""
        return tuple(self._volumes.get(volume, {}).values())

    def save(
        self, uuid: str, name: str, claims: tuple[Claim, ...], volumes: Mapping[str, bool | None]
    ) -> None:
        """Hold what a domain uses that may be saved; a volume with None is let go."""
        key = (SAVED, uuid)
        self.claim(key, name, claims)
        for volume, writes in volumes.items():
            self._volumes.setdefault(volume, {}).pop(key, None)
            if writes is not None:
                self._volumes[volume][key] = (name, writes)

    def claim(self, key: Hashable, name: str, claims: tuple[Claim, ...]) -> None:
        """Replace the claims of a connection."""
        _, before = self._claims.pop(key, ("", ()))
        for claim in before:
            self._claimants.get(claim.resource, {}).pop(key, None)
            if not self._claimants.get(claim.resource):
                self._claimants.pop(claim.resource, None)
        if claims:
            self._claims[key] = (name, claims)
        for claim in claims:
            self._claimants.setdefault(claim.resource, {})[key] = None

    def clash(self, key: Hashable, wanted: tuple[Claim, ...]) -> Clash | None:
        """Return with whose claims those of a connection or volume cannot be had, if there is somebody."""
        for mine in wanted:
            for claimant in self._claimants.get(mine.resource, {}):
                name, claims = self._claims[claimant]
                for theirs in claims:
                    both_share = mine.shareable and theirs.shareable
                    same = mine.resource == theirs.resource and (mine.write or theirs.write)
                    if same and not both_share and not _one(key, claimant):
                        return Clash(mine, theirs, name, saved=_is_saved(claimant))
        return None
