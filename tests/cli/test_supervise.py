import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from manor_bus.wire.errors import ManorError
from manor_cli import control, logs, processes, supervise
from manor_cli.settings import Settings
from manor_cli.supervise import Program, Supervisor
from tests.cli import programs

GREET = "import os, time\nprint('hello from', os.getpid(), flush=True)\n" + programs.SLEEP


def program(name, text=programs.SLEEP, wave=1):
    return Program(name, (sys.executable, "-c", text), {"PATH": os.environ["PATH"]}, wave=wave)


class Watched:
    """A supervisor, and its remarks as they are made."""

    def __init__(self, supervisor, reports):
        self.supervisor, self.reports = supervisor, reports
        self.told = []

    async def until(self, words):
        """Wait for a remark that contains these words."""
        while True:
            line = await self.reports.get()
            self.told.append(line)
            if words in line:
                return line

    def pid(self, name):
        return next(one["pid"] for one in self.supervisor.status()["services"] if one["name"] == name)


async def printed(folder, words):
    """Wait until a child has printed something into its log."""
    lines = logs.follow(folder / "log" / "config.log", poll_s=0.01)
    while words not in (folder / "log" / "config.log").read_text():
        await asyncio.to_thread(next, lines)


@asynccontextmanager
async def supervised(folder, *wanted, adopted=None):
    run, log = folder / "run", folder / "log"
    run.mkdir(exist_ok=True)
    log.mkdir(exist_ok=True)
    reports = asyncio.Queue()
    supervisor = Supervisor(wanted, run, log, reports.put_nowait)
    task = asyncio.ensure_future(supervisor.serve(adopted or {}))
    async with asyncio.timeout(60):
        try:
            yield Watched(supervisor, reports)
        finally:
            supervisor.stopping.set()
            await task


async def test_a_killed_child_is_started_again(tmp_path):
    async with supervised(tmp_path, program("config")) as it:
        await it.until("config started")
        first = it.pid("config")
        os.kill(first, signal.SIGKILL)
        assert "SIGKILL" in await it.until("config ended")
        await it.until("config started")
        assert it.pid("config") not in (0, first)
        assert it.supervisor.status()["services"][0]["restarts"] == 1
        second = it.pid("config")
    assert processes.look(second) is None


async def test_a_child_that_cannot_be_started_is_told_and_tried_again(tmp_path):
    missing = Program("config", ("/nowhere/python",), {})
    async with supervised(tmp_path, missing) as it:
        assert "cannot be started" in await it.until("config ended")
        await it.until("config ended")


async def test_nothing_is_left_running_and_no_files_of_it(tmp_path):
    async with supervised(tmp_path, program("bus", wave=0), program("config")) as it:
        await it.until("bus started")
        await it.until("config started")
        pids = [it.pid("bus"), it.pid("config")]
        assert int((tmp_path / "run" / "bus.pid").read_text()) == pids[0]
    assert [processes.look(pid) for pid in pids] == [None, None]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == []


async def test_the_broker_is_stopped_after_the_services(tmp_path):
    async with supervised(tmp_path, program("bus", wave=0), program("config"), program("devices")) as it:
        for name in ("bus", "config", "devices"):
            await it.until(f"{name} started")
    ends = []
    while not it.reports.empty():
        ends.append(it.reports.get_nowait().split()[0])
    assert ends[-1] == "bus"
    assert set(ends[:-1]) == {"config", "devices"}


async def test_a_deaf_child_is_killed_when_its_grace_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr(supervise, "GRACE_S", 0.05)
    async with supervised(tmp_path, program("config", programs.DEAF)) as it:
        await it.until("config started")
        await printed(tmp_path, "deaf")
        pid = it.pid("config")
    assert processes.look(pid) is None


async def test_what_a_child_prints_is_in_its_log(tmp_path):
    async with supervised(tmp_path, program("config", GREET)) as it:
        await it.until("config started")
        await printed(tmp_path, f"hello from {it.pid('config')}")


