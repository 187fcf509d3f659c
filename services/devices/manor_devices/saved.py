"""Disks of domains that are saved: as much in use as those of a running one, until restored or discarded.

What a run had open when it ended is held for it, by identity, until lifecycle says that it is not saved.
While lifecycle cannot be asked, it may be.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from manor_bus.wire.errors import ManorError, denied_state
from manor_bus.wire.messages.lifecycle import DomainStatus, State
from manor_devices.backends import Claim
from manor_devices.connection import Connection
from manor_devices.records import Records
from manor_devices.uses import Uses, key_of

SOON_S: Final = 2.0
AGAIN_S: Final = 60.0
MAY_BE_SAVED: Final = frozenset(
    {State.SUSPENDED, State.SUSPENDING, State.RESTORING, State.LOST, State.FAILED}
)
log = logging.getLogger(__name__)

Ask = Callable[[], Awaitable[Mapping[str, DomainStatus]]]


@dataclass(frozen=True, slots=True)
class Held:
    """What a run had when it ended: who it was, its claims, its disks by id, its volumes by name."""

    domain: str
    claims: tuple[Claim, ...]
    disks: dict[str, str]  # identity: of the volume, else of the file
    volumes: dict[str, bool]  # whether it wrote them


def held_of(connections: Sequence[Connection]) -> Held | None:
    """Return what a run has open, or None: nothing that could be lost."""
    claims: dict[Claim, None] = {}
    disks: dict[str, str] = {}
    volumes: dict[str, bool] = {}
    for connection in connections:
        disk = connection.request.disk
        if disk is not None and connection.attached and connection.claims:
            claims |= dict.fromkeys(connection.claims)
            disks[disk.id] = identity(connection, connection.claims)
            volumes |= {disk.volume: not disk.read_only} if disk.volume else {}
    return Held(connections[0].request.domain, tuple(claims), disks, volumes) if disks else None


def identity(connection: Connection, claims: tuple[Claim, ...]) -> str:
    """Return what stays the same of a disk as long as its content is the same one."""
    return connection.target.volume or (claims[0].resource if claims else "")


class Saved:
    """What is held for domains that may be saved. `changed(volume)` tells that a volume is used no more."""

    def __init__(self, records: Records, uses: Uses, ask: Ask, changed: Callable[[str], None]) -> None:
        self._records = records
        self._uses = uses
        self._ask = ask
        self._changed = changed
        self._held: dict[str, Held] = {}  # by the uuid of the domain
        self._woken = asyncio.Event()
        for key in records.keys("held/"):
            held = records.get(key, Held)
            if held is not None:
                self._hold(key.partition("/")[2], held)

    def ended(self, uuid: str, connections: Sequence[Connection]) -> None:
        """A run ends: hold what it had, and what an earlier one left: this may be a restore that failed."""
        held, before = held_of(connections), self._held.get(uuid)
        if held is None:
            return
        if before is not None:
            claims = tuple({**dict.fromkeys(before.claims), **dict.fromkeys(held.claims)})
            held = Held(held.domain, claims, before.disks | held.disks, before.volumes | held.volumes)
        self._hold(uuid, held)
        self._records.put(f"held/{uuid}", held)
        self._woken.set()

    async def check(self, connection: Connection, claims: tuple[Claim, ...]) -> None:
        """Refuse to restore a domain over another disk than it was saved with. Look anew at holders."""
        clash = self._uses.clash(key_of(connection.request.key), claims)
        if clash is not None and clash.saved:
            await self.review()
        key = connection.request.key
        held = self._held.get(key.uuid)
        before = held.disks.get(key.id, "") if held is not None else ""
        if not before or before == identity(connection, claims):
            return
        domain = (await self._ask()).get(key.uuid)
        if domain is not None and domain.state in (State.RESTORING, State.SUSPENDED):
            raise denied_state(
                f"{connection.request.domain} was saved with another disk {key.id}: its memory would go on"
                " over a disk that it does not know",
                hint=f"Bring the disk back, or throw the saved state away: manor discard {domain.name}",
            )

    async def review(self) -> bool:
        """Ask lifecycle, and let go of what is held for domains that are not saved; True: it answered."""
        try:
            domains = await self._ask() if self._held else {}
        except ManorError as error:
            log.info("lifecycle cannot be asked which domains are saved: %s", error)
            return False
        for uuid in list(self._held):
            domain = domains.get(uuid)
            if domain is None or (domain.state not in MAY_BE_SAVED and not domain.operation):
                self._let_go(uuid)
        return True

    async def keep(self) -> None:
        """Look soon after each end of a run, and again while something is held, for ever."""
        while True:
            if self._held:
                try:
                    async with asyncio.timeout(AGAIN_S):
                        await self._woken.wait()
                except TimeoutError:
                    pass
            else:
                await self._woken.wait()
            self._woken.clear()
            await asyncio.sleep(SOON_S)
            await self.review()

    def _hold(self, uuid: str, held: Held) -> None:
        self._held[uuid] = held
        self._uses.save(uuid, f"saved domain {held.domain}", held.claims, held.volumes)

    def _let_go(self, uuid: str) -> None:
        held = self._held.pop(uuid)
        self._uses.save(uuid, "", (), dict.fromkeys(held.volumes))
        self._records.drop(f"held/{uuid}")
        for volume in held.volumes:
            self._changed(volume)
