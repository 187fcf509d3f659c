"""The volumes of this node: their files, kept as their documents say.

A file is deleted only when the config service proves that its document was deleted: a store that has
forgotten a document (restored from an old copy, started anew) must not cost anybody a disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import msgspec

from manor_bus.wire.errors import ManorError, denied_state
from manor_bus.wire.messages.devices import VolumeStatus
from manor_bus.wire.messages.documents import Volume, VolumeSpec
from manor_devices import images, volumes
from manor_devices.backends import Claim
from manor_devices.pool_files import NOTHING, Files, Look
from manor_devices.records import Records, Remembered
from manor_devices.uses import Uses
from manor_devices.volumes import Image, VolumeRecord

State = Literal["creating", "ready", "resizing", "deleting", "failed"]

RETRY_S: Final = 30.0
LOOK_S: Final = 60.0  # between two looks at a volume that rests
AT_ONCE: Final = 2
DELETED_MAX: Final = 20_000  # deleted volumes that are remembered
MIB: Final = 1 << 20
log = logging.getLogger(__name__)


class Pools:
    """All volumes. `on_change(name)` publishes; `uses` says who has them, and is told what they stand on.

    What is kept says where files are relative to the folder of the pools, so that it may be moved.
    """

    def __init__(
        self,
        store: Records,
        directory: Path,
        uses: Uses,
        was_deleted: Callable[[VolumeRecord], Awaitable[int]],
        on_change: Callable[[str], None],
    ) -> None:
        self._store = store
        self._files = Files(directory)
        self._uses = uses
        self._was_deleted = was_deleted
        self._on_change = on_change
        self._documents: dict[str, Volume] = {}  # by uuid, as all below
        self._names: dict[str, str] = {}  # of documents; name -> uuid
        self._records: dict[str, VolumeRecord] = {}
        self._sharing: dict[str, dict[str, None]] = {}  # of a base -> of the clones that share its clusters
        self._waiting: dict[str, None] = {}
        self._statuses: dict[str, VolumeStatus] = {}
        self._looks: dict[str, Look] = {}
        self._limits: dict[str, asyncio.Semaphore] = {}  # by pool: one that hangs holds nobody else
        self._deleted = Remembered(store, "deleted/", DELETED_MAX)
        self._kicks: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        for key in store.keys("volume/"):
            record = store.get(key, VolumeRecord)
            if record is not None:
                self._remember(record)

    async def start(self) -> None:
        """Claim what the volumes stand on, before anybody connects to it. Say so if they were moved."""
        before, now = self._store.get("pools", str), str(self._files.path(""))
        if before not in (None, now):
            log.warning("the volumes were moved from %s to %s", before, now)
        if before != now:
            self._store.put("pools", now)
        for record in self._records.values():
            if record.below:
                self._claim(record, await self._files.founded(record.below))

    # --- asking ---------------------------------------------------------------------------------------

    def status(self, name: str) -> VolumeStatus | None:
        """Return the status of the volume of that name: the document's one before one being deleted."""
        status = self._statuses.get(self._names.get(name, ""))
        return status or next((status for status in self._statuses.values() if status.name == name), None)

    def statuses(self) -> tuple[VolumeStatus, ...]:
        """Return all statuses by name."""
        return tuple(sorted(self._statuses.values(), key=lambda status: (status.name, status.uuid)))

    def wanted(self, name: str) -> VolumeStatus | None:
        """Return the status of the volume that a document of that name asks for, if there is one."""
        uuid = self._names.get(name)
        return (
            None
            if uuid is None
            else self._statuses.get(uuid) or VolumeStatus(name=name, uuid=uuid, state="creating")
        )

    # --- news -----------------------------------------------------------------------------------------

    def document(self, name: str, document: Volume | None) -> None:
        """A document is new, changed or gone."""
        before, uuid = self._names.pop(name, ""), document.metadata.uuid if document is not None else ""
        if document is not None:
            self._documents[uuid] = document
            self._names[name] = uuid
            self._kick(uuid)
            self._wake(name)
        if before not in ("", uuid):
            if self._documents[before].metadata.name == name:  # else it has another name by now
                del self._documents[before]
            self._kick(before)

    def synced(self) -> None:
        """All documents were seen: what is left over has none."""
        for uuid in list(self._records):
            self._kick(uuid)

    def used(self, name: str) -> None:
        """A connection to a volume came or went: what waited for that may go on."""
        if name in self._names:
            self._kick(self._names[name])
        self._wake(name)

    def _wake(self, name: str) -> None:
        for uuid in list(self._waiting):
            record, document = self._records.get(uuid), self._documents.get(uuid)
            origin = document.spec.clone_of if document is not None else ""
            if record is not None and name in (record.name, record.spec.clone_of, origin):
                self._kick(uuid)

    async def close(self) -> None:
        """Stop; a file half made is made again after the next start."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    # --- working --------------------------------------------------------------------------------------

    def _kick(self, uuid: str) -> None:
        self._kicks.setdefault(uuid, asyncio.Event()).set()
        if uuid not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._keep(uuid))
            self._tasks[uuid] = task

    async def _keep(self, uuid: str) -> None:
        """Work on one volume until it is gone."""
        kick = self._kicks[uuid]
        again: float | None = None
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(again):  # unlike wait_for it never swallows a cancellation
                    await kick.wait()
            kick.clear()
            try:
                again = await self._next(uuid)
            except (ManorError, OSError) as error:
                self._show(uuid, "failed", str(error).partition(": ")[2] or str(error))
                again = RETRY_S
            if uuid not in self._records and not kick.is_set():
                del self._tasks[uuid], self._kicks[uuid]
                return

    async def _next(self, uuid: str) -> float | None:
        """Do the next thing; return when to look again without being told to."""
        document, record = self._documents.get(uuid), self._records.get(uuid)
        if document is not None:
            record = self._follow(document, record)
        deleted = await self._proven_deleted(record) if document is None and record is not None else 0
        if record is None or (document is None and not deleted):
            return RETRY_S if record is not None else None
        self._waiting.pop(uuid, None)
        spec = document.spec if document is not None else None
        action = volumes.plan(spec, record, await self._seen(spec, record))
        match action:
            case volumes.Delete():
                await self._delete(record, deleted)
            case volumes.Make() | volumes.Adopt() | volumes.Grow() | volumes.Forget():
                await self._do(record, action)
                self.used(record.name)
                self._kicks[uuid].set()
            case volumes.Rest(reason):
                if reason:
                    self._waiting[uuid] = None
                self._show(uuid, "ready", reason)
            case volumes.Wait(reason):
                self._waiting[uuid] = None
                self._show(
                    uuid, "deleting" if spec is None else "ready" if record.made else "creating", reason
                )
                return RETRY_S
            case volumes.Refuse(reason):
                self._show(uuid, "failed", reason)
        return LOOK_S

    async def _delete(self, record: VolumeRecord, revision: int) -> None:
        """Delete the content, and remember that it was: the document may come back, what it was cannot."""
        self._show(record.uuid, "deleting")
        await self._files.remove(record)
        if record.made:
            self._deleted.put(record.uuid, revision)
        self._drop(record)
        self.used(record.name)

    async def _do(
        self, record: VolumeRecord, action: volumes.Make | volumes.Adopt | volumes.Grow | volumes.Forget
    ) -> None:
        uuid, path = record.uuid, self._files.path(record.path)
        match action:
            case volumes.Make(base, copied):
                await self._store.sync()
                self._show(uuid, "creating")
                await self._begin(record, base, copied=copied)
                await self._store.sync()
            case volumes.Grow(size_mib):
                self._show(uuid, "resizing")
                async with self._limit(record.spec.pool):
                    await images.grow(path, record.spec.format, size_mib)
                self._save(replace(record, size_mib=size_mib))
            case volumes.Adopt():
                chain = await images.chain(str(path), record.spec.format)
                below = tuple(self._files.kept(layer.path) for layer in chain[1:])
                self._save(replace(record, made=True, size_mib=chain[0].size // MIB, below=below))
                self._claim(self._records[uuid], await self._files.founded(below))
            case volumes.Forget():
                self._drop(record)

    async def _begin(self, record: VolumeRecord, base: Image | None, *, copied: bool) -> None:
        """Make the file; from now on nobody may write what it starts from, and what it shares never."""
        spec, claims = record.spec, base.claims if base is not None else ()
        clash = self._uses.clash(_claimant(record), claims)
        if clash is not None:
            raise denied_state(f"it cannot be made now: {clash.mine.name} is being written by {clash.name}")
        self._claim(record, claims)
        origin = base.volume if base is not None else ""
        made = replace(record, made=True, size_mib=spec.size_mib, origin=origin)
        try:
            async with self._limit(spec.pool):
                await self._files.make(spec, self._files.path(record.path), base, copied=copied)
            if not copied:
                made = replace(made, below=tuple(self._files.kept(claim.name) for claim in claims))
            self._save(made)
            self._bases_used(made)
        finally:
            if copied or not self._records[record.uuid].made:
                self._claim(record, ())

    async def _seen(self, spec: VolumeSpec | None, record: VolumeRecord) -> volumes.Seen:
        self._looks[record.uuid] = look = await self._files.look(record)
        base, missing = await self._origin(spec) if spec is not None and not record.made else (None, "")
        return volumes.Seen(
            exists=bool(look.identity),
            gone=look.gone if record.made else "",
            users=self._holders(record),
            clones=self._clones(record.uuid),
            base=base,
            base_missing=missing,
        )

    async def _origin(self, spec: VolumeSpec) -> tuple[Image | None, str]:
        path, format_, uuid = spec.backing_file, str(spec.backing_format), ""
        if spec.clone_of:
            uuid = self._names.get(spec.clone_of, "")
            status = self._statuses.get(uuid)
            if not uuid:
                return None, f"it starts from volume {spec.clone_of}, of which there is no document"
            if status is None or status.state != "ready":
                return None, f"it starts from volume {spec.clone_of}, which is not ready"
            writers = ", ".join(name for name, writes in self._uses.of_volume(spec.clone_of) if writes)
            if writers:
                return None, f"it starts from volume {spec.clone_of}, which is written by {writers}"
            path, format_ = status.path, status.format
        if not path or not format_:
            return None, ""
        chain = await images.chain(path, format_, "spec.backing_file")
        claims = tuple(Claim(layer.identity, layer.path, write=False, founded=True) for layer in chain)
        return Image(chain[0].path, format_, -(-chain[0].size // MIB), claims, uuid), ""

    async def _proven_deleted(self, record: VolumeRecord) -> int:
        """Return the revision in which its document was deleted; 0: that is not proven."""
        try:
            if revision := await self._was_deleted(record):
                return revision
        except ManorError as error:
            log.info("volume %s: whether it was deleted cannot be asked now: %s", record.name, error)
            return 0
        path = self._files.path(record.path)
        self._show(
            record.uuid, "failed", f"its document is gone but was never deleted: its file {path} is kept"
        )
        return 0

    # --- bookkeeping ----------------------------------------------------------------------------------

    def _follow(self, document: Volume, record: VolumeRecord | None) -> VolumeRecord:
        """Take the document into account. What a file was made as cannot change any more."""
        meta, spec = document.metadata, document.spec
        if record is not None and record.made:
            origin = record.origin or self._names.get(record.spec.clone_of, "")
            renamed = origin and self._names.get(spec.clone_of) == origin
            clone_of = spec.clone_of if renamed else record.spec.clone_of
            kept = msgspec.structs.replace(record.spec, keep=spec.keep, clone_of=clone_of)
            followed = replace(record, name=meta.name, spec=kept, revision=meta.revision, origin=origin)
        else:
            path = f"{spec.pool}/{meta.name}-{meta.uuid[:8]}.{spec.format}"
            deleted = self._deleted.get(meta.uuid)
            followed = VolumeRecord(meta.uuid, meta.name, path, spec, meta.revision, deleted=deleted)
        if followed != record:
            self._save(followed)
        return followed

    def _clones(self, uuid: str) -> tuple[str, ...]:
        """Name the volumes that share its clusters, directly or through another."""
        found: dict[str, None] = {}
        waiting = [uuid]
        while waiting:
            clones = self._sharing.get(waiting.pop(), {})
            waiting += [clone for clone in clones if clone not in found]
            found |= clones
        return tuple(sorted(self._records[clone].name for clone in found))

    def _bases_used(self, record: VolumeRecord) -> None:
        """Let every volume that one stands on show its users anew."""
        uuid, left = record.origin, len(self._records) + 1
        while uuid in self._records and left:
            self.used(self._records[uuid].name)
            uuid, left = self._records[uuid].origin, left - 1

    def _holders(self, record: VolumeRecord) -> tuple[str, ...]:
        """Name who has the file: by the volume's name, or by its path."""
        users = tuple(name for name, _ in self._uses.of_volume(record.name))
        identity = self._looks.get(record.uuid, NOTHING).identity
        clash = self._uses.clash(_claimant(record), (Claim(identity, record.path, write=True),))
        known = clash is None or clash.theirs.founded or clash.name in users
        return users if known or clash is None else (*users, clash.name)

    def _limit(self, pool: str) -> asyncio.Semaphore:
        return self._limits.setdefault(pool, asyncio.Semaphore(AT_ONCE))

    def _claim(self, record: VolumeRecord, claims: tuple[Claim, ...]) -> None:
        self._uses.claim(_claimant(record), f"volume {record.name}", claims)

    def _save(self, record: VolumeRecord) -> None:
        self._remember(record)
        self._store.put(f"volume/{record.uuid}", record)

    def _remember(self, record: VolumeRecord) -> None:
        self._records[record.uuid] = record
        if record.made and record.origin and record.spec.format == "qcow2":
            self._sharing.setdefault(record.origin, {})[record.uuid] = None

    def _drop(self, record: VolumeRecord) -> None:
        del self._records[record.uuid]
        self._sharing.get(record.origin, {}).pop(record.uuid, None)
        self._claim(record, ())
        self._store.drop(f"volume/{record.uuid}")
        self._statuses.pop(record.uuid, None)
        self._looks.pop(record.uuid, None)
        self._on_change(record.name)
        self._bases_used(record)

    def _show(self, uuid: str, state: State, reason: str = "") -> None:
        record = self._records[uuid]
        before = self._statuses.get(uuid)
        self._statuses[uuid] = VolumeStatus(
            name=record.name,
            uuid=uuid,
            state=state,
            path=str(self._files.path(record.path)),
            format=record.spec.format,
            size_mib=record.size_mib,
            used_mib=self._looks.get(uuid, NOTHING).used_mib,
            revision=record.revision,
            reason=reason,
            users=(*self._holders(record), *self._clones(uuid)),
        )
        if before is not None and before.name != record.name:
            self._on_change(before.name)
            self._bases_used(record)
        if before is None or before.state != state:
            self._wake(record.name)
        self._on_change(record.name)


def _claimant(record: VolumeRecord) -> tuple[str, str]:
    return "volume", record.uuid
