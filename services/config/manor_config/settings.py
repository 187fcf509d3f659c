"""What this room can be told: the only place of it that reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from manor_bus.settings import BusSettings, state_directory
from manor_bus.wire.errors import Problem, bad_request

NAME: Final = "config"
ENGINES: Final = ("sqlite", "memory")


@dataclass(frozen=True)
class Settings:
    """`engine`: `sqlite` keeps the store in `directory`, `memory` forgets it with the process."""

    bus: BusSettings
    directory: Path
    engine: str = "sqlite"

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
        """Read MANOR_CONFIG_ENGINE beside the bus's own variables."""
        bus = BusSettings.from_environment(f"service/{NAME}", environment)
        directory = state_directory(environment) / NAME
        engine = environment.get("MANOR_CONFIG_ENGINE", "sqlite")
        if engine not in ENGINES:
            problem = Problem(
                path="MANOR_CONFIG_ENGINE", reason="unknown", value=engine, allowed=", ".join(ENGINES)
            )
            raise bad_request(f"there is no engine {engine!r}", problem, hint="Unset it for sqlite.")
        return Settings(bus, directory, engine)
