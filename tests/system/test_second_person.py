"""A second person on root's node: what `manor credential add` prints is typed, as another unix user."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.system.nodes import node
from tests.system.test_bus_process import free_endpoint
from tests.system.users import BIN, as_user, needs_root

ALICE = 61501
GROUP = 61500
pytestmark = [pytest.mark.system, needs_root]


def as_alice(script: str, *groups: int) -> subprocess.CompletedProcess[str]:
    """Run what she types, in a shell of hers."""
    return subprocess.run(
        [*as_user(ALICE, (ALICE, *groups)), "sh", "-c", script],
        env={"PATH": f"{BIN}:/usr/sbin:/usr/bin:/bin", "HOME": os.environ["TEST_HOME"], "NO_COLOR": "1"},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def place(monkeypatch):
    """Folders that another user may pass through, as those of pytest are not: root's node, and her home."""
    folder = Path(tempfile.mkdtemp(prefix="manor-two-"))
    folder.chmod(0o711)
    home = folder / "alice"
    home.mkdir(mode=0o700)
    os.chown(home, ALICE, ALICE)
    monkeypatch.setenv("TEST_HOME", str(home))
    yield folder
    shutil.rmtree(folder)


def typed_by_root(lines: list[str], home: Path) -> None:
    """Type what is for root. The test has no entry in the table of users, so names become what they mean."""
    for line in lines:
        if line.startswith("  install "):
            line = re.sub(r"-o alice", f"-o {ALICE}", line).replace("~alice", str(home))
            subprocess.run(["sh", "-euc", line], check=True)


def exported(lines: list[str], variable: str) -> str:
    (line,) = [line for line in lines if line.startswith(f"  export {variable}=")]
    return line


def test_a_second_person_gets_in_with_what_is_printed(place):
    with node(place / "n", "--hypervisor", "fake", MANOR_BUS_GROUP=str(GROUP)) as made:
        assert (place / "n/run/bus.sock").stat().st_gid == GROUP
        lines = made.manor("credential", "add", "operator/alice").stdout.splitlines()
        assert f"  usermod -aG {GROUP} alice" in lines
        typed_by_root(lines, place / "alice")
        export = exported(lines, "MANOR_DIR")
        listed = as_alice(f"{export}\nmanor list nodes -o name", GROUP)
        assert (listed.returncode, listed.stderr) == (0, "")
        assert as_alice(f"{export}\nmanor bus top -o json", GROUP).stdout.count("operator/alice") >= 1
        outside = as_alice(f"{export}\nmanor list nodes")  # a key without the group
        assert outside.returncode != 0
        assert "Traceback" not in outside.stderr
        other = as_alice(
            f"{export} MANOR_PRINCIPAL=operator/admin MANOR_KEYS={place}/n/keys\nmanor list", GROUP
        )
        assert other.returncode != 0  # the group without a key
        assert as_alice(f"cat {place}/n/keys/service-config.key", GROUP).returncode != 0
        made.manor("credential", "revoke", "operator/alice")
        assert as_alice(f"{export}\nmanor list nodes", GROUP).returncode != 0


def test_a_second_person_gets_in_over_tcp(place):
    address = free_endpoint()
    with node(place / "n", "--hypervisor", "fake", MANOR_BUS_TCP=address) as made:
        lines = made.manor("credential", "add", "operator/alice").stdout.splitlines()
        typed_by_root(lines, place / "alice")
        export = exported(lines, "MANOR_BUS")
        assert address in export
        assert as_alice(f"{export}\nmanor list nodes -o name").returncode == 0


def test_where_nobody_else_can_get_in_that_is_said(place):
    with node(place / "n", "--hypervisor", "fake") as made:
        told = made.manor("credential", "add", "operator/alice").stdout
        assert "nobody else reaches this bus yet" in told
        assert "MANOR_BUS_GROUP=" in told
