from pathlib import Path

from manor_discovery.settings import Settings


def test_settings_come_from_the_environment() -> None:
    environment = {"MANOR_DIR": "/state", "MANOR_NODE": "n7", "MANOR_DISCOVERY_KEEP_S": "250"}
    settings = Settings.from_environment(environment)
    assert settings.bus.node == "n7"
    assert settings.directory == Path("/state/discovery")
    assert settings.keep_s == 250


def test_settings_have_defaults() -> None:
    assert Settings.from_environment({"MANOR_DIR": "/state"}).keep_s == 3600
