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
    """`period_ms`: how often registrants renew, and how long we settle after a start.

    `directory` holds nothing but the lock that keeps a second instance waiting.
    """

    bus: BusSettings
    directory: Path
    period_ms: int = 1_000

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
        """Read MANOR_DISCOVERY_PERIOD_MS beside the bus's own variables."""
        return Settings(
            bus=BusSettings.from_environment(f"service/{NAME}", environment),
            directory=state_directory(environment) / NAME,
            period_ms=int(environment.get("MANOR_DISCOVERY_PERIOD_MS", "1000")),
        )
