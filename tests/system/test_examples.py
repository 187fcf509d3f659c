"""The two third-party subscribers of examples/, run against a real broker and a real owner of state."""

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from manor_bus import keys
from manor_bus.peer import serving as service
from manor_bus.settings import BusSettings
from manor_bus.wire.messages.lifecycle import NodeStatus

pytestmark = pytest.mark.system
EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE_S = 30


@pytest.fixture
def directory():
    """A state directory with keys; short, because a unix socket's path is at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="manor") as name:
        keys.create(Path(name) / "keys")
        yield Path(name)


@contextlib.asynccontextmanager
async def process(*command, **options):
    """Run a program until the end of the block."""
    started = await asyncio.create_subprocess_exec(*map(str, command), **options)
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


def broker(directory):
    environment = {**os.environ, "MANOR_DIR": str(directory), "MANOR_NODE": "n1"}
    return process(sys.executable, "-m", "manor_bus", env=environment)


@contextlib.asynccontextmanager
async def owner(directory, values):
    """Lifecycle's place on the bus, with these objects."""
    settings = BusSettings.from_environment("service/lifecycle", {"MANOR_DIR": str(directory)})
    peer = service.connect(settings)
    try:
        for subject, cpus in values.items():
            peer.state.put(subject, fact(subject, cpus))
        await peer.ready(timeout=PATIENCE_S)
        peer.serve({}, ("domain.*", "node.*"))
        yield peer
    finally:
        await peer.close()


def fact(subject, cpus):
    return NodeStatus(name=subject.partition(".")[2], cpus=cpus)


def cpus_of(value):
    return None if value is None else value.get("cpus", 0)


class Screen:
    """What a watcher has printed so far, as the view it shows."""

    def __init__(self, watcher):
        self._watcher = watcher
        self.view = {}
        self.lines = 0

    async def until(self, wanted):
        """Read lines until the view is as wanted."""
        async with asyncio.timeout(PATIENCE_S):
            while self.view != wanted:
                line = await self._watcher.stdout.readline()
                assert line, "the watcher ended"
                change = json.loads(line)
                self.lines += 1
                self.view[change["subject"]] = cpus_of(change["value"])
                if change["value"] is None:
                    del self.view[change["subject"]]


def python_watcher(directory):
    return process(sys.executable, EXAMPLES / "watch.py", directory, "node.*", stdout=asyncio.subprocess.PIPE)


def node_watcher(directory):
    if shutil.which("node") is None or not (EXAMPLES / "node_modules").is_dir():
        pytest.skip("Node.js or its packages are missing: run deploy/setup test")
    return process("node", EXAMPLES / "watch.js", directory, "node.*", stdout=asyncio.subprocess.PIPE)


@pytest.fixture(params=[python_watcher, node_watcher], ids=["python", "node"])
def watcher(request):
    return request.param


async def test_a_stranger_sees_the_snapshot_and_then_every_change(directory, watcher):
    async with (
        broker(directory),
        owner(directory, {"node.a": 1, "node.b": 2}) as peer,
        watcher(directory) as program,
    ):
        screen = Screen(program)
        await screen.until({"node.a": 1, "node.b": 2})
        peer.state.put("node.c", fact("node.c", 3))
        peer.state.put("node.a", fact("node.a", 10))
        peer.state.drop("node.b")
        await screen.until({"node.a": 10, "node.c": 3})
        assert screen.lines == 5


async def test_a_stranger_gives_credit_and_so_sees_more_than_its_window(directory, watcher):
    async with broker(directory), owner(directory, {"node.a": 0}) as peer, watcher(directory) as program:
        screen = Screen(program)
        await screen.until({"node.a": 0})
        for round_ in range(1, 11):
            for number in range(200):
                peer.state.put(f"node.{number}", fact(f"node.{number}", round_))
            await screen.until({"node.a": 0, **{f"node.{number}": round_ for number in range(200)}})


async def test_a_stranger_falls_behind_and_still_ends_with_the_newest_values(directory, watcher):
    async with broker(directory), owner(directory, {"node.a": 0}) as peer, watcher(directory) as program:
        screen = Screen(program)
        await screen.until({"node.a": 0})
        for round_ in range(1, 21):
            for number in range(500):
                peer.state.put(f"node.{number}", fact(f"node.{number}", round_))
        await screen.until({"node.a": 0, **{f"node.{number}": 20 for number in range(500)}})


async def test_a_stranger_outlives_the_broker(directory, watcher):
    async with owner_of_restarts(directory) as (restart, peer), watcher(directory) as program:
        screen = Screen(program)
        await screen.until({"node.a": 1})
        await restart()
        peer.state.put("node.a", fact("node.a", 2))
        peer.state.put("node.b", fact("node.b", 3))
        await screen.until({"node.a": 2, "node.b": 3})


@contextlib.asynccontextmanager
async def owner_of_restarts(directory):
    """An owner, and a function that kills the broker and starts another one."""
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(broker(directory))
        peer = await stack.enter_async_context(owner(directory, {"node.a": 1}))

        async def restart():
            first.kill()
            await first.wait()
            await stack.enter_async_context(broker(directory))

        yield restart, peer


async def test_a_stranger_follows_a_new_owner_and_forgets_what_it_does_not_have(directory, watcher):
    async with broker(directory), watcher(directory) as program:
        screen = Screen(program)
        async with owner(directory, {"node.a": 1, "node.b": 1}):
            await screen.until({"node.a": 1, "node.b": 1})
        async with owner(directory, {"node.b": 2}):
            await screen.until({"node.b": 2})


async def test_a_stranger_with_a_key_nobody_knows_gets_no_word(directory):
    stranger = keys.generate()
    file = directory / "stranger.key"
    file.write_text(json.dumps({"public": stranger.public, "secret": stranger.secret}))
    command = (sys.executable, EXAMPLES / "watch.py", directory, "node.*", file)
    async with (
        broker(directory),
        owner(directory, {"node.a": 1}),
        process(*command, stdout=asyncio.subprocess.PIPE) as program,
        python_watcher(directory) as known,
    ):
        await Screen(known).until({"node.a": 1})
        program.kill()
        assert await program.stdout.read() == b""
