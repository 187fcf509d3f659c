"""The monitor against a QEMU without a guest."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_lifecycle.hypervisors.qemu import monitor, sockets
from manor_lifecycle.hypervisors.qemu.monitor import Monitor, Refusal

QEMU = shutil.which("qemu-system-x86_64") or ""
needs_qemu = [pytest.mark.qemu, pytest.mark.skipif(not QEMU, reason="QEMU is not installed")]


@pytest.fixture
async def emulator(tmp_path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    ear = sockets.listen(tmp_path, monitor.SOCKET)  # so that it can be connected to from now on
    child = await asyncio.create_subprocess_exec(
        QEMU, "-machine", "none", "-nodefaults", "-display", "none", "-S",
        "-chardev", f"socket,id=m,fd={ear.fileno()},server=on,wait=off", "-mon", "chardev=m,mode=control",
        pass_fds=[ear.fileno()],
    )  # fmt: skip
    ear.close()
    yield child
    if child.returncode is None:
        child.kill()
    await child.wait()


@pytest.fixture
async def connected(tmp_path: Path, emulator: asyncio.subprocess.Process) -> AsyncIterator[Monitor]:
    made = Monitor("web")
    await made.connect(tmp_path)
    yield made
    await made.close()


class TestWithQemu:
    pytestmark = needs_qemu

    async def test_a_question_is_answered(self, connected: Monitor) -> None:
        assert (await connected.ask("query-status"))["running"] is False

    async def test_a_refusal_keeps_qemus_own_words(self, connected: Monitor) -> None:
        with pytest.raises(Refusal, match="no-such-command"):
            await connected.ask("no-such-command")

    async def test_events_come_in_order(self, connected: Monitor) -> None:
        await connected.ask("cont")
        await connected.ask("stop")
        heard: list[str] = []
        async with asyncio.timeout(30):
            async for event in connected.events():
                heard.append(event["event"])
                if "STOP" in heard:
                    break
        assert heard[-2:] == ["RESUME", "STOP"]

    async def test_a_descriptor_can_be_lent(self, connected: Monitor) -> None:
        descriptor = os.open(os.devnull, os.O_RDONLY)
        await connected.ask("getfd", {"fdname": "x"}, lend=descriptor)
        os.close(descriptor)
        await connected.ask("closefd", {"fdname": "x"})

    async def test_after_its_end_every_question_says_so(
        self, connected: Monitor, emulator: asyncio.subprocess.Process
    ) -> None:
        emulator.kill()
        async with asyncio.timeout(30):
            async for _ in connected.events():
                pass
        with pytest.raises(ManorError) as refused:
            await connected.ask("query-status")
        assert refused.value.kind is Kind.UNAVAILABLE


async def test_a_silent_greeting_ends_at_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "GREETING_S", 0.05)
    with sockets.listen(tmp_path, monitor.SOCKET), pytest.raises(ManorError) as refused:
        await Monitor("web").connect(tmp_path)
    assert refused.value.kind is Kind.TIMEOUT


async def test_nobody_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(ManorError) as refused:
        await Monitor("web").connect(tmp_path)
    assert refused.value.kind is Kind.UNAVAILABLE
