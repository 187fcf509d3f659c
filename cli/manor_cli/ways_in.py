"""How somebody who was given a key gets in: through the group of the bus's socket, or over tcp."""

from __future__ import annotations

import grp
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from manor_cli.runner import present
from manor_cli.settings import Settings
from manor_host import processes

PORT: Final = 7373
FOLDER: Final = "manor-keys"  # in the home of whoever gets in


def told(settings: Settings, principal: str, file: Path | None) -> Iterator[str]:
    """Yield the lines that say what to type, for `principal` with the key in `file` (None: it has its own).

    The unix user is taken to be called as the principal is.
    """
    user = principal.partition("/")[2]
    given = [str(one) for one in (file, settings.keys / "broker.pub") if one]
    yield f"as root, with the name of the unix user for {user} if it is another:"
    yield f"  install -d -m 700 -o {user} ~{user}/{FOLDER}"
    yield f"  install -m 600 -o {user} {shlex.join(given)} ~{user}/{FOLDER}/"
    group, tcp = _group(settings), _tcp(settings)
    if group:
        yield f"  usermod -aG {group} {user}"
    own = "" if file else " MANOR_KEY=FILE"
    mine = f'MANOR_KEYS="$HOME/{FOLDER}" MANOR_PRINCIPAL={principal}{own}'
    if group:
        yield f"as {user} on this machine, logged in anew:"
        yield f"  export MANOR_DIR={shlex.quote(str(settings.directory))} {mine}"
    if tcp:
        yield f"as {user} anywhere, with that folder:"
        yield f"  export MANOR_BUS={tcp} {mine}"
    if not (group or tcp):
        yield "nobody else reaches this bus yet: start the node again with one of these set"
        yield f"  MANOR_BUS_GROUP=GROUP MANOR_BUS_TCP='tcp://*:{PORT}'"
        yield f"then: manor credential rotate {principal}, which says the rest"
        return
    yield "  manor list"


def _group(settings: Settings) -> str:
    """Return the group that the socket of the bus is open to; empty when it is its owner's alone."""
    try:
        there = Path(settings.bus.endpoint.removeprefix("ipc://")).stat()
    except OSError:
        return ""
    if there.st_mode & 0o060 != 0o060:
        return ""
    try:
        return grp.getgrgid(there.st_gid).gr_name
    except KeyError:
        return str(there.st_gid)


def _tcp(settings: Settings) -> str:
    """Return the tcp end point that the broker was told to listen at; empty when there is none."""
    for broker in present.services(settings.directory).get("bus", []):
        told = processes.environment(broker.pid).get("MANOR_BUS_TCP", "")
        return told.replace("*", socket.gethostname()).replace("0.0.0.0", socket.gethostname())
    return ""
