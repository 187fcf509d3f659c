"""What brings Manor onto a machine: the set-up script and the systemd units."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())
EXPOSURE = {"bus": 19, "config": 12, "discovery": 12, "lifecycle": 29, "devices": 29}  # in tenths
SERVICES = [DEPLOY / f"systemd/manor-{name}.service" for name in EXPOSURE]


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


def said(unit):
    """Return what the lines of a unit say, each key's in order."""
    found = {}
    for line in unit.read_text(encoding="utf-8").splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_a_unit_starts_what_a_room_installs_as_a_user_of_its_own(unit):
    lines, users = said(unit), (DEPLOY / "sysusers.d/manor.conf").read_text(encoding="utf-8")
    assert lines["StartLimitIntervalSec"] == ["0"]  # no number of restarts ends them for good
    assert lines["User"] == [unit.stem]
    assert f"u {unit.stem} -" in users
    assert f"m {unit.stem} manor\n" in users
    program = lines["ExecStart"][0].removeprefix("/opt/manor/bin/")
    scripts = {
        script
        for manifest in (*ROOT.glob("bus/pyproject.toml"), *ROOT.glob("services/*/pyproject.toml"))
        for script in tomllib.loads(manifest.read_text(encoding="utf-8"))["project"]["scripts"]
    }
    assert program == unit.stem
    assert program in scripts


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_a_unit_is_handed_its_own_secret_and_no_other(unit):
    secrets = [line for line in said(unit)["LoadCredential"] if ".key" in line]
    name = "broker" if unit.stem == "manor-bus" else unit.stem.replace("manor-", "service-")
    assert secrets == [f"{name}.key:/var/lib/manor/keys/{name}.key"]


def test_guests_and_the_target_know_the_broker_and_every_service():
    guests = said(DEPLOY / "systemd/manor-guests.service")
    target = said(DEPLOY / "systemd/manor.target")
    assert guests["ExecStop"] == ["/opt/manor/bin/manor node shutdown-guests"]
    for names in (guests["After"][0], target["Wants"][0]):
        assert {unit.name for unit in SERVICES} <= set(names.split())


@pytest.fixture
def here(tmp_path):
    """The units, with a program that is there."""
    for unit in UNITS:
        text = re.sub(r"/opt/manor/bin/\S+", "/bin/true", unit.read_text(encoding="utf-8"))
        (tmp_path / unit.name).write_text(text)
    return tmp_path


needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed here"
)


@needs_systemd
def test_systemd_accepts_the_units(here):
    units = [here / unit.name for unit in UNITS]
    outcome = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    assert (outcome.returncode, outcome.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize(("name", "most"), EXPOSURE.items())
def test_a_unit_is_no_more_exposed_than_its_work_asks_for(here, name, most):
    unit = here / f"manor-{name}.service"
    outcome = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={most}", "--no-pager", unit],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stdout[-200:]
