import os
import shutil
import socket

import pytest

from manor_bus import keys
from manor_bus.wire.errors import Kind, ManorError
from manor_cli.app import App
from manor_cli.runner import starting, systemd
from manor_cli.settings import Settings, lock_of
from manor_host import locks


def settings(folder, **env):
    return Settings.from_environment(str(folder), {"PATH": os.environ["PATH"], **env})


def test_a_state_directory_is_made_once(tmp_path):
    at = settings(tmp_path / "state")
    made = starting.initialise(at, "n7")
    assert "created node name n7" in made
    assert "created key of operator/admin" in made
    assert (tmp_path / "state" / "node").read_text() == "n7\n"
    assert starting.initialise(at, "n7") == []
    assert starting.initialise(at, "") == []


def test_its_secrets_are_nobody_else_s(tmp_path):
    starting.initialise(settings(tmp_path / "state"), "")
    assert (tmp_path / "state" / "keys").stat().st_mode & 0o077 == 0
    assert keys.load(tmp_path / "state" / "keys" / "operator-admin.key").public


def test_a_node_keeps_its_name(tmp_path):
    starting.initialise(settings(tmp_path), "n1")
    with pytest.raises(ManorError, match="belongs to node n1"):
        starting.initialise(settings(tmp_path), "n2")


@pytest.mark.parametrize("name", ["N1", "a.b", "-x", "x" * 64, "a b"])
def test_a_node_name_is_one_word_of_a_subject(tmp_path, name):
    with pytest.raises(ManorError) as caught:
        starting.initialise(settings(tmp_path), name)
    assert caught.value.kind is Kind.BAD_REQUEST


def test_a_path_too_long_for_sockets_is_refused_before_anything_is_made(tmp_path):
    long = tmp_path / ("x" * 100)
    with pytest.raises(ManorError, match="too long"):
        starting.initialise(settings(long), "")
    assert not long.exists()


def test_the_hypervisor_is_remembered(tmp_path):
    starting.initialise(settings(tmp_path), "")
    assert starting.adapter(settings(tmp_path)) == ""
    at = starting.chosen(settings(tmp_path), "fake")
    assert at.environment[starting.HYPERVISOR_VARIABLE] == "fake"
    again = starting.chosen(settings(tmp_path), "")
    assert again.environment[starting.HYPERVISOR_VARIABLE] == "fake"
    assert starting.adapter(again) == "fake"


def test_without_qemu_the_way_without_it_is_told(tmp_path, monkeypatch):
    starting.initialise(settings(tmp_path), "")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ManorError) as caught:
        starting.chosen(settings(tmp_path), "")
    assert "--hypervisor fake" in caught.value.hint
    assert not (tmp_path / "hypervisor").exists()


def test_a_supervisor_that_dies_ends_the_wait_with_the_end_of_its_log(tmp_path):
    at = settings(tmp_path, PYTHONPATH=str(tmp_path))
    starting.initialise(at, "")
    (tmp_path / "manor_cli").mkdir()
    (tmp_path / "manor_cli" / "__init__.py").write_text("")
    (tmp_path / "manor_cli" / "runner.py").write_text("raise SystemExit('it cannot work')")
    app = App(environment=dict(at.environment))
    process = starting.detach(at)
    with pytest.raises(ManorError) as caught:
        starting.until_ready(app, process)
    assert process.returncode == 1
    assert "it cannot work" in caught.value.problems[0].reason


def test_the_summary_says_where_everything_is(tmp_path):
    at = settings(tmp_path, MANOR_NODE="n1")
    told = "\n".join(starting.summary(at, [{"name": "bus", "pid": 7}]))
    for word in (str(tmp_path), "bus.sock", "operator/admin", "bus 7", "node n1", "manor down"):
        assert word in told


def test_a_node_that_lives_here_is_told_and_no_second_one_is_started(tmp_path, monkeypatch):
    at = settings(tmp_path)
    starting.initialise(at, "")
    starting.refuse_a_second(at)
    lock = locks.take(lock_of(tmp_path))
    with pytest.raises(ManorError, match=f"lives in {tmp_path} already .*{os.getpid()}") as caught:
        starting.refuse_a_second(at)
    assert caught.value.kind is Kind.CONFLICT
    os.close(lock)
    with socket.socket(socket.AF_UNIX) as broker:
        broker.bind(str(tmp_path / "run" / "bus.sock"))
        broker.listen()
        with pytest.raises(ManorError, match="a broker that is not of"):
            starting.refuse_a_second(at)
    unit = systemd.Unit("manor-bus.service", "active", 7, 0)
    monkeypatch.setattr(systemd, "units", lambda _: {"bus": unit})
    with pytest.raises(ManorError, match="systemd keeps manor-bus"):
        starting.refuse_a_second(at)
