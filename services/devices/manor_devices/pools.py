"""The volumes of this node: their files, kept as their documents say.

A file is deleted only when the config service proves that its document was deleted: a store that has
forgotten a document (restored from an old copy, started anew) must not cost anybody a disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import msgspec

from manor_bus.wire.errors import ManorError
from manor_bus.wire.messages.devices import VolumeStatus
from manor_bus.wire.messages.documents import Volume, VolumeSpec
from manor_devices import images, volumes
from manor_devices.records import Journal
from manor_devices.routes import VolumeFile
from manor_devices.volumes import Delete, Forget, Grow, Image, Make, Record, Refuse, Rest, Seen, Wait

State = Literal["creating", "ready", "resizing", "deleting", "failed"]

RETRY_S: Final = 30.0
AT_ONCE: Final = 2
MIB: Final = 1 << 20
log = logging.getLogger(__name__)


class Pools:
    """All volumes. `on_change(name)` publishes; `users(name)` and `writers(name)` name connections."""

    def __init__(
        self,
        journal: Journal,
        directory: Path,
        users: Callable[[str], tuple[str, ...]],
        writers: Callable[[str], tuple[str, ...]],
        was_deleted: Callable[[Record], Awaitable[bool]],
        on_change: Callable[[str], None],
    ) -> None:
        self._journal = journal
        self._directory = directory
        self._users = users
        self._writers = writers
        self._was_deleted = was_deleted
        self._on_change = on_change
        self._documents: dict[str, Volume] = {}
        self._records: dict[str, Record] = {}  # by uuid
        self._names: dict[str, str] = {}  # uuid -> name, of documents
        self._sharing: dict[str, dict[str, str]] = {}  # name of a base -> uuid and name of its clones
        self._waiting: dict[str, None] = {}
        self._statuses: dict[str, VolumeStatus] = {}  # by uuid
        self._limit = asyncio.Semaphore(AT_ONCE)
        self._kicks: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        for key in journal.keys("volume/"):
            record = journal.get(key, Record)
            if record is not None:
                self._remember(record)

    # --- asking ---------------------------------------------------------------------------------------

    def status(self, name: str) -> VolumeStatus | None:
        """Return the status of the volume of that name: the document's one before one being deleted."""
        document = self._documents.get(name)
        if document is not None and document.metadata.uuid in self._statuses:
            return self._statuses[document.metadata.uuid]
        return next((status for status in self._statuses.values() if status.name == name), None)

    def statuses(self) -> tuple[VolumeStatus, ...]:
        """Return all statuses by name."""
        return tuple(sorted(self._statuses.values(), key=lambda status: (status.name, status.uuid)))

    def file(self, name: str) -> VolumeFile | None:
        """Return the file behind a volume that has a document."""
        document = self._documents.get(name)
        if document is None:
            return None
        status = self._statuses.get(document.metadata.uuid)
        if status is None:
            return VolumeFile("", "raw", "creating")
        return VolumeFile(status.path, status.format, status.state, status.reason, self._clones(name))

    # --- news -----------------------------------------------------------------------------------------

    def document(self, name: str, document: Volume | None) -> None:
        """A document is new, changed or gone."""
        before = self._documents.pop(name, None)
        if document is not None:
            self._documents[name] = document
            self._names[document.metadata.uuid] = name
            self._kick(document.metadata.uuid)
        if before is not None and (document is None or document.metadata.uuid != before.metadata.uuid):
            self._kick(before.metadata.uuid)

    def synced(self) -> None:
        """All documents were seen: what is left over has none."""
        for uuid in list(self._records):
            self._kick(uuid)

    def used(self, name: str) -> None:
        """A connection to a volume came or went: what waited for that may go on."""
        if name in self._documents:
            self._kick(self._documents[name].metadata.uuid)
        for uuid in list(self._waiting):
            record = self._records.get(uuid)
            if record is not None and name in (record.name, record.spec.clone_of):
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
                await asyncio.wait_for(kick.wait(), again)
            kick.clear()
            try:
                again = await self._next(uuid)
            except (ManorError, OSError) as error:
                self._show(uuid, "failed", str(error).partition(": ")[2] or str(error))
                again = RETRY_S
            if uuid not in self._records and not kick.is_set():
                del self._tasks[uuid], self._kicks[uuid]
                self._names.pop(uuid, None)
                return

    async def _next(self, uuid: str) -> float | None:
        """Do the next thing; return when to look again without being told to."""
        document = next((d for d in self._of(uuid) if d.metadata.uuid == uuid), None)
        record = self._records.get(uuid)
        if document is not None:
            record = self._follow(document, record)
        if record is None or (document is None and not await self._proven_deleted(record)):
            return RETRY_S if record is not None else None
        self._waiting.pop(uuid, None)
        spec = document.spec if document is not None else None
        action = volumes.plan(spec, record, await self._seen(spec, record))
        match action:
            case Make() | Grow() | Delete() | Forget():
                await self._do(record, action)
                self.used(record.name)
                self._kicks[uuid].set()
            case Rest(reason):
                self._show(uuid, "ready", reason)
            case Wait(reason):
                self._waiting[uuid] = None
                self._show(
                    uuid, "deleting" if spec is None else "ready" if record.made else "creating", reason
                )
                return RETRY_S
            case Refuse(reason):
                self._show(uuid, "failed", reason)
        return None

    async def _do(self, record: Record, action: Make | Grow | Delete | Forget) -> None:
        uuid, path = record.uuid, Path(record.path)
        match action:
            case Make(base, copied):
                await self._journal.sync()
                self._show(uuid, "creating")
                async with self._limit:
                    await self._make(record.spec, path, base, copied=copied)
                self._save(replace(record, made=True, size_mib=record.spec.size_mib))
                await self._journal.sync()
            case Grow(size_mib):
                self._show(uuid, "resizing")
                async with self._limit:
                    await images.grow(path, record.spec.format, size_mib)
                self._save(replace(record, size_mib=size_mib))
            case Delete():
                self._show(uuid, "deleting")
                await asyncio.to_thread(path.unlink, missing_ok=True)
                self._drop(record)
            case Forget():
                self._drop(record)

    async def _make(self, spec: VolumeSpec, path: Path, base: Image | None, *, copied: bool) -> None:
        """Make the file under another name first: under its own it is whole."""
        self._directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o711, exist_ok=True)
        new = path.with_suffix(".new")
        new.unlink(missing_ok=True)
        try:
            if base is not None and copied:
                await images.copy(base.path, base.format, new, spec.format)
                await images.grow(new, spec.format, spec.size_mib)
            else:
                below = (base.path, base.format) if base is not None else None
                await images.create(
                    new, spec.format, spec.size_mib, below=below, preallocate=spec.preallocate
                )
            os.chmod(new, 0o600)
            new.rename(path)
        finally:
            new.unlink(missing_ok=True)

    async def _seen(self, spec: VolumeSpec | None, record: Record) -> Seen:
        base, missing = await self._origin(spec) if spec is not None and not record.made else (None, "")
        return Seen(
            exists=_exists(record.path),
            users=self._users(record.name),
            clones=self._clones(record.name),
            base=base,
            base_missing=missing,
        )

    async def _origin(self, spec: VolumeSpec) -> tuple[Image | None, str]:
        path, format_ = spec.backing_file, str(spec.backing_format)
        if spec.clone_of:
            base = self._documents.get(spec.clone_of)
            status = self._statuses.get(base.metadata.uuid) if base is not None else None
            if status is None or status.state != "ready":
                return None, f"it starts from volume {spec.clone_of}, which is not ready"
            writers = self._writers(spec.clone_of)
            if writers:
                return (
                    None,
                    f"it starts from volume {spec.clone_of}, which is written by {', '.join(writers)}",
                )
            path, format_ = status.path, status.format
        if not path or not format_:
            return None, ""
        top = (await images.chain(path, format_, "spec.backing_file"))[0]
        return Image(top.path, format_, -(-top.size // MIB)), ""

    async def _proven_deleted(self, record: Record) -> bool:
        try:
            if await self._was_deleted(record):
                return True
        except ManorError as error:
            log.info("volume %s: whether it was deleted cannot be asked now: %s", record.name, error)
            return False
        reason = f"its document is gone but was never deleted: its file {record.path} is kept"
        self._show(record.uuid, "failed", reason)
        return False

    # --- bookkeeping ----------------------------------------------------------------------------------

    def _of(self, uuid: str) -> tuple[Volume, ...]:
        name = self._records[uuid].name if uuid in self._records else self._names.get(uuid, "")
        return (self._documents[name],) if name in self._documents else ()

    def _follow(self, document: Volume, record: Record | None) -> Record:
        """Take the document into account. What a file was made as cannot change any more."""
        meta, spec = document.metadata, document.spec
        if record is not None and record.made:
            kept = msgspec.structs.replace(record.spec, keep=spec.keep)
            followed = replace(record, spec=kept, revision=meta.revision)
        else:
            path = self._directory / spec.pool / f"{meta.name}-{meta.uuid[:8]}.{spec.format}"
            followed = Record(meta.uuid, meta.name, str(path), spec, meta.revision)
        if followed != record:
            self._save(followed)
        return followed

    def _clones(self, name: str) -> tuple[str, ...]:
        return tuple(sorted(self._sharing.get(name, {}).values()))

    def _save(self, record: Record) -> None:
        self._remember(record)
        self._journal.put(f"volume/{record.uuid}", record)

    def _remember(self, record: Record) -> None:
        self._records[record.uuid] = record
        if record.made and record.spec.clone_of and record.spec.format == "qcow2":
            self._sharing.setdefault(record.spec.clone_of, {})[record.uuid] = record.name

    def _drop(self, record: Record) -> None:
        del self._records[record.uuid]
        self._sharing.get(record.spec.clone_of, {}).pop(record.uuid, None)
        self._journal.drop(f"volume/{record.uuid}")
        self._statuses.pop(record.uuid, None)
        self._on_change(record.name)
        self.used(record.spec.clone_of)

    def _show(self, uuid: str, state: State, reason: str = "") -> None:
        record = self._records[uuid]
        try:
            used = os.stat(record.path).st_blocks * 512 // MIB
        except OSError:
            used = 0
        self._statuses[uuid] = VolumeStatus(
            name=record.name,
            uuid=uuid,
            state=state,
            path=record.path,
            format=record.spec.format,
            size_mib=record.size_mib,
            used_mib=used,
            revision=record.revision,
            reason=reason,
            users=(*self._users(record.name), *self._clones(record.name)),
        )
        self._on_change(record.name)


def _exists(path: str) -> bool:
    return os.path.exists(path)
