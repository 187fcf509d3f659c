"""Programs run to their end."""

import os

import pytest

from manor_bus.wire.errors import Kind, ManorError
from manor_devices.processes import run


async def test_the_output_of_a_program_is_returned():
    assert await run(["echo", "hello; exit 1"], 10) == "hello; exit 1\n"


async def test_a_failure_says_the_last_line_the_program_wrote():
    with pytest.raises(ManorError, match=r"failed: .*No such file") as caught:
        await run(["ls", "/no/such/file"], 10)
    assert caught.value.kind is Kind.DENIED_STATE


async def test_a_program_that_is_not_installed_is_named():
    with pytest.raises(ManorError, match="no-such-program cannot be run: No such file") as caught:
        await run(["no-such-program", "x"], 10)
    assert caught.value.kind is Kind.UNAVAILABLE


async def test_a_program_that_does_not_end_is_killed_at_its_deadline():
    with pytest.raises(ManorError) as caught:
        await run(["sleep", "600"], 0.05)
    assert caught.value.kind is Kind.TIMEOUT


async def test_a_program_killed_by_a_signal_is_told_as_that():
    with pytest.raises(ManorError, match="killed by SIGKILL"):
        await run(["sh", "-c", "kill -9 $$"], 10)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: runs a program as another user")
async def test_a_program_can_run_as_the_domains_user_without_groups():
    assert (await run(["id", "-u"], 10, uid=54321)).strip() == "54321"
    assert (await run(["id", "-G"], 10, uid=54321)).strip() == "65534"


async def test_memory_is_limited():
    limited = "while grep -q 'address space *unlimited' /proc/self/limits; do :; done; echo limited"
    assert await run(["sh", "-c", limited], 30) == "limited\n"
