"""Which guests there are on this node: those that live, what is left of others, and what is not ours."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Final

from manor_bus.wire.errors import ManorError
from manor_host import clock, processes
from manor_host.processes import Identity, Watched
from manor_lifecycle.hypervisors import Changed
from manor_lifecycle.hypervisors.qemu import birth, events, folder, foreign, process
from manor_lifecycle.hypervisors.qemu.guest import Guest, ended
from manor_lifecycle.hypervisors.qemu.record import Record, over
from manor_lifecycle.hypervisors.qemu.site import Site
from manor_lifecycle.hypervisors.seen import EndReason, LastEnd, Seen, SeenRun

FOREIGN_LOOK_S: Final = 15.0
ADOPTION_S: Final = 5.0  # for a QEMU that was found to greet; a slower one is reached later

_log = logging.getLogger(__name__)


class Census:
    """`guests` have a process of which all is known; `gone` ended while nobody watched, and their processes
    too; `unreadable` have a process and a record that says nothing; `foreign` are somebody else's.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self.notes = folder.Notes(site.directory, durable=site.durable)
        self.guests: dict[str, Guest] = {}
        self.gone: dict[str, Record] = {}
        self.unreadable: dict[str, tuple[Watched, str]] = {}
        self.foreign: dict[str, SeenRun] = {}
        self._watching: list[asyncio.Task[None]] = []

    def names(self) -> list[str]:
        """Return the uuids of all that there is something to say about."""
        return list({**self.guests, **self.gone, **self.unreadable, **self.notes.known, **self.foreign})

    async def begin(self) -> None:
        """Find the guests that an earlier process of this service started."""
        folders = [path for path in self._site.directory.iterdir() if path.is_dir()]
        await asyncio.gather(*(self._adopt(path) for path in folders))
        self.foreign = await asyncio.to_thread(foreign.guests)
        self._watching.append(asyncio.get_running_loop().create_task(self._look_for_foreign()))

    async def _adopt(self, path: Path) -> None:
        self.notes.read(path)
        try:
            record = folder.read_record(path)
        except folder.Damaged as damage:
            return self._find_unreadable(path, str(damage))
        if record is None:
            return
        if record.incarnation > self.notes.last(record.uuid):
            self.notes.end(record.uuid, record.incarnation, None)
        found = self._process_of(record)
        if found is not None and not process.belongs(found.identity.pid, self._site.state_id):
            return self._leave_alone(path, record, found)
        if found is None:
            self._bury(path, record)
            return
        guest = Guest(self._site, record, found)
        if not record.pid:  # it was being made when the service died; its maker will be asked to repeat
            await birth.end(guest)
            folder.empty(path)
            return
        self.guests[record.uuid] = guest
        with contextlib.suppress(TimeoutError, ManorError):
            async with asyncio.timeout(ADOPTION_S):
                await guest.reach()
        guest.watch()

    def _find_unreadable(self, path: Path, damage: str) -> None:
        """A guest that lives is never taken for dead, nor started again, because of a damaged file."""
        _log.error("%s", damage)
        found = process.of_guest(path.name, path / folder.QEMU_LOG)
        if found is None:
            self.notes.end(path.name, self.notes.last(path.name), EndReason.UNKNOWN, damage)
            folder.empty(path)
            return
        self.unreadable[path.name] = found, damage
        self._watching.append(asyncio.get_running_loop().create_task(self._until_over(path, found, damage)))

    async def _until_over(self, path: Path, found: Watched, damage: str) -> None:
        await found.ended.wait()
        uuid, last = path.name, self.notes.last(path.name)
        if self.unreadable.pop(uuid, None) is not None:
            self.notes.end(uuid, last, EndReason.UNKNOWN, damage)
            folder.empty(path)
            self._site.say(Changed(uuid))

    def _leave_alone(self, path: Path, record: Record, found: Watched) -> None:
        """The record was copied here with the state directory of whoever's guest this is."""
        found.release()
        detail = f"process {found.identity.pid} belongs to another state directory"
        _log.error("%s: %s", record.name, detail)
        self.notes.end(record.uuid, record.incarnation, EndReason.UNKNOWN, detail)
        folder.empty(path)

    def _process_of(self, record: Record) -> Watched | None:
        if record.pid:
            return processes.adopt(Identity(record.pid, record.started_ticks, record.boot_id))
        identity = Identity.of(processes.find(record.argv))
        return processes.adopt(identity) if identity else None

    def _bury(self, path: Path, record: Record) -> None:
        """Its process is gone: a look says so until `destroy`, unless the whole machine started anew."""
        same_boot = record.boot_id == clock.boot_id()
        if record.ended is None:
            end = events.process_ended(None, folder.last_words(path))
            if end.reason is EndReason.DEVICE_MODEL and not same_boot:
                end = events.Over(EndReason.UNKNOWN, "the machine started anew")
            record = ended(record, end)
        if not same_boot:
            self.forget(record)
        elif record.pid:
            self.gone[record.uuid] = record
        else:
            folder.empty(path)

    async def _look_for_foreign(self) -> None:
        while True:
            await asyncio.sleep(FOREIGN_LOOK_S)
            now = await asyncio.to_thread(foreign.guests)
            before, self.foreign = self.foreign, now
            for change in foreign.changes(before, now):
                self._site.say(change)

    def without_guest(self, uuid: str, unknown: str) -> Seen:
        """Return what is there of a domain that has no living guest."""
        last, note = self.notes.last(uuid), self.notes.known.get(uuid)
        if uuid in self.unreadable:
            return Seen(uuid, last, unknown=self.unreadable[uuid][1])
        if (record := self.gone.get(uuid)) is not None:
            return Seen(uuid, last, over(record), unknown=unknown)
        if (other := self.foreign.get(uuid)) is not None:
            return Seen(uuid, last, other, unknown=unknown)
        ended = LastEnd(note.incarnation, note.ended, note.detail) if note and note.ended else None
        return Seen(uuid, last, None, ended, unknown)

    def forget(self, record: Record) -> None:
        """Nothing is left of a run but its number, how it ended, and what it said last."""
        if record.ended is not None:
            self.notes.end(record.uuid, record.incarnation, record.ended, record.detail)
        folder.empty(self._site.directory / record.uuid)

    async def clear(self, uuid: str) -> None:
        """Remove what is there of a run without a living guest; raises `timeout` for a zombie."""
        if (record := self.gone.pop(uuid, None)) is not None:
            self.forget(record)
        elif (unreadable := self.unreadable.pop(uuid, None)) is not None:
            unreadable[0].kill()
            try:
                await birth.gone(unreadable[0], uuid)
            except BaseException:
                self.unreadable[uuid] = unreadable
                raise
            folder.empty(self._site.directory / uuid)

    async def close(self) -> None:
        """Let go; the guests stay."""
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        for found, _ in self.unreadable.values():
            found.release()
        await asyncio.gather(*(guest.leave() for guest in self.guests.values()))
