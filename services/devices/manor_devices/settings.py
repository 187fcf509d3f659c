"""Where this room keeps what it must remember and what it makes. The only os.environ of the room."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from manor_bus.settings import BusSettings, state_directory


@dataclass(frozen=True)
class Settings:
    """`directory`: records and sockets of this room; `volumes`: the pools."""

    bus: BusSettings
    directory: Path
    volumes: Path

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
        """Read MANOR_DIR, what the bus needs, and MANOR_DEVICES_VOLUMES (where volumes are, if elsewhere)."""
        state = state_directory(environment)
        return Settings(
            bus=BusSettings.from_environment("service/devices", environment),
            directory=state / "devices",
            volumes=Path(environment.get("MANOR_DEVICES_VOLUMES") or state / "volumes"),
        )
