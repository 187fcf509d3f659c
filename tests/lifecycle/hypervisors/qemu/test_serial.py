from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_lifecycle.hypervisors.qemu import serial, sockets
from manor_lifecycle.hypervisors.qemu.folder import CONSOLE_LOG
from manor_lifecycle.hypervisors.qemu.serial import SerialConsole, open_console


@dataclass
class Emulator:
    """The side that QEMU has: a listening socket and a log."""

    folder: Path
    ear: socket.socket

    def log(self, content: bytes) -> None:
        with (self.folder / CONSOLE_LOG).open("ab") as file:
            file.write(content)

    async def attached(self, *, logged: bool = True) -> tuple[SerialConsole, socket.socket]:
        console = await open_console(self.folder, logged=logged)
        there, _ = self.ear.accept()
        there.setblocking(False)
        return console, there


@pytest.fixture
async def emulator(tmp_path: Path) -> AsyncIterator[Emulator]:
    (tmp_path / CONSOLE_LOG).touch()
    with sockets.listen(tmp_path, serial.SOCKET) as ear:
        yield Emulator(tmp_path, ear)


async def test_what_was_printed_before_comes_from_the_log_with_its_place(emulator: Emulator) -> None:
    emulator.log(b"booting\n")
    console, there = await emulator.attached()
    assert console.offset == 0
    assert await console.read() == b"booting\n"
    assert console.offset == 8
    emulator.log(b"ready\n")
    there.send(b"ready\n")
    assert await asyncio.wait_for(console.read(), 10) == b"ready\n"
    there.close()
    await console.close()


async def test_only_the_end_of_a_long_log_is_read(emulator: Emulator) -> None:
    emulator.log(b"x" * (serial.SCROLL_BACK + 1000))
    console, there = await emulator.attached()
    assert console.offset == 1000
    there.close()
    await console.close()


async def test_without_a_log_the_socket_is_read(emulator: Emulator) -> None:
    console, there = await emulator.attached(logged=False)
    there.send(b"hello")
    assert await console.read() == b"hello"
    assert console.offset == 5
    there.close()
    assert await console.read() == b""
    await console.close()


async def test_what_is_typed_reaches_the_guest(emulator: Emulator) -> None:
    console, there = await emulator.attached()
    await console.write(b"ls\n")
    assert await asyncio.get_running_loop().sock_recv(there, 10) == b"ls\n"
    there.close()
    await console.close()


async def test_a_guest_that_takes_nothing_does_not_hold_the_writer(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serial, "WRITE_S", 0.05)
    console, there = await emulator.attached()
    with pytest.raises(ManorError) as refused:
        await console.write(b"x" * 10_000_000)
    assert refused.value.kind is Kind.TIMEOUT
    there.close()
    await console.close()


async def test_a_guest_that_is_gone_has_no_console(tmp_path: Path) -> None:
    with pytest.raises(ManorError) as refused:
        await open_console(tmp_path, logged=True)
    assert refused.value.kind is Kind.UNAVAILABLE
