"""What this room can be told: the only place of it that reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from manor_bus.settings import BusSettings, state_directory
from manor_bus.wire.errors import Problem, bad_request

NAME: Final = "config"


@dataclass(frozen=True)
class Settings:
    """`engine`: `sqlite` keeps the store in `directory`, `memory` forgets it with the process."""

    bus: BusSettings
    directory: Path
    engine: Literal["sqlite", "memory"] = "sqlite"

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
        """Read MANOR_CONFIG_ENGINE beside the bus's own variables."""
        bus = BusSettings.from_environment(f"service/{NAME}", environment)
        directory = state_directory(environment) / NAME
        match environment.get("MANOR_CONFIG_ENGINE", "sqlite"):
            case "sqlite":
                return Settings(bus, directory)
            case "memory":
                return Settings(bus, directory, "memory")
            case other:
                problem = Problem(
                    path="MANOR_CONFIG_ENGINE", reason="unknown engine", value=other, allowed="sqlite, memory"
                )
                raise bad_request(f"there is no engine {other!r}", problem, hint="Unset it for sqlite.")
