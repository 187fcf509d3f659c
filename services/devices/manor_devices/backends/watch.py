"""Surprise removal (rule D9): files that guests have open are looked at every few seconds.

A file that went, was replaced or was made shorter is gone for its guest. A mount that does not answer may
yet: that is told and proves nothing.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from manor_bus.wire.errors import ManorError
from manor_bus.wire.messages.devices import DeviceKey
from manor_devices import storage
from manor_devices.backends import Notice, Order
from manor_devices.images import identity_of
from manor_host.paths import mount_of

EVERY_S: Final = 5.0
GONE: Final = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ENODEV,
    errno.ENXIO,
    errno.EIO,
}


@dataclass
class Followed:
    """What is known of one device: its files, the identity of each, and the largest size of each."""

    order: Order
    known: dict[str, tuple[str, int]] = field(default_factory=dict)
    silent: bool = False


class Watch:
    """Looks at the files of all devices of one back end."""

    def __init__(self, notify: Callable[[Notice], None]) -> None:
        self._notify = notify
        self._followed: dict[DeviceKey, Followed] = {}
        self._task: asyncio.Task[None] | None = None

    def follow(self, order: Order, paths: Iterable[str]) -> None:
        """Look at the files of a device from now on."""
        self._followed[order.key] = Followed(order, dict.fromkeys(paths, ("", 0)))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._keep())

    def forget(self, key: DeviceKey) -> None:
        """Look no more."""
        self._followed.pop(key, None)

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def look(self) -> None:
        """Look once at everything, each mount for itself."""
        mounts: dict[str, dict[str, None]] = {}
        for followed in self._followed.values():
            for path in followed.known:
                mounts.setdefault(mount_of(path), {})[path] = None
        await asyncio.gather(*(self._look_at(tuple(paths)) for paths in mounts.values()))

    async def _keep(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(EVERY_S)

    async def _look_at(self, paths: tuple[str, ...]) -> None:
        try:
            seen = await storage.ask(paths[0], lambda: {path: _stat(path) for path in paths}, EVERY_S)
        except ManorError as error:
            for followed in self._of(paths):
                self._tell(followed, "silent", error.message)
            return
        for followed in self._of(paths):
            if followed.silent:
                self._tell(followed, "answers", "")
            why = next((why for path in followed.known if (why := judge(followed, path, seen.get(path)))), "")
            if why:
                self.forget(followed.order.key)
                self._tell(followed, "gone", why)

    def _of(self, paths: tuple[str, ...]) -> list[Followed]:
        return [one for one in self._followed.values() if not one.known.keys().isdisjoint(paths)]

    def _tell(self, followed: Followed, what: Literal["gone", "silent", "answers"], reason: str) -> None:
        if what == "silent" and followed.silent:
            return
        followed.silent = what == "silent"
        order = followed.order
        self._notify(Notice(what, reason, order.key, order.generation, order.epoch))


def judge(followed: Followed, path: str, seen: os.stat_result | OSError | None) -> str:
    """Return why a file is gone for who has it open, or an empty string, and remember what was seen of it."""
    identity, size = followed.known[path]
    if isinstance(seen, OSError):
        return f"{path} is gone: {seen.strerror}" if seen.errno in GONE else ""
    if seen is None:
        return ""
    now = identity_of(seen)
    if identity and identity != now:
        return f"{path} was replaced by another file"
    if stat.S_ISREG(seen.st_mode) and seen.st_size < size:
        return f"{path} was truncated from {size} to {seen.st_size} bytes"
    followed.known[path] = (now, max(size, seen.st_size))
    return ""


def _stat(path: str) -> os.stat_result | OSError:
    try:
        return os.stat(path)
    except OSError as error:
        return error
