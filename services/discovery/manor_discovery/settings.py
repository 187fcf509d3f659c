"""What this room can be told: the only place of it that reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from manor_bus.settings import BusSettings, state_directory

NAME: Final = "discovery"


@dataclass(frozen=True)
class Settings:
    """`keep_s`: how long the word of an owner that went still counts, marked stale.

    `directory` holds nothing but the lock that keeps a second instance waiting.
    """

    bus: BusSettings
    directory: Path
    keep_s: float = 3_600.0

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
        """Read MANOR_DISCOVERY_KEEP_S beside the bus's own variables."""
        return Settings(
            bus=BusSettings.from_environment(f"service/{NAME}", environment),
            directory=state_directory(environment) / NAME,
            keep_s=float(environment.get("MANOR_DISCOVERY_KEEP_S", "3600")),
        )
