"""The units of an installation, where systemd keeps the services running. Source: systemctl(1)."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from manor_bus.settings import state_directory
from manor_bus.wire.errors import ManorError, unavailable

NAMES: Final = "manor-*.service"
PROPERTIES: Final = "--property=Id,ActiveState,MainPID,NRestarts,Environment"
ASK_S: Final = 10.0
ACT_S: Final = 120.0
_UNIT: Final = re.compile(r"manor-(bus|config|discovery|lifecycle|devices)\.service")


@dataclass(frozen=True)
class Unit:
    """One unit: its full name, what systemd says of it (`active`, `failed`, …), its process, its restarts."""

    name: str
    state: str
    pid: int
    restarts: int


def units(directory: Path) -> dict[str, Unit]:
    """Return the units that serve this state directory and are not at rest, by service."""
    try:
        told = _run("show", PROPERTIES, NAMES, within=ASK_S)
    except ManorError:
        return {}  # no systemd here, so it keeps nothing
    found = {}
    for block in told.split("\n\n"):
        fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        match = _UNIT.fullmatch(fields.get("Id", ""))
        if match and fields.get("ActiveState") != "inactive" and _directory(fields) == directory:
            pid, restarts = (int(fields.get(name) or 0) for name in ("MainPID", "NRestarts"))
            found[match[1]] = Unit(match[0], fields.get("ActiveState", ""), pid, restarts)
    return found


def _directory(fields: Mapping[str, str]) -> Path:
    pairs = (text.partition("=") for text in shlex.split(fields.get("Environment", "")))
    return state_directory({name: value for name, _, value in pairs})


def act(verb: str, *names: str) -> None:
    """`stop` or `restart` units; `unavailable` with what systemd says when it does not."""
    _run(verb, *names, within=ACT_S)


def _run(*arguments: str, within: float) -> str:
    command = ("systemctl", *arguments)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=within, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise unavailable(f"systemctl cannot be used: {error}", delivered=False) from None
    if done.returncode:
        message = f"{' '.join(command)} failed: {done.stderr.strip()}"
        raise unavailable(message, delivered=False, hint="systemctl status manor.target says more")
    return done.stdout
