"""The folder of the pools: where volumes' files lie, and how one is made.

What is kept of a path, in records and inside images, is relative to the folder, so that it may be moved.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from manor_bus.wire.errors import ManorError
from manor_bus.wire.messages.documents import VolumeSpec
from manor_devices import images, storage
from manor_devices.backends import Claim
from manor_devices.volumes import Image, VolumeRecord

MIB: Final = 1 << 20
HEADER_BYTES: Final = 65_536  # a qcow2 image has at least one cluster for its header
LONG_S: Final = 120.0  # for removing a large file


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of a volume's files. `identity`: of its own file, empty when there is none."""

    identity: str = ""
    used_mib: int = 0
    gone: str = ""  # what is missing


NOTHING: Final = Look()


class Files:
    """The files of all volumes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, kept: str) -> Path:
        """Return where a file is that was kept as `kept`."""
        return self._directory / kept

    def kept(self, path: str) -> str:
        """Return a path as it is kept: relative when it is one of the pools'."""
        folder = self._directory.resolve()
        return str(Path(path).relative_to(folder)) if Path(path).is_relative_to(folder) else path

    async def founded(self, kept: Iterable[str]) -> tuple[Claim, ...]:
        """Return the claims on what a volume stands on; what is gone cannot be written any more."""
        claims = []
        for path in map(str, map(self.path, kept)):
            with contextlib.suppress(ManorError):
                resolved, identity = await storage.ask(path, partial(images.identify, path))
                claims.append(Claim(identity, resolved, write=False, founded=True))
        return tuple(claims)

    async def look(self, record: VolumeRecord) -> Look:
        """Look at a volume's file and those it stands on."""
        return await storage.ask(str(self.path(record.path)), partial(self._look, record))

    def _look(self, record: VolumeRecord) -> Look:
        path = self.path(record.path)
        try:
            seen = path.stat()
        except OSError as error:
            return Look(gone=f"its file {path} is gone ({error.strerror})")
        used, identity = seen.st_blocks * 512 // MIB, images.identity_of(seen)
        least = record.size_mib * MIB if record.spec.format == "raw" else HEADER_BYTES
        if seen.st_size < least:
            return Look(identity, used, f"its file {path} was truncated: {seen.st_size} bytes are left")
        missing = next((str(self.path(kept)) for kept in record.below if not self.path(kept).exists()), "")
        return Look(identity, used, f"what it stands on is gone: {missing}" if missing else "")

    async def remove(self, record: VolumeRecord) -> None:
        """Remove a volume's file."""
        path = self.path(record.path)
        await storage.ask(str(path), partial(path.unlink, missing_ok=True), LONG_S)

    async def make(self, spec: VolumeSpec, path: Path, base: Image | None, *, copied: bool) -> None:
        """Make a file under another name first: under its own it is whole."""
        new = path.with_suffix(".new")
        await storage.ask(str(path), partial(self._begin, path, new))
        try:
            if base is not None and copied:
                await images.copy(base.path, base.format, new, spec.format)
                await images.grow(new, spec.format, spec.size_mib)
            else:
                below = (self._seen_from(path, base.path), base.format) if base is not None else None
                await images.create(
                    new, spec.format, spec.size_mib, below=below, preallocate=spec.preallocate
                )
            await storage.ask(str(path), partial(_end, new, path))
        finally:
            await storage.ask(str(path), partial(new.unlink, missing_ok=True))

    def _begin(self, path: Path, new: Path) -> None:
        for folder in (self._directory, path.parent):
            if not folder.exists():
                folder.mkdir(mode=0o700, parents=True)
                folder.chmod(0o711)  # said outright: domains' users pass through, whatever the umask is
        new.unlink(missing_ok=True)

    def _seen_from(self, image: Path, path: str) -> str:
        """Return the path of a backing file as it is written into an image."""
        kept = self.kept(path)
        return path if kept == path else os.path.relpath(self.path(kept), image.parent)


def _end(new: Path, path: Path) -> None:
    new.chmod(0o600)
    new.rename(path)
