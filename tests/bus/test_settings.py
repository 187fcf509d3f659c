import os
from pathlib import Path

import pytest

from manor_bus.broker.place import let_in
from manor_bus.settings import BrokerSettings, BusSettings, node_name, state_directory
from manor_bus.wire.errors import ManorError


def test_one_variable_says_where_everything_is(tmp_path):
    made = BusSettings.from_environment("service/config", {"MANOR_DIR": str(tmp_path)})
    assert made.endpoint == f"ipc://{tmp_path}/run/bus.sock"
    assert made.key_file == tmp_path / "keys" / "service-config.key"
    assert made.broker_key_file == tmp_path / "keys" / "broker.pub"
    assert made.node == "node1"


def test_each_part_can_be_said_by_itself(tmp_path):
    environment = {
        "MANOR_DIR": str(tmp_path), "MANOR_NODE": "n7", "MANOR_BUS": "tcp://b:5", "MANOR_KEYS": "/k",
        "MANOR_KEY": "/own.key", "MANOR_BUS_TCP": "tcp://0.0.0.0:6",
    }  # fmt: skip
    made = BusSettings.from_environment("operator/me", environment)
    assert (made.endpoint, made.key_file, made.node) == ("tcp://b:5", Path("/own.key"), "n7")
    assert made.broker_key_file == Path("/k/broker.pub")
    broker = BrokerSettings.from_environment(environment)
    assert (broker.endpoints, broker.keys, broker.node) == (
        ("tcp://b:5", "tcp://0.0.0.0:6"),
        Path("/k"),
        "n7",
    )


def test_the_broker_listens_on_ipc_alone_unless_told_otherwise(tmp_path):
    broker = BrokerSettings.from_environment({"MANOR_DIR": str(tmp_path)})
    assert broker.endpoints == (f"ipc://{tmp_path}/run/bus.sock",)
    assert broker.group == ""
    assert broker.key_file == tmp_path / "keys" / "broker.key"


def test_the_name_of_the_node_is_what_init_wrote(tmp_path):
    (tmp_path / "node").write_text("alpha\n")
    assert node_name({"MANOR_DIR": str(tmp_path)}) == "alpha"
    assert node_name({"MANOR_DIR": str(tmp_path), "MANOR_NODE": "beta"}) == "beta"


def test_the_state_directory_has_the_usual_place(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert state_directory({}) == Path("/var/lib/manor")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert state_directory({"XDG_STATE_HOME": str(tmp_path)}) == tmp_path / "manor"
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert state_directory({}) == tmp_path / ".local" / "state" / "manor"
    assert state_directory({"MANOR_DIR": "relative"}) == Path.cwd() / "relative"


def test_a_group_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ManorError, match="no group 'no-such-group'") as caught:
        let_in(tmp_path / "bus.sock", "no-such-group")
    assert "groupadd" in caught.value.hint
