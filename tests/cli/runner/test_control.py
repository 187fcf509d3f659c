import errno
import os
import socket
import threading

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_cli.runner import control


def answering(folder, reply):
    """Answer one wish with these bytes; returns what was asked."""
    asked = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "supervisor.sock"))
    listener.listen()

    def serve():
        with listener, listener.accept()[0] as link:
            asked.append(link.recv(4096))
            link.sendall(reply)

    thread = threading.Thread(target=serve)
    thread.start()
    return asked, thread


def test_a_wish_is_a_line_of_json_and_so_is_the_reply(tmp_path):
    asked, thread = answering(tmp_path, b'{"pid": 7}\n')
    assert control.ask(tmp_path, "second", service="config") == {"pid": 7}
    thread.join()
    assert asked == [b'{"do": "second", "service": "config"}\n']


def test_a_refused_wish_is_an_error(tmp_path):
    _, thread = answering(tmp_path, b'{"error": "no such service"}\n')
    with pytest.raises(ManorError, match="no such service"):
        control.ask(tmp_path, "restart", service="x")
    thread.join()


def test_without_a_supervisor_it_is_unavailable(tmp_path):
    with pytest.raises(ManorError) as caught:
        control.ask(tmp_path, "status")
    assert caught.value.kind is Kind.UNAVAILABLE
    assert "manor up" in caught.value.hint


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENXIO, errno.EROFS])
def test_a_socket_that_a_dead_disk_hides_is_no_supervisor(tmp_path, monkeypatch, number):
    def connect(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(ManorError) as caught:
        control.ask(tmp_path, "status")
    assert caught.value.kind is Kind.UNAVAILABLE


def test_a_supervisor_that_died_left_a_socket_that_answers_nobody(tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "supervisor.sock"))
    listener.close()
    with pytest.raises(ManorError) as caught:
        control.ask(tmp_path, "status")
    assert caught.value.kind is Kind.UNAVAILABLE
