"""Disks that are image files or block devices of this node, opened by the front end itself."""

from __future__ import annotations

import os
from collections.abc import Sequence

from manor_bus import VERSION
from manor_devices.backends import (
    BackendSettings,
    Claim,
    Description,
    Leftover,
    Observation,
    Order,
    Prepared,
)
from manor_devices.backends.image import Grants, claims, disk_of, layers, unheld, warning


class FileBackend:
    """Checks the image and makes it usable for the domain's user; there is nothing to run.

    Setting `roots`: the only folders images may lie in, separated by `:`.
    """

    def __init__(self, settings: BackendSettings) -> None:
        self._roots = settings.values.get("roots", "")
        self._grants = Grants()

    def describe(self) -> Description:
        """Say what it is."""
        return Description("file", VERSION, ("disk",))

    async def observe(self, known: Sequence[Order]) -> Observation:
        """A file that is still there is still served."""
        for order in known:
            self._grants.adopt(order)
        return Observation(present=tuple(order.key for order in known if _exists(order)))

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
        return Prepared(
            "file",
            {
                "path": found[0].path,
                "format": order.target.format,
                "readonly": disk.read_only,
                "cache": disk.cache,
                "discard": disk.discard,
            },
            notes,
        )

    async def release(self, order: Order) -> None:
        """Take the permission back."""
        self._grants.revoke(order)

    async def discard(self, leftover: Leftover) -> None:
        """Files leave nothing over."""

    async def close(self) -> None:
        """Nothing runs."""


def _exists(order: Order) -> bool:
    return os.path.exists(order.target.path)


def open_backend(settings: BackendSettings) -> FileBackend:
    """Open the back end."""
    return FileBackend(settings)
