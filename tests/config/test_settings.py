from __future__ import annotations

from pathlib import Path

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_config.settings import Settings


def test_the_store_is_sqlite_in_the_rooms_own_folder(tmp_path: Path) -> None:
    settings = Settings.from_environment({"MANOR_DIR": str(tmp_path), "MANOR_NODE": "n1"})
    assert settings.engine == "sqlite"
    assert settings.directory == tmp_path / "config"
    assert settings.bus.node == "n1"


def test_the_engine_can_be_chosen_among_those_there_are(tmp_path: Path) -> None:
    environment = {"MANOR_DIR": str(tmp_path), "MANOR_CONFIG_ENGINE": "memory"}
    assert Settings.from_environment(environment).engine == "memory"
    with pytest.raises(ManorError, match="no engine 'oracle'") as refusal:
        Settings.from_environment(environment | {"MANOR_CONFIG_ENGINE": "oracle"})
    assert refusal.value.kind is Kind.BAD_REQUEST
    assert refusal.value.problems[0].allowed == "sqlite, memory"
