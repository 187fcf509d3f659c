from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_lifecycle.hypervisors.qemu import process


@pytest.fixture
def silence() -> Iterator[int]:
    descriptor = os.open(os.devnull, os.O_WRONLY)
    yield descriptor
    os.close(descriptor)


async def test_a_process_has_a_session_of_its_own_and_its_end_is_noticed(silence: int) -> None:
    sleeping = process.launch(["sleep", "1000"], [], silence, 0)
    assert os.getsid(sleeping.pid) == sleeping.pid
    sleeping.kill()
    await asyncio.wait_for(sleeping.ended.wait(), 10)
    assert sleeping.status == -signal.SIGKILL
    sleeping.kill()  # harmless


async def test_an_exit_status_is_told(silence: int) -> None:
    ended = process.launch(["sh", "-c", "exit 7"], [], silence, 0)
    await asyncio.wait_for(ended.ended.wait(), 10)
    assert ended.status == 7


async def test_a_process_is_adopted_only_if_it_is_the_one_that_started_then(silence: int) -> None:
    sleeping = process.launch(["sleep", "1000"], [], silence, 0)
    assert process.adopt(sleeping.pid, sleeping.ticks + 1) is None
    assert process.adopt(sleeping.pid, 0) is None
    again = process.adopt(sleeping.pid, sleeping.ticks)
    assert again is not None
    again.kill()
    await asyncio.wait_for(again.ended.wait(), 10)
    await asyncio.wait_for(sleeping.ended.wait(), 10)
    assert process.adopt(sleeping.pid, sleeping.ticks) is None


async def test_it_is_found_by_its_whole_command_line(silence: int) -> None:
    argv = ["sleep", f"1000.{os.getpid()}"]
    assert process.find(argv) == 0
    sleeping = process.launch(argv, [], silence, 0)
    for _ in range(10_000):  # the kernel lets us go on a moment before the new command line can be read
        if process.command_line(sleeping.pid) == tuple(argv):
            break
    assert process.find(argv) == sleeping.pid
    assert process.find(argv[:1]) != sleeping.pid
    sleeping.kill()
    await asyncio.wait_for(sleeping.ended.wait(), 10)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process as somebody else")
async def test_a_process_runs_as_the_user_it_was_given(silence: int) -> None:
    sleeping = process.launch(["sleep", "1000"], [], silence, 65534)
    assert os.stat(f"/proc/{sleeping.pid}").st_uid == 65534
    sleeping.kill()
    await asyncio.wait_for(sleeping.ended.wait(), 10)


async def test_a_program_that_is_not_there_is_unavailable(silence: int) -> None:
    with pytest.raises(ManorError) as refused:
        process.launch(["/no/such/program"], [], silence, 0)
    assert refused.value.kind is Kind.UNAVAILABLE


def test_a_number_without_a_process_started_never() -> None:
    assert process.started_ticks(2**22 + 1) == 0
    assert process.command_line(2**22 + 1) == ()
