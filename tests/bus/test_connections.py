from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from manor_bus.broker.connections import Connections

HERE = f"localhost:{os.getuid()}:{os.getgid()}:{os.getpid()}"


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
def connections() -> Iterator[Connections]:
    made = Connections()
    yield made
    made.close()


Pair = tuple[socket.socket, socket.socket]


def test_a_connection_is_admitted_with_the_process_the_kernel_names(
    connections: Connections, pair: Pair
) -> None:
    found = connections.admit(b"c1", pair[0].fileno(), "key", "operator/admin", HERE)
    assert found is not None
    assert found.where == f"{os.getuid()}:{os.getgid()}:{os.getpid()}"
    assert connections.by_conn[b"c1"] is found


def test_another_process_than_libzmq_saw_is_not_admitted(connections: Connections, pair: Pair) -> None:
    assert connections.admit(b"c1", pair[0].fileno(), "key", "operator/admin", "localhost:0:0:1") is None


def test_ending_one_connection_ends_only_that_one(connections: Connections, pair: Pair) -> None:
    found = connections.accepted(pair[0].fileno())
    assert found is not None
    assert not found.over()
    found.shut()
    assert pair[1].recv(1) == b""
    assert found.over()


def test_the_end_of_the_other_side_is_noticed(connections: Connections, pair: Pair) -> None:
    found = connections.accepted(pair[0].fileno())
    assert found is not None
    pair[1].close()
    assert found.over()


def test_a_number_that_belongs_to_a_later_connection_is_not_taken_for_the_first(
    connections: Connections,
) -> None:
    ours, theirs = socket.socketpair()
    number = ours.fileno()
    first = connections.accepted(number)
    ours.close()
    later, other = socket.socketpair()
    descriptor = later.detach()
    if descriptor != number:  # the kernel usually gives the lowest free number
        os.dup2(descriptor, number)
        os.close(descriptor)
    second = connections.accepted(number)
    assert first is not None
    assert second is not None
    assert second is not first
    os.close(number)
    for one in (theirs, other):
        one.close()


def test_bytes_that_nobody_reads_are_seen(connections: Connections, pair: Pair) -> None:
    found = connections.accepted(pair[0].fileno())
    assert found is not None
    pair[1].send(b"x" * 1000)
    assert found.backlog() >= 1000


def test_a_closed_descriptor_is_nobody(connections: Connections) -> None:
    assert connections.accepted(1_000_000) is None
