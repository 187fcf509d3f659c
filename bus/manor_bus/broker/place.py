"""What a broker needs where it stands: its keys, its turn, and a way to its socket for a group."""

from __future__ import annotations

import grp
import logging
import os
from pathlib import Path

from manor_bus.settings import BrokerSettings
from manor_bus.wire.errors import Kind, ManorError, not_found
from manor_host import locks

log = logging.getLogger(__name__)


def let_in(path: Path, group: str) -> None:
    """Let a group through the folder of a socket, and then to the socket; keys decide who is heard."""
    try:
        number = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
        if path.parent.stat().st_gid != number:
            os.chown(path.parent, -1, number)
            path.parent.chmod(0o710)
        os.chown(path, -1, number)
        path.chmod(0o660)
    except KeyError:
        hint = f"Make it: groupadd --system {group}"
        raise not_found(f"there is no group {group!r} (MANOR_BUS_GROUP)", hint=hint) from None
    except PermissionError:
        message = f"the broker may not give {path} to the group {group}"
        raise ManorError(Kind.FORBIDDEN, message, hint="Its user must be in that group.") from None


def wait_turn(settings: BrokerSettings) -> None:
    """Wait until no other broker of this state directory is there; its socket is its own until it ends.

    Where no lock can be kept (a file system that takes nothing) a broker is more than a lock.
    """
    if settings.directory is None:
        return
    try:
        settings.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        locks.take(settings.directory / "lock", wait=True)  # given back by the end of the process
    except OSError as error:
        log.warning("there is no lock against a second broker: %s", error)


def check_keys(settings: BrokerSettings) -> None:
    """Refuse to start without keys, saying what to do."""
    if not settings.key_file.exists():
        raise ManorError(
            Kind.UNAVAILABLE,
            f"no broker key at {settings.key_file}",
            hint="Create keys: manor init",
            delivered=False,
        )
