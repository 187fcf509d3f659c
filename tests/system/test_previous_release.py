"""Each part as it was in the last release works with all the others as they are now."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import pytest

from tests.contract.place import OURS, Place, place
from tests.testkit.release import build, previous

pytestmark = pytest.mark.system

PARTS = ("bus", *OURS, "cli")
MANOR = "import sys; from manor_cli.main import program; sys.argv[0] = 'manor'; program()"
COMMAND_S = 60.0


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the last release is."""
    try:
        commit = previous()
    except (OSError, CalledProcessError):
        pytest.skip("this is no clone with the commit before this one")
    return build(commit, tmp_path_factory.mktemp("release"))


@pytest.fixture(params=PARTS)
async def mixed(request: pytest.FixtureRequest, old: Path) -> AsyncIterator[tuple[Place, dict[str, str]]]:
    """A node of which one part is old, and the environment of its command line."""
    told = {part: {"PYTHONPATH": str(old)} if part == request.param else {} for part in PARTS}
    async with place(broker=told["bus"]) as bus:
        for name in ("config", "devices", "discovery", "lifecycle"):
            await bus.serve(name, told=told[name])
        yield bus, {**bus.environment, **told["cli"], "NO_COLOR": "1"}


async def manor(environment: dict[str, str], *arguments: str, stdin: str = "") -> str:
    """Run one command; it must succeed."""
    ran = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MANOR, *arguments, env=environment, stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd="/",
    )  # fmt: skip
    out, err = await asyncio.wait_for(ran.communicate(stdin.encode()), COMMAND_S)
    assert ran.returncode == 0, (arguments, out.decode(), err.decode())
    return out.decode()


async def rows(environment: dict[str, str], *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(await manor(environment, *arguments, "-o", "json"))
    return found


async def test_a_part_of_the_last_release_works_among_the_present_ones(
    mixed: tuple[Place, dict[str, str]],
) -> None:
    _, shell = mixed
    document = json.dumps({"kind": "Domain", "metadata": {"name": "web"}, "spec": {}})
    await manor(shell, "apply", "-f", "-", stdin=document)
    await manor(shell, "start", "web")
    (row,) = await rows(shell, "list")
    assert (row["name"], row["state"]) == ("web", "RUNNING")
    assert {one["name"] for one in await rows(shell, "list", "nodes")} == {"n1"}
    await manor(shell, "pause", "web")
    await manor(shell, "resume", "web")
    await manor(shell, "destroy", "web")
    await manor(shell, "describe", "domain", "web")
    assert await rows(shell, "ops", "list")


async def test_the_old_part_really_is_the_old_one(old: Path) -> None:
    told = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import manor_bus; print(manor_bus.__file__)", cwd="/",
        env={"PYTHONPATH": str(old)}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert (await told.communicate())[0].decode().startswith(str(old))
