"""Run the devices service."""

from manor_bus.peer import serving as service
from manor_devices.service import open_room
from manor_devices.settings import Settings


def main() -> None:
    """Serve until told to end."""
    service.run("devices", open_room, Settings.from_environment)


if __name__ == "__main__":
    main()
