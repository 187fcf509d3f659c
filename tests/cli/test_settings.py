from pathlib import Path

from manor_cli.settings import Settings


def settings(directory="", **env):
    return Settings.from_environment(directory, {"HOME": "/home/me", **env})


def test_the_environment_says_where_things_are():
    found = settings(MANOR_DIR="/srv/manor", MANOR_NODE="n1")
    assert found.directory == Path("/srv/manor")
    assert found.keys == Path("/srv/manor/keys")
    assert (found.run, found.log) == (Path("/srv/manor/run"), Path("/srv/manor/log"))
    assert found.bus.endpoint == "ipc:///srv/manor/run/bus.sock"
    assert found.bus.node == "n1"
    assert found.bus.key_file == Path("/srv/manor/keys/operator-admin.key")


def test_the_option_wins_and_child_processes_are_told():
    found = settings("/else/where", MANOR_DIR="/srv/manor")
    assert found.directory == Path("/else/where")
    assert found.environment["MANOR_DIR"] == "/else/where"
    assert found.bus.endpoint == "ipc:///else/where/run/bus.sock"


def test_another_principal_uses_another_key():
    found = settings(MANOR_DIR="/srv", MANOR_PRINCIPAL="observer/grafana")
    assert found.principal == "observer/grafana"
    assert found.bus.key_file == Path("/srv/keys/observer-grafana.key")


def test_relative_directories_become_absolute():
    assert settings("state").directory == Path.cwd() / "state"


def test_no_color_is_respected_when_it_says_anything():
    assert settings(MANOR_DIR="/srv").color
    assert settings(MANOR_DIR="/srv", NO_COLOR="").color
    assert not settings(MANOR_DIR="/srv", NO_COLOR="1").color
