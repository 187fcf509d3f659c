"""Run the lifecycle service: `python -m manor_lifecycle`."""

from __future__ import annotations

from manor_bus.peer import serving as service
from manor_lifecycle.service import open_room
from manor_lifecycle.settings import NAME, Settings


def main() -> None:
    """Serve until told to stop; guests stay."""
    service.run(NAME, open_room, Settings.from_environment)


if __name__ == "__main__":
    main()
