"""The shipped units, carried out without systemd: the users, groups, folders, modes, keys, capabilities and
environment that they ask for, on a state directory of the test's own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.system.nodes import Node
from tests.system.users import BIN, SOURCES, as_user, needs_root

DEPLOY = SOURCES / "deploy"
STATE = "/var/lib/manor"
NAMES = ("bus", "config", "discovery", "lifecycle", "devices")
pytestmark = [
    pytest.mark.system,
    needs_root,
    pytest.mark.skipif(
        shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed here"
    ),
]
Unit = dict[str, list[str]]


def read(name: str) -> Unit:
    """Return what a unit's lines say, by their keys, in order."""
    said: Unit = defaultdict(list)
    for line in (DEPLOY / "systemd" / f"manor-{name}.service").read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            said[key].append(value)
    return said


@dataclass
class Host:
    """A root of its own with users, groups and folders, and what runs of the units."""

    root: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def node(self) -> Node:
        """The node as root sees it."""
        return Node(self.root / STATE[1:])

    def number(self, file: str, name: str) -> int:
        """Return a user or group."""
        rows = (line.split(":") for line in (self.root / "etc" / file).read_text().splitlines())
        return next(int(row[2]) for row in rows if row[0] == name)

    def groups(self, user: str) -> tuple[int, ...]:
        """Return the groups of a user, its own first."""
        rows = [line.split(":") for line in (self.root / "etc/group").read_text().splitlines()]
        return (self.number("group", user), *(int(row[2]) for row in rows if user in row[3].split(",")))

    def start(self, name: str) -> None:
        """Do what systemd does of a unit, and start its program."""
        unit, directory = read(name), self.root / STATE[1:]
        user = unit["User"][0]
        uid, groups = self.number("passwd", user), self.groups(user)
        mine = [self.root / "var/lib" / one for one in unit["StateDirectory"][0].split()]
        for folder in mine:
            folder.mkdir(exist_ok=True)
            for one in (folder, *folder.rglob("*")):
                if folder.stat().st_uid != uid:
                    os.chown(one, uid, groups[0], follow_symlinks=False)
            folder.chmod(int(unit["StateDirectoryMode"][0], 8))
        handed = self.root / f"run/{name}"
        shutil.rmtree(handed, ignore_errors=True)
        handed.mkdir(parents=True)
        for line in unit["LoadCredential"]:
            to, _, source = line.partition(":")
            shutil.copyfile(source.replace(STATE, str(directory)), handed / to)
            (handed / to).chmod(0o400)
            os.chown(handed / to, uid, groups[0])
        os.chown(handed, uid, groups[0])
        handed.chmod(0o500)
        told = " ".join(unit["Environment"]).replace("%d", str(handed)).replace(STATE, str(directory))
        told = told.replace("GROUP=manor", f"GROUP={self.number('group', 'manor')}")
        hidden = unit["InaccessiblePaths"][0].replace("-/", "/").replace(STATE, str(directory)).split()
        capabilities = " ".join(unit["AmbientCapabilities"]).lower().replace("cap_", "").split()
        before = as_user(
            uid,
            groups,
            capabilities=capabilities,
            hidden=[Path(one) for one in hidden if Path(one).exists()],
            writable=mine if unit["ProtectSystem"] == ["strict"] else None,
        )
        self.running[name] = subprocess.Popen(
            [*before, str(BIN / Path(unit["ExecStart"][0]).name)],
            env={"PATH": os.environ["PATH"], "MANOR_HYPERVISOR": "fake", "TMPDIR": "/dev/shm"}
            | dict(one.split("=", 1) for one in told.split()),
            umask=int(unit["UMask"][0], 8),
            cwd="/",
        )

    def end(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End one service and wait for it."""
        self.running[name].send_signal(number)
        self.running.pop(name).wait(30)

    def ready(self) -> None:
        """Wait until every service is ready."""
        end = time.monotonic() + 60
        while self.node.manor("status", check=False).returncode:
            assert time.monotonic() < end, self.node.manor("status", check=False)
            assert all(one.poll() is None for one in self.running.values())


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    made = Host(Path(tempfile.mkdtemp(prefix="manor-host-")))
    made.root.chmod(0o755)
    for folder in ("etc", "var/lib"):
        (made.root / folder).mkdir(parents=True)
    for program, kind, options in (("sysusers", "sysusers.d", ()), ("tmpfiles", "tmpfiles.d", ("--create",))):
        file = DEPLOY / kind / "manor.conf"
        subprocess.run([f"systemd-{program}", f"--root={made.root}", *options, str(file)], check=True)
    try:
        made.node.manor("init", "--node", "n1")
        for name in NAMES:
            made.start(name)
        made.ready()
        yield made
    finally:
        for name in reversed(list(made.running)):
            made.end(name)
        shutil.rmtree(made.root)


def test_five_services_are_five_users_and_each_has_its_folder(host):
    owners = {}
    for name, process in host.running.items():
        status = Path(f"/proc/{process.pid}/status").read_text()
        uid = int(status.partition("Uid:")[2].split()[0])
        assert uid == host.number("passwd", f"manor-{name}")
        owners[name] = uid
        lock = host.node.directory / name / "lock"
        assert lock.stat().st_uid == uid
    assert len(set(owners.values())) == len(NAMES)


def test_nobody_reads_the_key_of_another(host):
    for file in [*host.node.directory.glob("keys/*.key"), *host.root.glob("run/*/*.key")]:
        for name in NAMES:
            user = f"manor-{name}"
            reader = as_user(host.number("passwd", user), host.groups(user))
            done = subprocess.run([*reader, "cat", str(file)], capture_output=True, check=False)
            assert (done.returncode == 0) == (file.parent.name == name), (name, file)


def test_a_domain_runs_and_is_there_after_every_service_was_killed(host):
    document = "kind: Domain\nmetadata: {name: web}\nspec:\n  disks: [{id: d0, volume: v}]\n"
    volume = "kind: Volume\nmetadata: {name: v}\nspec: {size_mib: 8, format: qcow2}\n"
    host.node.manor("apply", "-f", "-", stdin=f"{volume}---\n{document}")
    host.node.manor("start", "web")
    volumes = host.node.directory / "volumes"
    assert volumes.stat().st_mode & 0o777 == 0o711
    assert {one.stat().st_uid for one in volumes.rglob("*")} == {host.number("passwd", "manor-devices")}
    for name in NAMES:
        host.end(name, signal.SIGKILL)
        host.start(name)
        host.ready()
    (row,) = host.node.json("list")
    assert (row["name"], row["state"]) == ("web", "RUNNING")
    host.node.manor("destroy", "web")


def test_a_second_person_needs_the_group_and_a_key(host):
    lines = host.node.manor("credential", "add", "operator/alice").stdout
    manor = host.number("group", "manor")
    assert "usermod -aG " in lines  # by whatever name this machine has for that number
    home, alice = host.root / "alice", 61_501
    home.mkdir()
    for file in ("operator-alice.key", "broker.pub"):
        shutil.copyfile(host.node.directory / "keys" / file, home / file)
        (home / file).chmod(0o600)
        os.chown(home / file, alice, alice)
    environment = {**host.node.environment(), "MANOR_KEYS": str(home), "MANOR_PRINCIPAL": "operator/alice"}
    for groups, code in (((alice, manor), 0), ((alice,), 4)):
        listed = subprocess.run(
            [*as_user(alice, groups), str(BIN / "manor"), "list", "nodes"], env=environment, check=False
        )
        assert (listed.returncode == 0) == (code == 0)
    host.node.manor("credential", "revoke", "operator/alice")
