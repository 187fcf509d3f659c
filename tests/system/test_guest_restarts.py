"""A real guest lives on while every part of Manor is killed and replaced around it; it says so itself."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from manor_bus.peer.events import Change
from manor_bus.wire.messages.lifecycle import (
    ENDED,
    DomainDestroy,
    DomainRestore,
    DomainSave,
    DomainStart,
    Operation,
    OperationFollow,
)
from tests.system.nodes import Node, node

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("bus", "config", "discovery", "lifecycle", "devices")
PROMPT = "guest# "
DOCUMENTS = """\
kind: Volume
metadata: {{name: scratch}}
spec: {{size_mib: 32, format: qcow2}}
---
kind: Domain
metadata: {{name: web}}
spec:
  memory: {{size_mib: 256}}
  boot: {{kernel: {kernel}, initrd: {initrd}, cmdline: console=ttyS0 quiet}}
  disks: [{{id: disk0, volume: scratch, format: qcow2}}]
"""

pytestmark = [pytest.mark.system, pytest.mark.qemu]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that the domain's own user can pass through; pytest's are closed to others."""
    made = Path(tempfile.mkdtemp(prefix="manor-"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Node]:
    build = [sys.executable, str(ROOT / "deploy" / "guest" / "build.py")]
    built = subprocess.run(build, capture_output=True, text=True, check=True, timeout=600)
    image = dict(line.split(" ", 1) for line in built.stdout.splitlines())
    with node(folder, "--hypervisor", "qemu") as made:
        documents = folder / "web.yaml"
        documents.write_text(DOCUMENTS.format(**image))
        made.manor("apply", "-f", str(documents))
        made.manor("start", "web")
        made.manor("--timeout", "100", "console", "web", "--watch", "--until", "MANOR-GUEST-READY")
        yield made


def typed(running: Node, line: str) -> str:
    """Type a line at the guest's console and return what it answered."""
    console = ("--timeout", "60", "console", "web", "--no-scrollback", "--until", PROMPT)
    return running.manor(*console, stdin=line + "\n").stdout


def uptime(running: Node) -> float:
    """Ask the guest how long it has been up, in seconds."""
    answer = typed(running, "cat /proc/uptime")
    found = re.search(r"^([0-9.]+) [0-9.]+\s*$", answer, re.MULTILINE)
    assert found, answer
    return float(found[1])


def emulators(running: Node) -> list[str]:
    """Return the processes of the node's guests."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it ended
        if b"qemu-system" in line and str(running.directory).encode() in line:
            found.append(folder.name)
    return found


def test_a_guest_outlives_the_killing_of_every_part(running: Node) -> None:
    assert "DISK-WRITTEN" in typed(running, "disk write /dev/vda 4")
    before, pids = uptime(running), emulators(running)
    assert len(pids) == 1
    for part in PARTS:
        running.wait_replaced(part, running.kill(part))
        now = uptime(running)
        assert now > before, f"the guest was restarted when {part} was killed"
        before = now
    for part in PARTS[1:]:
        running.manor("service", "replace", part)
        now = uptime(running)
        assert now > before, f"the guest was restarted when {part} was replaced"
        before = now
    assert emulators(running) == pids
    assert "DISK-VERIFIED" in typed(running, "disk verify /dev/vda 4")
    row = running.json("list")[0]
    assert (row["state"], row["incarnation"]) == ("RUNNING", 1)


def test_a_save_continues_where_it_was(running: Node) -> None:
    before = uptime(running)
    running.manor("save", "web")
    assert running.json("list")[0]["state"] == "SUSPENDED"
    assert emulators(running) == []
    running.manor("restore", "web")
    assert uptime(running) >= before
    assert "DISK-VERIFIED" in typed(running, "disk verify /dev/vda 4")


def test_a_killed_guest_is_noticed_and_told(running: Node) -> None:
    (pid,) = emulators(running)
    os.kill(int(pid), signal.SIGKILL)
    with running.client() as client:
        for change in client.watch("domain.*", timeout=30):
            if isinstance(change, Change) and change.value.state == "DEFINED":
                assert "killed" in change.value.reason
                return
    raise AssertionError("nobody noticed")


STORY = (
    (DomainStart, "RUNNING"),
    (DomainSave, "SUSPENDED"),
    (DomainRestore, "RUNNING"),
    (DomainDestroy, "DEFINED"),
)


@pytest.mark.parametrize("step", [1, 3])
def test_an_operation_whose_service_is_killed_ends_and_leaves_what_its_state_says(
    running: Node, step: int
) -> None:
    for verb, goal in STORY:
        pid = running.pid("lifecycle")
        with running.client() as client:
            begun = client.call(verb(name="web"), Operation, timeout=30)
            seen: list[str] = []

            def part(now: Operation, pid: int = pid, seen: list[str] = seen) -> None:
                seen.append(now.step)
                if len(set(seen)) == step:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

            ended = client.call(OperationFollow(id=begun.id), Operation, timeout=120, on_part=part)
        assert ended.state in ENDED
        assert ended.state == "done", ended
        row = next(row for row in running.json("list") if row["name"] == "web")
        assert row["state"] == goal
        assert len(emulators(running)) == (goal == "RUNNING")


def test_down_can_leave_the_guests_and_up_takes_them_again(running: Node) -> None:
    running.manor("start", "web")
    running.manor("--timeout", "100", "console", "web", "--watch", "--until", "MANOR-GUEST-READY")
    before, pids = uptime(running), emulators(running)
    running.manor("down", "--keep-domains")
    assert emulators(running) == pids
    running.manor("up", "--detach", "--hypervisor", "qemu")
    assert uptime(running) > before
    running.manor("down")
    assert emulators(running) == []