async def test_a_running_service_is_taken_over_from_a_dead_supervisor(tmp_path):
    orphan = programs.start("-c", programs.SLEEP, env=programs.environment(tmp_path))
    try:
        async with supervised(tmp_path, program("config"), adopted={"config": orphan.pid}) as it:
            await it.until("config runs already")
            assert it.pid("config") == orphan.pid
            orphan.kill()
            await it.until("config ended")
            await it.until("config started")
    finally:
        orphan.kill()
        orphan.wait()
        orphan.stdout.close()


async def test_a_service_is_restarted_on_request(tmp_path):
    async with supervised(tmp_path, program("config")) as it:
        await it.until("config started")
        first = it.pid("config")
        assert await ask(tmp_path, "restart", service="config") == {}
        await it.until("config started")
        assert it.pid("config") != first


async def test_a_second_instance_takes_the_place_of_a_released_first(tmp_path):
    async with supervised(tmp_path, program("config")) as it:
        await it.until("config started")
        started = await ask(tmp_path, "second", service="config")
        (first,) = started["before"]
        await ask(tmp_path, "release", service="config", pid=first)
        os.kill(first, signal.SIGTERM)
        await it.until("config ended")
        assert it.pid("config") == started["pid"]
        assert len(it.supervisor.status()["services"]) == 1
        assert int((tmp_path / "run" / "config.pid").read_text()) == started["pid"]
        assert it.reports.empty()


async def test_wishes_that_make_no_sense_are_refused(tmp_path):
    async with supervised(tmp_path, program("config")) as it:
        await it.until("config started")
        for wish in ({"do": "restart", "service": "x"}, {"do": "dance", "service": "config"},
                     {"do": "end", "service": "config", "pid": 1}):  # fmt: skip
            assert "error" in it.supervisor.wish(wish)


async def test_garbage_on_the_socket_disturbs_nobody(tmp_path):
    async with supervised(tmp_path, program("config")) as it:
        await it.until("config started")
        for garbage in (b"\xff\xfe\n", b"[]\n", b"{" * 100_000 + b"\n", b""):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "run" / "supervisor.sock")
            writer.write(garbage)
            writer.write_eof()
            assert b"error" in await reader.read()
            writer.close()
        assert (await ask(tmp_path, "status"))["services"][0]["name"] == "config"


async def test_the_wish_to_stop_stops_everything(tmp_path):
    async with supervised(tmp_path, program("config")) as it:
        await it.until("config started")
        await ask(tmp_path, "stop")
        await it.until("config ended")


async def ask(folder, do, **more):
    return await asyncio.to_thread(control.ask, folder / "run", do, **more)


async def test_what_there_is_stands_in_a_file_for_people(tmp_path):
    async with supervised(tmp_path, program("config")) as it:
        await it.until("config started")
        told = json.loads((tmp_path / "run" / "supervisor.json").read_text())
        assert told["pid"] == os.getpid()
        assert told["services"][0]["phase"] == "running"
        assert told["services"][0]["log"] == str(tmp_path / "log" / "config.log")


def settings(folder):
    return Settings.from_environment(str(folder), {"PATH": os.environ["PATH"], "MANOR_HYPERVISOR": "fake"})


async def test_a_state_directory_has_one_supervisor(tmp_path, monkeypatch):
    monkeypatch.setattr(supervise, "fleet", lambda _: (program("config"),))
    begun = asyncio.Event()
    first = asyncio.ensure_future(supervise.supervise(settings(tmp_path), lambda _: begun.set()))
    await begun.wait()
    assert processes.supervisor(tmp_path / "run") == os.getpid()
    with pytest.raises(ManorError, match="supervised already"):
        await supervise.supervise(settings(tmp_path), print)
    os.kill(os.getpid(), signal.SIGTERM)
    await first
    assert processes.supervisor(tmp_path / "run") == 0


