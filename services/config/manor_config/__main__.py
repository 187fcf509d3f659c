"""Run the config service: `python -m manor_config`."""

from __future__ import annotations

from manor_bus.peer import serving as service
from manor_config.service import open_room
from manor_config.settings import NAME, Settings


def main() -> None:
    """Serve until told to stop."""
    service.run(NAME, open_room, Settings.from_environment)


if __name__ == "__main__":
    main()
