import asyncio
import os
import shutil
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from manor_bus.wire.errors import ManorError
from manor_cli.runner import control, logs, present, supervise
from manor_cli.runner.supervise import Supervisor
from manor_cli.settings import Settings, lock_of
from manor_host import locks
from manor_host.processes import Identity
from tests.cli import programs

GREET = "import os, time\nprint('hello from', os.getpid(), flush=True)\n" + programs.SLEEP


def program(text=programs.SLEEP):
    return (sys.executable, "-c", text)


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


def settings(folder):
    return Settings.from_environment(str(folder), {"PATH": os.environ["PATH"], "MANOR_HYPERVISOR": "fake"})


async def printed(folder, words):
    """Wait until a child has printed something into its log."""
    lines = logs.follow(folder / "log" / "config.log", poll_s=0.01)
    while words not in (folder / "log" / "config.log").read_text():
        await asyncio.to_thread(next, lines)


@asynccontextmanager
async def supervised(folder, found=None, **commands):
    supervise.prepare(settings(folder))
    reports = asyncio.Queue()
    supervisor = Supervisor(settings(folder), commands, reports.put_nowait)
    task = asyncio.ensure_future(supervisor.serve(found or {}))
    async with asyncio.timeout(60):
        try:
            yield Watched(supervisor, reports)
        finally:
            supervisor.stopping.set()
            await task


async def ask(folder, do, **more):
    await until((folder / "run" / "supervisor.sock").is_socket)
    return await asyncio.to_thread(control.ask, folder / "run", do, 30.0, **more)


def lives(pid):
    return Identity.of(pid) is not None


async def test_a_killed_service_is_started_again(tmp_path):
    async with supervised(tmp_path, config=program()) as it:
        await it.until("config started")
        first = it.pid("config")
        os.kill(first, signal.SIGKILL)
        assert "SIGKILL" in await it.until("config ended")
        await it.until("config started")
        await until(lambda: it.pid("config") not in (0, first))
        assert it.supervisor.status()["services"][0]["restarts"] == 1
        second = it.pid("config")
    assert not lives(second)


async def until(condition):
    async with asyncio.timeout(30):
        for _ in iter(condition, True):
            await asyncio.sleep(0.01)


async def test_one_that_cannot_be_started_is_told_and_tried_again(tmp_path):
    async with supervised(tmp_path, config=("/nowhere/python",)) as it:
        assert "cannot be started" in await it.until("config ended")
        await it.until("config ended")


async def test_nothing_is_left_running_and_the_broker_goes_last(tmp_path):
    async with supervised(tmp_path, bus=program(), config=program(), devices=program()) as it:
        for name in ("bus", "config", "devices"):
            await it.until(f"{name} started")
        pids = [it.pid(name) for name in ("bus", "config", "devices")]
    ends = []
    while not it.reports.empty():
        ends.append(it.reports.get_nowait().split()[0])
    assert ends[-1] == "bus"
    assert set(ends[:-1]) == {"config", "devices"}
    assert not any(map(lives, pids))
    assert list((tmp_path / "run").iterdir()) == []


async def test_a_deaf_service_is_killed_when_its_grace_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr(supervise, "GRACE_S", 0.05)
    async with supervised(tmp_path, config=program(programs.DEAF)) as it:
        await it.until("config started")
        await printed(tmp_path, "deaf")
        pid = it.pid("config")
    assert not lives(pid)


async def test_what_a_service_prints_is_in_its_log(tmp_path):
    async with supervised(tmp_path, config=program(GREET)) as it:
        await it.until("config started")
        await printed(tmp_path, "hello from")
        assert f"hello from {it.pid('config')}" in (tmp_path / "log" / "config.log").read_text()


