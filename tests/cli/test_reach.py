import gc
import os
import socket

import pytest
from msgspec.structs import replace

from manor_bus.wire.errors import Kind, ManorError
from manor_cli import reach
from manor_cli.settings import Settings, lock_of
from manor_host import locks


def settings(folder):
    return Settings.from_environment(str(folder), {"PATH": os.environ["PATH"]})


@pytest.fixture
def initialised(tmp_path):
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "broker.pub").write_text("x")
    (tmp_path / "run").mkdir()
    return settings(tmp_path)


def test_without_keys_it_says_to_make_them(tmp_path):
    with pytest.raises(ManorError) as caught:
        reach.wait(settings(tmp_path), 1.0)
    assert caught.value.kind is Kind.UNAVAILABLE
    assert "manor init" in caught.value.hint


def test_where_nothing_runs_it_says_so_at_once(initialised):
    with pytest.raises(ManorError) as caught:
        reach.wait(initialised, 3600.0)
    assert caught.value.kind is Kind.UNAVAILABLE
    assert "manor up" in caught.value.hint


def test_a_socket_that_a_dead_broker_left_is_nobody(initialised):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(initialised.run / "bus.sock"))
    assert not reach.listening(initialised.bus)
    listener.listen()
    assert reach.listening(initialised.bus)
    reach.wait(initialised, 1.0)
    listener.close()
    assert not reach.listening(initialised.bus)


def test_a_broker_that_keeps_its_lock_is_there_whatever_became_of_its_socket(initialised):
    (initialised.directory / "bus").mkdir()
    lock = locks.take(lock_of(initialised.directory, "bus"))
    reach.wait(initialised, 0.0)
    os.close(lock)
    with pytest.raises(ManorError, match="no bus answers"):
        reach.wait(initialised, 0.0)


def test_other_endpoints_are_tried_by_connecting(initialised):
    assert reach.listening(replace(initialised.bus, endpoint="tcp://127.0.0.1:1"))


def test_a_broker_that_is_being_restarted_is_waited_for(initialised, monkeypatch):
    answers = iter([False, False, True])
    monkeypatch.setattr(reach, "listening", lambda _: next(answers))
    monkeypatch.setattr(locks, "held", lambda lock: lock.name == "supervisor.lock")
    reach.wait(initialised, 60.0)
    assert list(answers) == []


def test_but_not_for_ever(initialised, monkeypatch):
    monkeypatch.setattr(locks, "held", lambda lock: lock.name == "supervisor.lock")
    with pytest.raises(ManorError, match="no bus answers"):
        reach.wait(initialised, 0.0)


def test_from_the_first_connection_on_garbage_is_collected(tmp_path):
    gc.disable()
    with pytest.raises(ManorError):
        reach.wait(settings(tmp_path), 1.0)
    assert gc.isenabled()
    gc.unfreeze()
