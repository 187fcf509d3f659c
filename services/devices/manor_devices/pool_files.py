"""The folder of the pools: where volumes' files lie, and how one is made.

What is kept of a path, in records and inside images, is relative to the folder, so that it may be moved.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from manor_bus.wire.errors import ManorError
from manor_bus.wire.messages.documents import VolumeSpec
from manor_devices import images
from manor_devices.backends import Claim
from manor_devices.volumes import Image, Record

MIB: Final = 1 << 20
HEADER_BYTES: Final = 65_536  # a qcow2 image has at least one cluster for its header


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
        return await asyncio.to_thread(_claims, [str(self.path(path)) for path in kept])

    async def gone(self, record: Record) -> str:
        """Return what of a volume's files is missing."""
        return await asyncio.to_thread(self._gone, record)

    def _gone(self, record: Record) -> str:
        path = self.path(record.path)
        try:
            size = path.stat().st_size
        except OSError as error:
            return f"its file {path} is gone ({error.strerror})"
        least = record.size_mib * MIB if record.spec.format == "raw" else HEADER_BYTES
        if size < least:
            return f"its file {path} was truncated: {size} bytes are left"
        missing = next((str(self.path(kept)) for kept in record.below if not self.path(kept).exists()), "")
        return f"what it stands on is gone: {missing}" if missing else ""

    async def make(self, spec: VolumeSpec, path: Path, base: Image | None, *, copied: bool) -> None:
        """Make a file under another name first: under its own it is whole."""
        for folder in (self._directory, path.parent):
            if not folder.exists():
                folder.mkdir(mode=0o700, parents=True)
                folder.chmod(0o711)  # said outright: domains' users pass through, whatever the umask is
        new = path.with_suffix(".new")
        new.unlink(missing_ok=True)
        try:
            if base is not None and copied:
                await images.copy(base.path, base.format, new, spec.format)
                await images.grow(new, spec.format, spec.size_mib)
            else:
                below = (self._seen_from(path, base.path), base.format) if base is not None else None
                await images.create(
                    new, spec.format, spec.size_mib, below=below, preallocate=spec.preallocate
                )
            os.chmod(new, 0o600)
            new.rename(path)
        finally:
            new.unlink(missing_ok=True)

    def _seen_from(self, image: Path, path: str) -> str:
        """Return the path of a backing file as it is written into an image."""
        kept = self.kept(path)
        return path if kept == path else os.path.relpath(self.path(kept), image.parent)


def _claims(paths: list[str]) -> tuple[Claim, ...]:
    claims = []
    for path in paths:
        with contextlib.suppress(ManorError):
            resolved, identity = images.identify(path)
            claims.append(Claim(identity, resolved, write=False, founded=True))
    return tuple(claims)
