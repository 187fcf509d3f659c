"""What this room can be told: the only place of it that reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from manor_bus.settings import BusSettings, state_directory
from manor_bus.wire.errors import Problem, bad_request
from manor_host import durable, privileges

NAME: Final = "lifecycle"
OPTION: Final = "MANOR_LIFECYCLE_"
UIDS: Final = "MANOR_LIFECYCLE_UIDS"
UIDS_DEFAULT: Final = "200000-265535"


@dataclass(frozen=True)
class Settings:
    """`hypervisors`: adapters by name, the first is the default. `uids`: unprivileged users for domains.

    `options`: adapter -> its options. `state_id`: of the state directory, if any. `durable` False:
    nothing needs to survive a power failure (tests).
    """

    bus: BusSettings
    directory: Path
    hypervisors: tuple[str, ...] = ("qemu",)
    options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    uids: tuple[int, int] | None = None
    durable: bool = True
    state_id: str = ""

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
        """Read MANOR_HYPERVISOR (names, separated by commas), MANOR_LIFECYCLE_UIDS (`first-last`, only where
        it may start programs as other users) and MANOR_LIFECYCLE_<ADAPTER>_<OPTION>."""
        names = [n.strip() for n in environment.get("MANOR_HYPERVISOR", "").split(",") if n.strip()]
        hypervisors = tuple(dict.fromkeys(names)) or ("qemu",)
        return Settings(
            bus=BusSettings.from_environment(f"service/{NAME}", environment),
            directory=state_directory(environment) / NAME,
            hypervisors=hypervisors,
            options={name: _options(name, environment) for name in hypervisors},
            uids=_uids(environment.get(UIDS, UIDS_DEFAULT)) if privileges.may(privileges.SETUID) else None,
            state_id=_state_id(state_directory(environment)),
        )


def _state_id(directory: Path) -> str:
    """Return the id that `manor init` gave to the state directory; empty where there is none."""
    content = durable.read(directory / "node.json")
    return str(msgspec.json.decode(content, type=dict[str, Any]).get("id", "")) if content else ""


def _options(adapter: str, environment: Mapping[str, str]) -> dict[str, str]:
    prefix = f"{OPTION}{adapter.upper()}_"
    return {k.removeprefix(prefix).lower(): v for k, v in environment.items() if k.startswith(prefix)}


def _uids(text: str) -> tuple[int, int] | None:
    """`200000-265535` -> (200000, 265535); empty: no users of their own for domains."""
    if not text:
        return None
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last) < 2**32 - 1):
        problem = Problem(path=UIDS, value=text, reason="not a range", allowed="first-last, above 0")
        raise bad_request(f"{UIDS} cannot be read", problem, hint="For example 200000-265535.")
    return int(first), int(last)
