"""Disks that are image files or block devices of this node, opened by the front end itself."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Final

from manor_bus.wire.errors import ManorError
from manor_devices import images, storage
from manor_devices.backends import (
    BackendSettings,
    Claim,
    Leftover,
    Observation,
    Order,
    Prepared,
)
from manor_devices.backends.image import Grants, claims, disk_of, layers, unheld, warning
from manor_devices.backends.watch import Watch


class FileBackend:
    """Checks the image and makes it usable for the domain's user; there is nothing to run.

    Setting `roots`: the only folders images may lie in, separated by `:`.
    """

    classes: Final = ("disk",)

    def __init__(self, settings: BackendSettings) -> None:
        self._roots = settings.values.get("roots", "")
        self._grants = Grants()
        self._watch = Watch(settings.notify)

    async def observe(self, known: Sequence[Order]) -> Observation:
        """A file that is still there is still served, and one that cannot be asked for may be."""
        present = []
        for order in known:
            self._grants.adopt(order)
            if await _may_be_there(order.target.path):
                self._watch.follow(order, (order.target.path,))
                present.append(order.key)
        return Observation(present=tuple(present))

    async def claim(self, order: Order) -> tuple[Claim, ...]:
        """Name the image and all images below it."""
        return claims(order, await layers(order, self._roots))

    async def prepare(self, order: Order) -> Prepared:
        """Make the image usable and say where it is."""
        disk = disk_of(order)
        found = await layers(order, self._roots)
        if not order.attached:  # else it is the front end that has it open
            await unheld(order, found)
        notes = await self._grants.grant(order, found) | await warning(order)
        self._watch.follow(order, [layer.path for layer in found])
        path = found[0].path
        direct = await storage.ask(path, partial(images.takes_direct_io, path))
        return Prepared(
            "file",
            {
                "path": path,
                "format": order.target.format,
                "readonly": disk.read_only,
                "cache": disk.cache,
                "discard": disk.discard,
                **({} if direct else {"direct": False}),  # its file system has only the page cache
            },
            notes,
        )

    async def release(self, order: Order) -> None:
        """Take the permission back."""
        self._watch.forget(order.key)
        await self._grants.revoke(order)

    async def discard(self, leftover: Leftover) -> None:
        """Files leave nothing over."""

    async def close(self) -> None:
        """Stop looking at the files."""
        await self._watch.close()


async def _may_be_there(path: str) -> bool:
    try:
        return await storage.ask(path, partial(os.path.exists, path))
    except ManorError:
        return True


def open_backend(settings: BackendSettings) -> FileBackend:
    """Open the back end."""
    return FileBackend(settings)
