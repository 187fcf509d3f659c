from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from manor_host import processes
from manor_host.processes import Identity


def known(pid):
    found = Identity.of(pid)
    assert found is not None
    return found


@pytest.fixture
def child():
    made = subprocess.Popen(["sleep", "60"])
    yield made
    made.kill()
    made.wait()


def test_a_process_is_itself_until_it_ends(child):
    process = known(child.pid)
    assert process.lives()
    child.kill()
    assert processes.left([process], 10) == []
    assert not process.lives()  # its remains are there until somebody waits for it
    child.wait()
    assert Identity.of(child.pid) is None


@pytest.mark.parametrize("other", [{"ticks": 1}, {"boot": "another boot"}, {"ticks": 0}])
def test_who_has_the_number_now_is_not_who_had_it_then(child, other):
    stranger = replace(known(child.pid), **other)
    assert not stranger.lives()
    assert not processes.tell(stranger, signal.SIGKILL)
    assert processes.end([stranger], 5) == []
    assert child.poll() is None


def test_what_does_not_end_when_asked_is_killed():
    script = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); signal.pause()"
    )
    stubborn = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    stubborn.stdout.readline()
    try:
        process = known(stubborn.pid)
        assert processes.left([process], 0) == [process]
        assert processes.end([process], 0.1) == []
        assert stubborn.wait() == -signal.SIGKILL
    finally:
        stubborn.stdout.close()
        stubborn.kill()


async def test_nothing_of_our_surroundings_reaches_what_we_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    script = "import os; print(os.getcwd(), sorted(os.environ), oct(os.umask(0)), os.getsid(0) - os.getpid())"
    with (tmp_path / "said").open("wb") as output:
        process = processes.launch(
            [sys.executable, "-I", "-c", script], output=output.fileno(), variables={"MANOR_STATE_ID": "x"}
        )
        async with asyncio.timeout(30):
            await process.ended.wait()
    assert process.status == 0
    assert (tmp_path / "said").read_text() == "/ ['LANG', 'MANOR_STATE_ID', 'PATH'] 0o77 0\n"


async def test_a_process_that_was_found_again_is_watched_to_its_end(child):
    assert processes.adopt(replace(known(child.pid), ticks=1)) is None
    found = processes.adopt(known(child.pid))
    found.kill(signal.SIGTERM)
    async with asyncio.timeout(30):
        await found.ended.wait()
    assert child.wait() == -signal.SIGTERM or found.status == -signal.SIGTERM


def test_a_process_tells_its_words_its_surroundings_and_its_files(tmp_path):
    with (tmp_path / "open").open("w") as file:
        ours = os.getpid()
        assert str(tmp_path / "open") in processes.open_files(ours)
        assert file
    assert processes.find(processes.command_line(ours)) != 0
    assert processes.environment(ours)["PATH"]
    assert processes.up_for(processes.started_ticks(ours)) > 0
    nobody = 2**22 + 1
    assert processes.command_line(nobody) == ()
    assert processes.environment(nobody) == {}
    assert processes.open_files(nobody) == []
