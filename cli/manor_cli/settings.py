"""Where the state, keys and bus are. The only file of the command line that reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from manor_bus.settings import BusSettings, state_directory

DEFAULT_PRINCIPAL: Final = "operator/admin"


def lock_of(directory: Path, service: str = "") -> Path:
    """Return the lock that a service keeps as long as it lives; without a name, the supervisor's.

    Neither lies in the folder of sockets, which people and tmpfiles clean.
    """
    return directory / service / "lock" if service else directory / "supervisor.lock"


class Settings(msgspec.Struct, frozen=True):
    """One state directory, who we are on its bus, and what child processes inherit."""

    directory: Path
    keys: Path
    principal: str
    bus: BusSettings
    color: bool
    environment: Mapping[str, str]

    @property
    def run(self) -> Path:
        """The folder of sockets."""
        return self.directory / "run"

    @property
    def log(self) -> Path:
        """The folder of log files."""
        return self.directory / "log"

    @staticmethod
    def from_environment(directory: str = "", environment: Mapping[str, str] | None = None) -> Settings:
        """Read MANOR_DIR, MANOR_KEYS, MANOR_PRINCIPAL and NO_COLOR; `directory` (of `--dir`) wins."""
        env = dict(os.environ if environment is None else environment)
        chosen = Path(directory).expanduser() if directory else state_directory(env)
        env["MANOR_DIR"] = str(chosen.absolute())
        principal = env.get("MANOR_PRINCIPAL") or DEFAULT_PRINCIPAL
        return Settings(
            directory=chosen.absolute(),
            keys=Path(env.get("MANOR_KEYS") or chosen / "keys").absolute(),
            principal=principal,
            bus=BusSettings.from_environment(principal, env),
            color=not env.get("NO_COLOR"),
            environment=env,
        )
