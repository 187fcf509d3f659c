"""Backups on their way in and out: files in the room's folder, in pieces that fit a message."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from manor_bus.peer.aio import Context
from manor_bus.wire.errors import Kind, ManorError, Problem, bad_request, denied_state
from manor_bus.wire.messages import config as m
from manor_bus.wire.messages.config import PIECE_BYTES
from manor_config.documents import PREFIX, uuid_of
from manor_config.engines import tables
from manor_config.engines.place import Place
from manor_config.engines.sqlite import accept_loss, check_copy, create, uuids_in
from manor_config.store import Store, actor

log = logging.getLogger(__name__)
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def pieces(path: Path) -> Iterator[bytes]:
    """Yield a file in pieces."""
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


@dataclass
class Upload:
    """The one backup that is coming in; a new one takes the place of one that was given up."""

    path: Path
    name: str = ""
    size: int = 0

    def add(self, request: m.Restore) -> None:
        """Take the next piece, or one that was taken before (a repetition)."""
        if not _NAME.fullmatch(request.upload):
            allowed = "1 to 128 letters, digits and _.-"
            problem = Problem(path="upload", reason="not a name", value=request.upload[:80], allowed=allowed)
            raise bad_request("the upload has no name", problem)
        if request.upload != self.name and request.offset == 0:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.write_bytes(b"")
            self.name, self.size = request.upload, 0
        if request.upload != self.name or request.offset > self.size:
            hint = "Begin again with offset 0 and another name."
            raise ManorError(Kind.CONFLICT, "this upload is not the present one, or has a gap", hint=hint)
        with self.path.open("r+b") as file:
            file.seek(request.offset)
            file.write(request.content)
        self.size = max(self.size, request.offset + len(request.content))

    def check(self, sha256: str) -> None:
        """Refuse what did not arrive as it was sent."""
        with self.path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256")
        if found.hexdigest() != sha256:
            self.drop()
            problem = Problem(path="sha256", reason="the digest differs", value=sha256[:80])
            raise bad_request("the backup did not arrive as it was sent", problem, hint="Send it again.")

    def drop(self) -> None:
        """Forget the upload."""
        self.path.unlink(missing_ok=True)
        self.name, self.size = "", 0


class Copies:
    """Answers Backup and Restore. `store` is the open one, None while there is none; `opened` opens it."""

    def __init__(
        self, directory: Path, store: Callable[[], Store | None], opened: Callable[[], Awaitable[None]]
    ) -> None:
        self._directory, self._store, self._open = directory, store, opened
        self.upload = Upload(directory / "restore.part")

    async def backup(self, request: m.Backup, context: Context) -> m.BackupDone:
        """Answer with a copy of the store, in parts."""
        store, digest, size = self._store(), hashlib.sha256(), 0
        if store is None:
            raise denied_state("there is no sound store to copy", hint="Restore a backup first.")
        with tempfile.TemporaryDirectory(prefix="backup-", dir=self._directory) as folder:
            copy = Path(folder) / "config.db"
            revision = await store.engine.backup(copy)
            for piece in pieces(copy):
                digest.update(piece)
                size += len(piece)
                await context.part(m.BackupChunk(content=piece))
        return m.BackupDone(size=size, sha256=digest.hexdigest(), revision=revision)

    async def restore(self, request: m.Restore, context: Context) -> m.Restored:
        """Take a piece of a backup; the last one replaces the documents."""
        store = self._store()
        last, made = await store.engine.restored() if store else ("", 0)
        if store is not None and last and last == request.upload:
            size = request.offset + len(request.content)
            return (
                m.Restored(size=size, revision=made, left=store.left())
                if request.last
                else m.Restored(size=size)
            )
        if request.accept_loss:
            return await self._accept_loss(store, context)
        self.upload.add(request)
        size = self.upload.size
        if not request.last:
            return m.Restored(size=size)
        try:
            await asyncio.to_thread(self.upload.check, request.sha256)
            await asyncio.to_thread(check_copy, self.upload.path)
            revision = await self._replace(request)
        except tables.Damaged as error:
            problem = Problem(path="content", reason=str(error)[:400])
            raise bad_request("this is not a sound backup", problem, hint="Nothing was changed.") from error
        finally:
            self.upload.drop()
        log.warning("the store was restored by %s; it is at revision %d", actor(context), revision)
        store = self._store()
        return m.Restored(size=size, revision=revision, left=store.left() if store else ())

    async def _accept_loss(self, store: Store | None, context: Context) -> m.Restored:
        if store is None:
            await asyncio.to_thread(accept_loss, Place(self._directory))
            await self._open()
            store = self._store()
            log.warning("the loss was accepted by %s: what is left is the store", actor(context))
        if store is None:
            raise denied_state("what is left cannot be opened", hint="The log of config says why.")
        return m.Restored(size=0, revision=store.engine.revision, left=store.left())

    async def _replace(self, request: m.Restore) -> int:
        path, store = self.upload.path, self._store()
        if store is not None:
            uuids = await asyncio.to_thread(uuids_in, path, f"{PREFIX}Domain/", uuid_of)
            return await store.restore(path, request.upload, uuids, force=request.force)
        revision = await asyncio.to_thread(create, Place(self._directory), path, request.upload)
        await self._open()
        return revision