async def test_a_running_service_is_taken_over_from_a_dead_supervisor(tmp_path):
    orphan = programs.start("-c", programs.SLEEP, env=programs.environment(tmp_path))
    try:
        found = {"config": Identity.of(orphan.pid)}
        async with supervised(tmp_path, found, config=program()) as it:
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
    async with supervised(tmp_path, config=program()) as it:
        await it.until("config started")
        first = it.pid("config")
        assert await ask(tmp_path, "restart", service="config") == {}
        await it.until("config started")
        assert it.pid("config") != first


async def test_a_second_instance_takes_the_place_of_the_first(tmp_path):
    async with supervised(tmp_path, config=programs.serving(tmp_path, "config")) as it:
        await it.until("config started")
        first = it.pid("config")
        told = await ask(tmp_path, "replace", service="config")
        assert not lives(first)
        assert it.pid("config") == told["pid"]
        assert len(it.supervisor.status()["services"]) == 1
        await until(lambda: [one.pid for one in present.services(tmp_path)["config"]] == [told["pid"]])


async def test_a_second_instance_that_does_not_come_up_changes_nothing(tmp_path):
    once = f"import os; os.mkdir({str(tmp_path / 'once')!r})\n{programs.SLEEP}"
    async with supervised(tmp_path, config=program(once)) as it:
        await it.until("config started")
        first = it.pid("config")
        await until((tmp_path / "once").exists)
        with pytest.raises(ManorError, match="did not come up"):
            await ask(tmp_path, "replace", service="config")
        assert [one["pid"] for one in it.supervisor.status()["services"]] == [first]


async def test_wishes_that_make_no_sense_are_refused(tmp_path):
    async with supervised(tmp_path, config=program()) as it:
        await it.until("config started")
        for wish in ({"do": "restart", "service": "x"}, {"do": "dance", "service": "config"}, {}):
            assert "error" in await it.supervisor.wish(wish)


async def test_garbage_on_the_socket_disturbs_nobody(tmp_path):
    async with supervised(tmp_path, config=program()) as it:
        await it.until("config started")
        await ask(tmp_path, "status")
        for garbage in (b"\xff\xfe\n", b"[]\n", b"{" * 100_000 + b"\n", b""):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "run" / "supervisor.sock")
            writer.write(garbage)
            writer.write_eof()
            assert b"error" in await reader.read()
            writer.close()
        assert (await ask(tmp_path, "status"))["services"][0]["name"] == "config"


async def test_a_folder_of_sockets_that_was_cleaned_away_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(supervise, "LOOK_S", 0.01)
    async with supervised(tmp_path, config=program()) as it:
        await it.until("config started")
        await ask(tmp_path, "status")
        shutil.rmtree(tmp_path / "run")
        assert (await ask(tmp_path, "status"))["services"][0]["pid"] == it.pid("config")
        assert (tmp_path / "run" / "supervisor.sock").stat().st_mode & 0o077 == 0


async def test_a_state_directory_has_one_supervisor(tmp_path):
    begun = asyncio.Event()
    first = asyncio.ensure_future(
        supervise.supervise(settings(tmp_path), lambda _: begun.set(), {"config": program()})
    )
    await begun.wait()
    shutil.rmtree(tmp_path / "run")  # the lock does not lie there
    assert present.supervisor(tmp_path).pid == os.getpid()
    with pytest.raises(ManorError, match="supervised already"):
        await supervise.supervise(settings(tmp_path), print)
    os.kill(os.getpid(), signal.SIGTERM)
    await first
    assert present.supervisor(tmp_path) is None


async def test_a_lock_that_was_cleaned_away_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(supervise, "LOOK_S", 0.01)
    begun = asyncio.Event()
    first = asyncio.ensure_future(
        supervise.supervise(settings(tmp_path), lambda _: begun.set(), {"config": program()})
    )
    await begun.wait()
    lock_of(tmp_path).unlink()
    await until(lambda: present.supervisor(tmp_path) is not None)
    with pytest.raises(ManorError, match="supervised already"):
        await supervise.supervise(settings(tmp_path), print)
    lock_of(tmp_path).unlink()
    other = locks.take(lock_of(tmp_path))  # another one came before it looked
    await asyncio.wait_for(first, 30)
    os.close(other)


