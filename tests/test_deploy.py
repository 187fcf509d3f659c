"""What brings Manor onto a machine: the set-up script and the systemd units."""

import configparser
import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UNITS = sorted((ROOT / "deploy" / "systemd").iterdir())
ROOMS = ("config", "discovery", "lifecycle", "devices")


def setup(folder, *arguments, **environment):
    return subprocess.run(
        ["bash", "deploy/setup", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def clone(tmp_path):
    """As much of a clone as the set-up looks at."""
    for part in ("deploy/setup", "requirements", "bus/pyproject.toml", "cli/pyproject.toml"):
        source, target = ROOT / part, tmp_path / part
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    return tmp_path


def edit(file, old, new):
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def test_set_up_that_is_done_already_does_nothing():
    stamps = {file: file.stat().st_mtime_ns for file in (ROOT / ".venv").glob("stamp-*")}
    if not stamps:
        pytest.skip("this environment was not made by deploy/setup")
    assert setup(ROOT, "check").stderr == ""
    assert {file: file.stat().st_mtime_ns for file in (ROOT / ".venv").glob("stamp-*")} == stamps


def test_set_up_without_a_known_target_says_how_it_is_used(clone):
    outcome = setup(clone, "everything")
    assert outcome.returncode == 1
    assert "deploy/setup run|check|test|bench" in outcome.stderr


def test_set_up_on_another_distribution_lists_what_is_missing(clone):
    edit(clone / "deploy/setup", "command -v apt-get", "command -v no-such-apt-get")
    edit(clone / "deploy/setup", "qemu-img ", "no-such-qemu-img ")
    outcome = setup(clone, "run")
    assert outcome.returncode == 1
    assert "qemu-utils" in outcome.stderr
    assert not (clone / ".venv").exists()


def test_set_up_without_rights_prints_one_command_for_all_targets(clone):
    """Who must ask somebody else asks once, whatever target they began with."""
    edit(clone / "deploy/setup", 'if [ "$(id -u)" != 0 ]', "if true")
    edit(clone / "deploy/setup", "sudo -n true", "false")
    edit(clone / "deploy/setup", "qemu-img ", "no-such-qemu-img ")
    edit(clone / "deploy/setup", "npm   ", "no-such-npm ")
    edit(clone / "deploy/setup", "nats-server   ", "no-such-nats-server ")
    outcome = setup(clone, "run", PYTHON="no-such-python")
    assert outcome.returncode == 1
    (line,) = (line for line in outcome.stderr.splitlines() if "apt-get install" in line)
    assert {"qemu-utils", "npm", "nats-server", "python3", "python3-venv"} <= set(line.split())
    assert "qemu-system-x86" not in line.split()


def test_a_file_that_a_distribution_moved_is_looked_for_in_every_place(clone):
    edit(clone / "deploy/setup", "/usr/lib/ipxe/qemu/efi-virtio.rom|", "/no/such/file|")
    edit(clone / "deploy/setup", "/usr/share/qemu/efi-virtio.rom ", f"{clone}/requirements/run.txt ")
    edit(clone / "deploy/setup", "command -v apt-get", "command -v no-such-apt-get")
    edit(clone / "deploy/setup", "qemu-img ", "no-such-qemu-img ")
    assert "ipxe-qemu" not in setup(clone, "run").stderr


def test_set_up_names_the_python_it_needs_when_there_is_none(clone):
    edit(clone / "deploy/setup", "command -v apt-get", "command -v no-such-apt-get")
    edit(clone / "deploy/setup", 'need_packages "$GUEST_PACKAGES"\n', "\n")
    outcome = setup(clone, "run", PYTHON="no-such-python")
    assert outcome.returncode == 1
    assert "python3-venv" in outcome.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_is_well_formed_and_starts_what_a_room_installs(unit):
    parsed = configparser.ConfigParser(interpolation=None, strict=False)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read_string(unit.read_text(encoding="utf-8"))
    assert {"Unit", "Install"} <= set(parsed.sections())
    if unit.name == "manor-guests.service":
        assert parsed["Service"]["ExecStop"] == "/opt/manor/bin/manor node shutdown-guests"
        assert {f"manor@{room}.service" for room in ROOMS} <= set(parsed["Unit"]["After"].split())
    elif unit.suffix == ".service":
        assert parsed["Unit"]["StartLimitIntervalSec"] == "0"  # no number of restarts ends them for good
        program = parsed["Service"]["ExecStart"].removeprefix("/opt/manor/bin/")
        scripts = {
            script
            for manifest in (*ROOT.glob("bus/pyproject.toml"), *ROOT.glob("services/*/pyproject.toml"))
            for script in tomllib.loads(manifest.read_text(encoding="utf-8"))["project"]["scripts"]
        }
        assert {program.replace("%i", room) for room in ROOMS} <= scripts


def test_the_target_wants_the_broker_and_every_service():
    wanted = (ROOT / "deploy/systemd/manor.target").read_text(encoding="utf-8")
    assert all(f"manor@{room}.service" in wanted for room in ROOMS)
    assert "manor-bus.service" in wanted


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed here")
def test_systemd_accepts_the_units(tmp_path):
    for unit in UNITS:
        text = unit.read_text(encoding="utf-8").replace("/opt/manor/bin/manor-%i", "/bin/true")
        text = text.replace("/opt/manor/bin/manor node", "/bin/true")
        (tmp_path / unit.name).write_text(text.replace("/opt/manor/bin/manor-bus", "/bin/true"))
    names = ("manor@config.service", "manor-bus.service", "manor-guests.service", "manor.target")
    units = [tmp_path / name for name in names]
    outcome = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stderr