def test_services_of_the_same_kind_are_adopted_and_others_ended(tmp_path):
    programs.module(tmp_path, "manor_config")
    programs.module(tmp_path, "manor_devices")
    same = programs.environment(tmp_path, MANOR_HYPERVISOR="fake")
    children = [
        programs.start("-m", "manor_config", env=same),
        programs.start("-m", "manor_config", env=same),
        programs.start("-m", "manor_devices", env={**same, "MANOR_HYPERVISOR": "qemu"}),
    ]
    try:
        while len([one for found in processes.services(tmp_path).values() for one in found]) < 3:
            assert all(child.poll() is None for child in children)
        adopted = supervise.adopt(settings(tmp_path))
        assert set(adopted) == {"config"}
        left = [child.pid for child in children if child.poll() is None]
        assert left == [adopted["config"]]
    finally:
        for child in children:
            child.kill()
            child.wait()
            child.stdout.close()


def test_the_fleet_is_the_broker_and_the_four_services(tmp_path):
    fleet = supervise.fleet(settings(tmp_path))
    assert [one.name for one in fleet] == ["bus", "config", "discovery", "lifecycle", "devices"]
    assert [one.name for one in fleet if one.wave == 0] == ["bus"]
    assert all(one.environment["MANOR_DIR"] == str(tmp_path) for one in fleet)


@pytest.mark.parametrize("before", [None, 0o700])
def test_nobody_else_looks_into_the_folders_and_guests_pass_through_to_theirs(tmp_path, before):
    if before is not None:
        (tmp_path / "state").mkdir(before)
    supervise.prepare(settings(tmp_path / "state"))
    modes = {folder: (tmp_path / "state" / folder).stat().st_mode & 0o777 for folder in (".", "run", "log")}
    assert modes == {".": 0o711, "run": 0o700, "log": 0o700}


async def test_a_full_disk_keeps_no_service_from_being_started_again(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    async with supervised(tmp_path, program("config")) as watched:
        await watched.until("config started")
        first = watched.pid("config")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", full)
            patch.setattr(logs, "opened", full)
            patch.setattr(logs, "rotate", full)
            for _ in range(2):
                before = watched.pid("config")
                os.kill(before, signal.SIGKILL)
                await watched.until("config ended")
                await watched.until("config started")
                assert watched.pid("config") != before
        os.kill(watched.pid("config"), signal.SIGKILL)
        await watched.until("config started")
        assert watched.pid("config") != first


async def test_who_reads_no_more_keeps_no_service_from_being_started_again(tmp_path):
    async with supervised(tmp_path, program("config")) as watched:
        await watched.until("config started")

        def closed(line):
            watched.told.append(line)
            raise BrokenPipeError(32, "Broken pipe")

        before, watched.supervisor._report = watched.pid("config"), closed
        os.kill(before, signal.SIGKILL)
        async with asyncio.timeout(30):
            for _ in iter(lambda: any("started" in line for line in watched.told[1:]), True):
                await asyncio.sleep(0.01)
        assert watched.pid("config") not in (0, before)


def test_the_end_of_the_terminal_ends_a_foreground_node_as_ctrl_c_does(tmp_path):
    script = (
        "import asyncio, sys; from manor_cli import supervise; from manor_cli.settings import Settings\n"
        "config = supervise.Program('config', (sys.executable, '-c', sys.argv[1]), {})\n"
        "supervise.fleet = lambda settings: (config,)\n"
        "asyncio.run(supervise.supervise(Settings.from_environment(), print))\n"
    )
    node = subprocess.Popen(
        [sys.executable, "-u", "-c", script, programs.SLEEP], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "MANOR_DIR": str(tmp_path)},
    )  # fmt: skip
    with node:
        started = node.stdout.readline()
        service = int(started.rpartition("pid ")[2].rstrip(")\n"))
        node.send_signal(signal.SIGHUP)
        assert node.wait(30) == 0
        assert processes.look(service) is None


def test_what_lies_in_the_callers_folder_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "queue.py").write_text("raise SystemExit('code of any local user')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    at = Settings.from_environment(str(tmp_path / "state"))
    for one in supervise.fleet(at):
        assert {name for name in one.environment if name.startswith("PYTHON")} <= {"PYTHONPATH"}
        command = [*one.command[:2], "-c", "import queue, os, sys; print(queue.__file__, sys.flags.optimize)"]
        done = subprocess.run(command, env=dict(one.environment), capture_output=True, text=True, check=True)
        assert not done.stdout.startswith(str(tmp_path))
        assert done.stdout.endswith(" 0\n")
