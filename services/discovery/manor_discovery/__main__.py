"""Run the discovery service: `python -m manor_discovery`."""

from __future__ import annotations

from manor_bus.peer import serving as service
from manor_discovery.service import open_room
from manor_discovery.settings import NAME, Settings


def main() -> None:
    """Serve until told to stop."""
    service.run(NAME, open_room, Settings.from_environment)


if __name__ == "__main__":
    main()
