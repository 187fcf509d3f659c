import contextlib
import os
import signal
import subprocess
import sys

import pytest

from manor_cli import processes
from tests.cli import programs


@pytest.fixture
def started():
    """Start processes that are ended with the test."""
    with contextlib.ExitStack() as stack:

        def start(*arguments, env):
            process = programs.start(*arguments, env=env)
            stack.callback(
                lambda: (process.kill(), process.wait(), process.stdout and process.stdout.close())
            )
            return process

        yield start


def test_a_service_is_known_by_its_module_and_its_state_directory(tmp_path, started):
    programs.module(tmp_path, "manor_config")
    mine = started("-m", "manor_config", env=programs.environment(tmp_path))
    started("-m", "manor_config", env=programs.environment(tmp_path, MANOR_DIR="/other"))
    found = processes.services(tmp_path)
    assert {name: [one.pid for one in ones] for name, ones in found.items()} == {"config": [mine.pid]}


def test_guests_are_the_qemu_programs_of_our_services_and_no_others(tmp_path):
    def wait_for_input(name, *arguments, output=None):
        command = [name, "-c", "read", *arguments]
        return programs.seen(
            subprocess.Popen(command, executable="/bin/bash", stdin=subprocess.PIPE, stdout=output)
        )

    for folder in ("lifecycle", "volumes"):
        (tmp_path / folder).mkdir()
    with (tmp_path / "lifecycle" / "log").open("w") as log, (tmp_path / "volumes" / "x").open("w") as volume:
        ours = [
            wait_for_input("/usr/bin/qemu-system-x86_64", f"socket,path={tmp_path}/lifecycle/qmp.sock"),
            wait_for_input("/usr/bin/qemu-storage-daemon", f"{tmp_path}/devices/nbd/nbd.sock"),
            wait_for_input("/usr/bin/qemu-system-x86_64", output=log),
            wait_for_input("qemu-storage-daemon", output=log),
        ]
        others = [
            wait_for_input("/usr/bin/qemu-system-x86_64", "/srv/x"),
            wait_for_input("/usr/bin/qemu-system-x86_64", f"/backup{tmp_path}/lifecycle/qmp.sock"),
            wait_for_input("/usr/bin/qemu-system-x86_64", f"file={tmp_path}/volumes/x", output=volume),
            wait_for_input("/usr/bin/qemu-img", f"{tmp_path}/x"),
            wait_for_input("tail", f"{tmp_path}/log", output=log),
        ]
    try:
        assert sorted(processes.guests(tmp_path)) == sorted(one.pid for one in ours)
        assert processes.guests(tmp_path.parent / "elsewhere") == []
    finally:
        for process in (*ours, *others):
            process.communicate()


def test_a_process_that_listens_ends_by_itself(tmp_path, started):
    process = started("-c", programs.SLEEP, env=programs.environment(tmp_path))
    assert processes.end([process.pid], grace=10.0) == []
    assert process.wait() == -signal.SIGTERM


def test_a_deaf_process_is_killed(tmp_path, started):
    process = started("-c", programs.DEAF, env=programs.environment(tmp_path))
    assert process.stdout.readline() == b"deaf\n"
    assert processes.end([process.pid], grace=0.0) == []
    assert process.wait() == -signal.SIGKILL


def test_waiting_tells_who_has_not_ended(tmp_path, started):
    process = started("-c", programs.SLEEP, env=programs.environment(tmp_path))
    assert processes.gone([process.pid], timeout=0.0) == [process.pid]


def test_a_process_that_is_gone_needs_nothing():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert not processes.tell(process.pid, signal.SIGTERM)
    assert processes.end([process.pid], grace=1.0) == []
    assert processes.look(process.pid) is None


def test_the_supervisor_is_who_holds_the_lock(tmp_path):
    import fcntl

    run = tmp_path / "run"  # which is cleaned away, and the lock does not go with it
    assert processes.supervisor(run) == 0
    with (tmp_path / "supervisor.lock").open("w") as lock:
        lock.write("4711\n")
        lock.flush()
        assert processes.supervisor(run) == 0
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert processes.supervisor(run) == 4711
    assert processes.supervisor(run) == 0


def test_open_files_of_a_process_are_seen(tmp_path):
    path = tmp_path / "lock"
    with path.open("w"):
        assert str(path) in processes.open_files(os.getpid())
    assert str(path) not in processes.open_files(os.getpid())
    assert processes.open_files(2**22 + 1) == []
