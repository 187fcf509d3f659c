"""A world for one domain, by chance and on virtual time: hypervisor, records, documents, devices, saved
states, and what the journal has on disk. No loop, no threads: the seed decides everything. It says at once
when something happens that must never happen.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages.config import OwnerRecord
from manor_bus.wire.messages.devices import ConnectionState, Descriptor, DeviceKey, DeviceStatus
from manor_bus.wire.messages.documents import Domain
from manor_lifecycle import operations
from manor_lifecycle.carrying import Outcome, Work, _creation, _device
from manor_lifecycle.domain import events as e
from manor_lifecycle.domain.steps import Act
from manor_lifecycle.domain.values import UNREADABLE, Held
from manor_lifecycle.hypervisors.fake.guest import Guest, seen
from manor_lifecycle.hypervisors.seen import (
    Activity,
    CauseWord,
    EndReason,
    LastEnd,
    SavedImage,
    Seen,
    with_devices,
)
from manor_lifecycle.records import NOBODYS

UUID: Final = "11111111-2222-3333-4444-555555555555"
NODE: Final = "n1"
RECORDS: Final = frozenset({Act.NOTE, Act.CLAIM, Act.DELETE_RECORD})
TURNS_MAX: Final = 20_000


class Listener(Protocol):
    """The service that is there now."""

    def take(self, event: e.Event) -> None:
        """Something happened."""


@dataclass
class World:
    """What outlives the service. `surprised`: something happened by itself since the last look."""

    chance: random.Random
    verbs: tuple[str, ...] = ()  # what people ask for in this history
    faults: dict[Act, list[str]] = field(default_factory=dict)  # how the next calls go, whatever chance says
    deaf: bool = False  # the guest hears no request
    hostile: bool = True
    unwritable: bool = False
    at: float = 1_000.0
    guest: Guest | None = None
    last: int = 0
    ended: LastEnd | None = None
    made: list[int] = field(default_factory=list)
    lane: list[Callable[[], Any]] = field(default_factory=list)
    disk: int = 0  # grows whenever a guest may write to its disks
    image: SavedImage | None = None
    image_disk: int = 0
    record: OwnerRecord | None = None
    revision: int = 0
    before: e.KeptIs = NOBODYS  # an older reading of the record
    writes: int = 0
    document: Domain | None = None
    links: dict[tuple[int, str], DeviceStatus] = field(default_factory=dict)
    generations: dict[str, int] = field(default_factory=dict)
    journal: dict[str, operations.Open] = field(default_factory=dict)
    surprised: bool = False
    told_at: float = 0.0  # a watch tells in order
    deleted: int = 0  # the revision of the last document that was
    silent_change: bool = False  # of the record: nobody hears of it before the next write
    lives: int = 0  # how often its numbers were forgotten
    shell: Listener | None = None
    agenda: list[tuple[float, int, Callable[[], Any]]] = field(default_factory=list)
    numbers: Any = field(default_factory=itertools.count)
    turns: int = 0
    log: list[str] = field(default_factory=list)

    # --- time ----------------------------------------------------------------------------------------------

    def later(self, delay: float, what: Callable[[], Any]) -> None:
        self.then(self.at + delay, what)

    def then(self, at: float, what: Callable[[], Any]) -> None:
        heapq.heappush(self.agenda, (at, next(self.numbers), what))

    def pass_time(self, seconds: float) -> None:
        until = self.at + seconds
        while self.agenda and self.agenda[0][0] <= until:
            self._happen()
        self.at = until

    def pass_events(self, most: int, until: Callable[[], bool]) -> None:
        """Let that many things happen at most."""
        while self.agenda and most and not until():
            self._happen()
            most -= 1

    def _happen(self) -> None:
        self.at, _, what = heapq.heappop(self.agenda)
        what()
        self.check()
        self.turns += 1
        assert self.turns < TURNS_MAX, "it never rests"

    def happens(self, probability: float) -> bool:
        return self.hostile and self.chance.random() < probability

    def said(self, what: str) -> None:
        self.log.append(f"{self.at:9.2f}  {what}")

    def check(self) -> None:
        """What holds at any time."""
        kept = self.record
        if kept is not None and kept.saved:
            there = self.image is not None and self.image.id == kept.image
            assert there, f"the record names {kept.image}, and there is {self.image and self.image.id}"

    # --- what happens by itself ----------------------------------------------------------------------------

    def tell(self, event: e.Event, delay: float = 0.0) -> None:
        """The service that is there then hears of it, in order."""
        self.told_at = max(self.told_at, self.at + delay)
        self.then(self.told_at, lambda: self.shell is not None and self.shell.take(event))

    def end(self, reason: EndReason, *, kept: bool = False) -> None:
        guest = self.guest
        if guest is None or guest.activity is Activity.ENDED:
            return
        self.said(f"the guest ends: {reason} kept={kept}")
        self.surprised = True
        guest.ended, guest.detail, guest.lasted_s = reason, "by chance", self.at - guest.up_since
        if kept:
            guest.activity = Activity.ENDED
        else:
            self.guest, self.ended = None, LastEnd(guest.incarnation, reason, "by chance")
        self.tell(e.Hint(), 0.01)

    def stops(self, cause: CauseWord) -> None:
        if self.guest is not None and self.guest.activity is Activity.RUNS:
            self.surprised = True
            self.said(f"the guest stands: {cause}")
            self.guest.stand(cause)
            self.tell(e.Hint(), 0.01)

    def sleeps(self) -> None:
        if self.guest is not None and self.guest.activity is Activity.RUNS:
            self.surprised = True
            self.said("the guest sleeps")
            self.guest.activity = Activity.SLEEPS
            self.tell(e.Hint(), 0.01)

    def applied(self, document: Domain | None) -> None:
        self.said(f"document {document and [document.metadata.revision, *map(_name, document.spec.disks)]}")
        if document is None and self.document is not None:
            self.deleted = self.document.metadata.revision
        self.document = document
        self.tell(e.WishIs(document), self.chance.choice((0.0, 0.1, 3.0)))

    def record_is_lost(self) -> None:
        """As after a backup was restored."""
        if self.guest is None and self.image is None and not self.journal:
            self.said("the record is lost")
            self.record, self.revision, self.silent_change = None, 0, True
            self.writes += 1

    def taken_over(self) -> None:
        """Another node owns it from now on."""
        self.said("another node takes it over")
        record = self.record or OwnerRecord(node=NODE)
        self.writes += 1
        self.record, self.revision = msgspec.structs.replace(record, node="n2", token=2), self.writes
        self.silent_change = True

    # --- records -------------------------------------------------------------------------------------------

    def write(self, revision: int, record: OwnerRecord | None) -> e.KeptIs:
        if revision != self.revision:
            raise ManorError(Kind.STALE, "the record was changed by somebody else")
        assert self.record is None or self.record.node == NODE, (
            f"the record of {self.record.node} is written over"
        )
        self.silent_change = False
        self.before = e.KeptIs(self.record, self.revision)
        self.writes += 1
        self.record, self.revision = record, self.writes if record is not None else 0
        return e.KeptIs(self.record, self.revision)

    def note(self, work: Work) -> Outcome:
        record = work.core.record
        if record is None or record.node == UNREADABLE:
            record = OwnerRecord(node=NODE)
        changed = msgspec.structs.replace(record, **dict(work.step.fields))
        return Outcome(kept=self.write(work.core.revision, changed))

    def claim(self, work: Work) -> Outcome:
        core, said = work.core, work.doing.arguments
        record = msgspec.structs.replace(
            core.kept, node=NODE, incarnation=work.doing.incarnation, run=True,
            ended=max(core.kept.ended, work.doing.incarnation - 1), stopped=False, failed="",
            crashes=said.crashes, reboots=said.reboots, hypervisor="fake", boot=core.place.session,
        )  # fmt: skip
        return Outcome(kept=self.write(core.revision, record))

    def delete_record(self, work: Work) -> Outcome:
        kept = self.write(work.core.revision, None)
        self.lives += 1
        self.silent_change = True  # when it comes late: the domain learns it by its next write
        return Outcome(kept=kept)

    # --- the document --------------------------------------------------------------------------------------

    def may_delete(self, work: Work) -> None:
        kept = self.record
        if work.step.act is Act.DELETE_DOCUMENT and kept is not None and (kept.run or kept.saved):
            raise ManorError(Kind.CONFLICT, "it is in use")

    def delete_document(self, work: Work) -> None:
        self.may_delete(work)
        if self.document is not None:
            self.applied(None)

    # --- devices -------------------------------------------------------------------------------------------

    def link(self, key: tuple[int, str], there: ConnectionState | None) -> None:
        """A connection is in another state, or gone."""
        if there is None:
            if self.links.pop(key, None) is None:
                return
            said = None
        else:
            said = self.links[key] = DeviceStatus(
                key=DeviceKey(uuid=UUID, incarnation=key[0], id=key[1]), domain="web", type="disk",
                state=there, generation=self.generations[key[1]],
            )  # fmt: skip
        self.tell(e.LinkIs(key, said), self.chance.choice((0.0, 0.05, 1.0)) if self.hostile else 0.0)

    def connect(self, work: Work) -> Outcome:
        key, device = (work.born, work.step.device), _device(work)
        if key not in self.links:
            self.generations[key[1]] = self.generations.get(key[1], 0) + 1
            self.link(key, ConnectionState.READY)
        return Outcome(held=Held(device, Descriptor(type="fake", generation=self.links[key].generation)))

    def announce(self, work: Work) -> None:
        key, held = (work.born, work.step.device), work.doing.held.get(work.step.device)
        generation = held.descriptor.generation if held is not None else work.generation()
        if key not in self.links or self.links[key].generation != generation:
            raise ManorError(Kind.STALE, "another connection")
        self.link(key, ConnectionState.CONNECTED)

    def release(self, work: Work) -> None:
        key, generation = (work.born, work.step.device), work.generation()
        link = self.links.get(key)
        if link is not None and generation in (0, link.generation):
            self.link(key, None)

    def release_all(self, work: Work) -> None:
        for key in [key for key in self.links if key[0] <= work.step.amount]:
            self.link(key, None)

    def begin_detach(self, work: Work) -> None:
        key = work.born, work.step.device
        if key in self.links:
            self.link(key, ConnectionState.CLOSING)

    def provider_returns(self) -> None:
        """Its back ends are new: front ends must connect again."""
        for key, link in list(self.links.items()):
            if link.state is ConnectionState.CONNECTED:
                self.generations[key[1]] += 1
                self.link(key, ConnectionState.READY)

    # --- the hypervisor ------------------------------------------------------------------------------------

    def arrive(self) -> None:
        """What was given up about the run comes before anything else about it."""
        while self.lane:
            self.lane.pop(0)()

    def _there(self, work: Work) -> Guest:
        guest, key = self.guest, work.core.key
        if guest is None or guest.activity is Activity.ENDED or guest.incarnation < key.incarnation:
            raise ManorError(Kind.NOT_FOUND, "that run is not there")
        if guest.incarnation > key.incarnation:
            raise ManorError(Kind.STALE, "that run was followed by another")
        return guest

    def create(self, work: Work) -> None:
        made = _creation(work)
        spec, number, guest = made.spec, made.run.incarnation, self.guest
        if guest is not None and guest.incarnation == number:
            return
        assert guest is None, f"run {number} is made beside {guest}"
        assert number > self.last, f"run {number} is made again"
        assert number not in self.made
        self.last, self.ended = number, None
        self.made.append(number)
        self.guest = Guest(
            UUID, "web", number, Activity.STANDS, self.at, spec.cpu.count, spec.memory.size_mib,
            devices={one.device.id: one.descriptor.generation for one in made.attachments},
            born=number, up_since=self.at,
            spec=with_devices(spec, [one.device for one in made.attachments]),
        )  # fmt: skip

    def load(self, work: Work) -> None:
        guest, number = self.guest, work.doing.incarnation
        if guest is not None and guest.incarnation == number:
            return
        if self.image is None or work.core.kept.image not in ("", self.image.id):
            raise ManorError(Kind.STALE, "another saved state")
        assert self.image_disk == self.disk, "old memory over a disk that was written since"
        self.create(work)

    def resume(self, work: Work) -> None:
        self._there(work).go()
        self.disk += 1

    def pause(self, work: Work) -> None:
        guest = self._there(work)
        if guest.activity is not Activity.SLEEPS:  # as older versions of QEMU
            guest.stand(CauseWord.PERSON)

    def ask(self, work: Work) -> None:
        guest = self._there(work)
        if guest.activity is not Activity.RUNS or self.deaf or self.happens(0.7):
            return

        def powers_off() -> None:
            if self.guest is guest:
                self.end(EndReason.POWEROFF)

        self.later(0.05, powers_off)

    def reset(self, work: Work) -> None:
        number = work.doing.incarnation
        if self.guest is not None and self.guest.incarnation == number:
            return
        self._there(work).incarnation = self.last = number
        assert number not in self.made
        self.made.append(number)

    def destroy(self, work: Work) -> None:
        if self.guest is not None and self.guest.incarnation == work.core.key.incarnation:
            self.guest = self.ended = None

    def save(self, work: Work) -> None:
        guest = self._there(work)
        kept = self.record
        assert kept is None or not kept.saved, "a saved state that the record names is written over"
        assert guest.spec is not None
        self.image = SavedImage(work.doing.id, UUID, guest.incarnation, guest.spec)
        self.image_disk = self.disk
        guest.stand(CauseWord.SAVING)

    def remove_image(self, work: Work) -> None:
        image, kept = self.image, self.record
        if image is None or (work.core.image is not None and work.core.image.id != image.id):
            return
        named = kept is not None and kept.saved and kept.image == image.id
        assert not named, f"the saved state {image.id} goes, and the record names it"
        self.image = None

    def plug(self, work: Work) -> None:
        held = work.doing.held[work.step.device]
        self._there(work).attach(held.device, held.descriptor.generation)

    def unplug(self, work: Work) -> None:
        guest = self._there(work)
        if guest.activity is not Activity.RUNS or self.happens(0.5):
            key = work.born, work.step.device
            if key in self.links:
                self.link(key, ConnectionState.DETACH_PENDING)
            raise ManorError(Kind.TIMEOUT, "the guest did not let it go")
        guest.detach(work.step.device)

    def force_unplug(self, work: Work) -> None:
        self._there(work).detach(work.step.device)

    def set_memory(self, work: Work) -> None:
        guest = self._there(work)
        guest.resize(work.step.amount, guest.cpus)

    def set_cpus(self, work: Work) -> None:
        guest = self._there(work)
        guest.resize(guest.memory_mib, work.step.amount)

    def remove_leftovers(self, work: Work) -> None:
        if self.guest is not None:
            raise ManorError(Kind.DENIED_STATE, "there is a run")
        self.last, self.ended = 0, None
        self.made.clear()
        self.lives += 1

    def nothing(self, work: Work) -> None:
        """It changes nothing that is watched here."""

    def effect(self, work: Work) -> Callable[[], Outcome]:
        call, lives, writes = getattr(self, CALLS[work.step.act]), self.lives, self.writes

        def effect() -> Outcome:
            if self.is_stale(work.step.act, lives, writes):
                raise ManorError(Kind.STALE, "it was about what is no more")
            return call(work) or Outcome()

        return effect

    def is_stale(self, act: Act, lives: int, writes: int) -> bool:
        """Whether a call comes too late: its numbers began anew, or the record was written since."""
        return lives != self.lives or (act in RECORDS and writes != self.writes)

    def look(self) -> Seen:
        self.arrive()
        if self.guest is not None:
            return seen(UUID, self.guest, self.at)
        return Seen(UUID, self.last, None, self.ended)


def _name(disk: Any) -> str:
    return str(disk.id)


CALLS: Final = {
    Act.NOTE: "note", Act.CLAIM: "claim", Act.DELETE_RECORD: "delete_record", Act.TRY_DELETE: "may_delete",
    Act.DELETE_DOCUMENT: "delete_document", Act.CONNECT: "connect", Act.ANNOUNCE: "announce",
    Act.RELEASE: "release", Act.RELEASE_ALL: "release_all", Act.BEGIN_DETACH: "begin_detach",
    Act.CREATE: "create", Act.LOAD: "load", Act.RESUME: "resume", Act.PAUSE: "pause", Act.ASK: "ask",
    Act.RESET: "reset", Act.DESTROY: "destroy", Act.SAVE: "save", Act.REMOVE_IMAGE: "remove_image",
    Act.PLUG: "plug", Act.UNPLUG: "unplug", Act.FORCE_UNPLUG: "force_unplug", Act.NMI: "nothing",
    Act.SET_MEMORY: "set_memory", Act.SET_CPUS: "set_cpus", Act.REMOVE_LEFTOVERS: "remove_leftovers",
    Act.DUMP: "nothing", Act.RENAME: "nothing", Act.RENAME_RUN: "nothing",
}  # fmt: skip
