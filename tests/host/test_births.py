"""Processes that are born elsewhere, for a service that may end before them."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from manor_host import births, processes


@pytest.fixture
def place(tmp_path):
    path = tmp_path / "births"
    serving = subprocess.Popen([sys.executable, "-m", "manor_host.births", str(path)])
    end = time.monotonic() + 20
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.02)
    yield path, serving
    serving.terminate()
    assert serving.wait(20) == 0


async def born(path, argv, descriptors=(), variables=None):
    out = os.open(os.devnull, os.O_WRONLY)
    try:
        return await births.ask(path, argv, output=out, descriptors=descriptors, variables=variables or {})
    finally:
        os.close(out)


async def ended(watched):
    async with asyncio.timeout(20):
        await watched.ended.wait()
    return watched.status


async def test_it_is_a_child_of_its_birthplace_with_a_session_and_an_environment_of_its_own(place):
    path, serving = place
    watched = await born(path, ["sleep", "100"], variables={"MANOR_STATE_ID": "a"})
    pid = watched.identity.pid
    assert watched.identity == processes.Identity.of(pid)
    assert os.getsid(pid) == pid != os.getsid(serving.pid)
    assert processes.environment(pid) == {
        "PATH": processes.PATH,
        "LANG": "C.UTF-8",
        "MANOR_STATE_ID": "a",
    }
    watched.kill()
    assert await ended(watched) == -signal.SIGKILL


async def test_its_exit_status_is_told(place):
    assert await ended(await born(place[0], ["sh", "-c", "exit 33"])) == 33


async def test_descriptors_have_the_numbers_that_its_arguments_name(place):
    pipes = [os.pipe() for _ in range(3)]
    script = "; ".join(f"echo {number} > /dev/fd/{write}" for number, (_, write) in enumerate(pipes))
    assert await ended(await born(place[0], ["sh", "-c", script], [write for _, write in pipes])) == 0
    for number, (read, write) in enumerate(pipes):
        os.close(write)
        with os.fdopen(read) as file:
            assert file.read() == f"{number}\n"


async def test_it_goes_on_when_whoever_asked_is_gone(place):
    watched = await born(place[0], ["sleep", "100"])
    identity = watched.identity
    watched.release()
    assert await ended(await born(place[0], ["true"])) == 0
    assert identity.lives()


async def test_the_end_of_the_birthplace_asks_all_to_end(place):
    path, serving = place
    watched = await born(path, ["sh", "-c", "trap 'exit 7' TERM; echo; while :; do sleep 0.1; done"])
    await asyncio.sleep(0.3)
    serving.terminate()
    assert await ended(watched) == 7
    assert serving.wait(20) == 0


async def test_who_gives_up_before_the_answer_leaves_no_process(place):
    path, serving = place
    read, write = os.pipe()
    os.kill(serving.pid, signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await born(path, ["sleep", "100"], [write])
    os.close(write)
    os.kill(serving.pid, signal.SIGCONT)
    assert await ended(await born(path, ["true"])) == 0  # it has come to the one before, too
    async with asyncio.timeout(10):
        assert await asyncio.to_thread(os.read, read, 1) == b"", "nobody has the other end any more"
    os.close(read)


async def test_who_connects_and_says_nothing_holds_nobody_up(place):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.connect(str(place[0]))
        async with asyncio.timeout(births.ANSWER_S / 2):
            assert await ended(await born(place[0], ["true"])) == 0


async def test_what_cannot_be_started_is_told(place):
    with pytest.raises(OSError, match="No such file"):
        await born(place[0], ["/no/such/program"])


async def test_a_place_that_is_not_there_is_told(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        await born(tmp_path / "births", ["true"])


async def test_who_has_other_process_ids_is_refused(place):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.connect(str(place[0]))
        wish = {"argv": ["true"], "numbers": [], "variables": {}, "namespace": "pid:[1]"}
        socket.send_fds(other, [json.dumps(wish).encode()], [2])
        assert "share them" in json.loads(other.recv(1000))["error"]
