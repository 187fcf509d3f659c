"""Settings of the devices service."""

from pathlib import Path

from manor_devices.settings import Settings


def test_everything_lies_below_the_state_directory(tmp_path):
    made = Settings.from_environment({"MANOR_DIR": str(tmp_path), "MANOR_NODE": "n7"})
    assert (made.directory, made.volumes) == (tmp_path / "devices", tmp_path / "volumes")
    assert made.bus.node == "n7"


def test_volumes_may_lie_elsewhere(tmp_path):
    made = Settings.from_environment({"MANOR_DIR": str(tmp_path), "MANOR_DEVICES_VOLUMES": "/srv/volumes"})
    assert made.volumes == Path("/srv/volumes")