def test_services_are_adopted_and_further_ones_and_those_told_otherwise_are_ended(tmp_path):
    same = {**programs.environment(tmp_path), "MANOR_HYPERVISOR": "fake"}
    config, devices = (programs.serving(tmp_path, name)[1:] for name in ("config", "devices"))
    children = [
        programs.start(*config, env=same),
        programs.start(*config, env=same),
        programs.start(*devices, env={**same, "MANOR_HYPERVISOR": "qemu"}),
    ]
    try:
        while len([one for found in present.services(tmp_path).values() for one in found]) < 3:
            assert all(child.poll() is None for child in children)
        adopted = supervise.adopt(settings(tmp_path))
        assert set(adopted) == {"config"}
        left = [child.pid for child in children if child.poll() is None]
        assert left == [adopted["config"].pid]
    finally:
        for child in children:
            child.kill()
            child.wait()
            child.stdout.close()


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

    async with supervised(tmp_path, config=program()) as watched:
        await watched.until("config started")
        monkeypatch.setattr(Path, "write_text", full)
        monkeypatch.setattr(logs, "opened", full)
        monkeypatch.setattr(logs, "rotate", full)
        for _ in range(2):
            await until(lambda: watched.pid("config") != 0)
            before = watched.pid("config")
            os.kill(before, signal.SIGKILL)
            await watched.until("config ended")
            await watched.until("config started")
            await until(lambda before=before: watched.pid("config") not in (0, before))


async def test_who_reads_no_more_keeps_no_service_from_being_started_again(tmp_path):
    async with supervised(tmp_path, config=program()) as watched:
        await watched.until("config started")

        def closed(line):
            raise BrokenPipeError(32, "Broken pipe")

        before, watched.supervisor._report = watched.pid("config"), closed
        os.kill(before, signal.SIGKILL)
        await until(lambda: watched.pid("config") not in (0, before))


@pytest.mark.parametrize("taken", ["SIG_DFL", "SIG_IGN"])
def test_the_end_of_the_terminal_ends_a_foreground_node_as_ctrl_c_does_unless_it_was_told_to_stay(
    tmp_path, taken
):
    script = (
        "import asyncio, signal, sys\nfrom manor_cli.runner import supervise\n"
        "from manor_cli.settings import Settings\n"
        f"signal.signal(signal.SIGHUP, signal.{taken})\n"  # whatever our own caller has told us
        "config = {'config': (sys.executable, '-c', sys.argv[1])}\n"
        "asyncio.run(supervise.supervise(Settings.from_environment(), print, config))\n"
    )
    node = subprocess.Popen(
        [sys.executable, "-u", "-c", script, programs.SLEEP], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "MANOR_DIR": str(tmp_path)},
    )  # fmt: skip
    with node:
        try:
            started = node.stdout.readline()
            service = int(started.rpartition("pid ")[2].rstrip(")\n"))
            node.send_signal(signal.SIGHUP)
            if taken == "SIG_IGN":
                with pytest.raises(subprocess.TimeoutExpired):
                    node.wait(0.5)
                node.send_signal(signal.SIGINT)
            assert node.wait(30) == 0
            assert not lives(service)
        finally:
            node.kill()


def test_what_lies_in_the_callers_folder_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "queue.py").write_text("raise SystemExit('code of any local user')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    environment = present.outside(os.environ)
    assert {name for name in environment if name.startswith("PYTHON")} <= {"PYTHONPATH"}
    says = "import queue, os, sys; print(queue.__file__, sys.flags.optimize)"
    command = [*present.daemon("x")[:2], "-c", says]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert not done.stdout.startswith(str(tmp_path))
    assert done.stdout.endswith(" 0\n")
