import os
import shutil
import subprocess

import pytest

from manor_cli.runner import present
from manor_cli.settings import lock_of
from manor_host import locks
from tests.cli import programs


@pytest.fixture
def config(tmp_path):
    """A service of a state directory, by its lock."""
    home = tmp_path / "home"
    home.mkdir()
    process = programs.start(*programs.serving(home, "config")[1:], env=programs.environment(tmp_path))
    while not locks.held(lock_of(home, "config")):
        assert process.poll() is None
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def found(directory):
    return {name: [one.pid for one in ones] for name, ones in present.services(directory).items()}


def test_a_service_is_who_keeps_the_lock_of_its_folder(tmp_path, config):
    assert found(tmp_path / "home") == {"config": [config.pid]}
    assert found(tmp_path) == {}


def test_a_moved_directory_has_its_services_and_a_copy_has_none(tmp_path, config):
    shutil.copytree(tmp_path / "home", tmp_path / "copy")
    (tmp_path / "home").rename(tmp_path / "moved")
    assert found(tmp_path / "moved") == {"config": [config.pid]}
    assert found(tmp_path / "copy") == {}


def test_whoever_reads_or_names_the_files_of_a_service_is_none(tmp_path, config):
    with lock_of(tmp_path / "home", "config").open(), (tmp_path / "home" / "config" / "x").open("w"):
        assert os.getpid() not in found(tmp_path / "home")["config"]


def test_guests_are_the_qemu_programs_of_our_services_and_no_others(tmp_path):
    def wait_for_input(name, *arguments, output=None):
        command = [name, "-c", "read", *arguments]
        return programs.seen(
            subprocess.Popen(command, executable="/bin/bash", stdin=subprocess.PIPE, stdout=output)
        )

    for folder in ("lifecycle", "volumes", "devices"):
        (tmp_path / folder).mkdir()
    with (
        (tmp_path / "lifecycle" / "log").open("w") as log,
        (tmp_path / "devices" / "x.pid").open("w") as pid,
        (tmp_path / "volumes" / "x").open("w") as volume,
    ):
        ours = [
            wait_for_input("/usr/bin/qemu-system-x86_64", output=log),
            wait_for_input("qemu-storage-daemon", output=pid),
        ]
        others = [
            wait_for_input("/usr/bin/qemu-system-x86_64", "/srv/x"),
            wait_for_input("/usr/bin/qemu-system-x86_64", f"socket,path={tmp_path}/lifecycle/qmp.sock"),
            wait_for_input("/usr/bin/qemu-system-x86_64", f"file={tmp_path}/volumes/x", output=volume),
            wait_for_input("tail", f"{tmp_path}/log", output=log),
        ]
    try:
        assert sorted(one.pid for one in present.guests(tmp_path)) == sorted(one.pid for one in ours)
        assert present.guests(tmp_path.parent / "elsewhere") == []
    finally:
        for process in (*ours, *others):
            process.communicate()


def test_the_supervisor_is_who_holds_the_lock(tmp_path):
    assert present.supervisor(tmp_path) is None
    held = locks.take(lock_of(tmp_path))
    assert present.supervisor(tmp_path).pid == os.getpid()
    assert locks.take(lock_of(tmp_path)) == -1
    os.close(held)
    assert present.supervisor(tmp_path) is None
