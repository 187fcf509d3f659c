"""Processes that outlive the service."""

import asyncio
import os
import signal
import socket
import sys

import pytest

from manor_bus.wire.errors import ManorError
from manor_devices.backends import daemons
from manor_host import processes

MARK = "--mark=daemons-test-5c1e"
WAIT = "import signal; print('up', flush=True); signal.pause()"
DEAF = "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True)\nwhile True: signal.pause()"


@pytest.fixture
async def child():
    """A process with our mark, started by somebody else."""
    made = []

    async def start(code=WAIT, mark=MARK):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, mark, stdout=asyncio.subprocess.PIPE
        )
        await process.stdout.readline()
        made.append(process)
        return process

    yield start
    for process in made:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_process_is_found_by_its_mark_and_its_end_is_told_at_once(child):
    process = await child()
    program = os.path.basename(processes.command_line(process.pid)[0])
    assert daemons.find(program, "--mark=daemons-test")[MARK] == process.pid
    ended = asyncio.Event()
    held = daemons.hold(process.pid, MARK)
    held.watch(ended.set)
    os.kill(process.pid, signal.SIGKILL)
    await asyncio.wait_for(ended.wait(), 10)


async def test_a_number_that_is_another_process_by_now_is_not_held(child):
    process = await child(mark="--mark=somebody-else")
    assert daemons.hold(process.pid, MARK) is None
    process.kill()
    await process.wait()
    assert daemons.hold(process.pid, MARK) is None
    assert daemons.hold(0, MARK) is None


async def test_an_end_that_we_asked_for_is_not_told(child):
    process = await child()
    told = []
    held = daemons.hold(process.pid, MARK)
    held.watch(lambda: told.append(True))
    await held.stop()
    assert await process.wait() == -signal.SIGTERM
    assert told == []
    await held.stop()


async def test_a_process_that_ignores_the_polite_word_is_killed(child, monkeypatch):
    monkeypatch.setattr(daemons, "TERM_S", 0.1)
    process = await child(DEAF)
    await daemons.hold(process.pid, MARK).stop()
    assert await process.wait() == -signal.SIGKILL


async def test_a_process_that_is_let_go_lives_on(child):
    process = await child()
    held = daemons.hold(process.pid, MARK)
    held.let_go()
    assert processes.command_line(process.pid)[-1] == MARK


async def test_one_that_had_ended_before_it_was_watched_is_told_too(child):
    process = await child()
    held = daemons.hold(process.pid, MARK)
    process.kill()
    await asyncio.wait_for(held._ended.wait(), 10)
    ended = asyncio.Event()
    held.watch(ended.set)
    await asyncio.wait_for(ended.wait(), 10)


async def test_a_socket_that_another_process_serves_is_not_believed(tmp_path):
    with socket.socket(socket.AF_UNIX) as ours:
        ours.bind(str(tmp_path / "served"))
        ours.listen()
        with pytest.raises(ManorError, match="ended right after its start"):
            await daemons.start(["true", MARK], str(tmp_path / "served"), 0, MARK)
