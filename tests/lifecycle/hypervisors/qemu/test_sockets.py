from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from manor_lifecycle.hypervisors.qemu import sockets


async def test_a_path_longer_than_an_address_still_works(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100) / ("y" * 100)
    folder.mkdir(parents=True)
    with sockets.listen(folder, "monitor") as ear:
        made = await sockets.connect(folder, "monitor")
        there, _ = ear.accept()
        await asyncio.get_running_loop().sock_sendall(made, b"hello")
        assert there.recv(5) == b"hello"
        made.close()
        there.close()


def test_nobody_else_may_connect(tmp_path: Path) -> None:
    with sockets.listen(tmp_path, "monitor"):
        assert (tmp_path / "monitor").stat().st_mode & 0o177 == 0


async def test_a_socket_of_an_earlier_run_is_replaced(tmp_path: Path) -> None:
    sockets.listen(tmp_path, "monitor").close()
    with pytest.raises(ConnectionRefusedError):
        await sockets.connect(tmp_path, "monitor")
    with sockets.listen(tmp_path, "monitor"):
        (await sockets.connect(tmp_path, "monitor")).close()


async def test_a_missing_socket_is_an_error_and_leaves_nothing_open(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await sockets.connect(tmp_path, "monitor")
