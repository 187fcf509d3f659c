"""docker-compose.yml, run for real: a node of containers, driven by the CLI's, restarted under load."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.system.engine import Compose, Engine, base_image, engine, missing, wheels
from tests.system.roots import NotHere, run

pytestmark = [pytest.mark.system, pytest.mark.containers]
ROOT = Path(__file__).parents[2]
SERVICES = {"broker", "config", "discovery", "lifecycle", "devices"}
CONTAINERS = SERVICES | {"runs"}
HEALTHY_S = 120
GUEST = """\
kind: Volume
metadata: {name: scratch}
spec: {size_mib: 32, format: qcow2}
---
kind: Domain
metadata: {name: guest}
spec:
  hypervisor: qemu
  memory: {size_mib: 256}
  boot: {kernel: /images/vmlinuz, initrd: /images/initramfs.gz, cmdline: console=ttyS0 quiet}
  disks: [{id: disk0, volume: scratch, format: qcow2}]
"""
PROMPT = "guest# "
WEB = "kind: Domain\nmetadata: {name: web}\nspec: {run: always}\n"
LOAD = """
import os, sys, threading
from manor_bus.peer.blocking import Client
from manor_bus.wire.messages.lifecycle import DomainShow, DomainStatus
from manor_bus.settings import BusSettings

threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()  # until nobody listens
calls = 0
with Client(BusSettings.from_environment("operator/admin")) as client:
    while True:
        client.call(DomainShow(name="web"), DomainStatus, timeout=10)
        calls += 1
        print(calls, flush=True)
"""


@pytest.fixture(scope="module")
def base():
    """An engine with a base image in it."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="manor-engine-") as name:
        try:
            archive = base_image()
            with engine(Path(name)) as running:
                running.docker("import", archive, "manor-base")
                try:
                    running.docker("run", "--rm", "--read-only", "manor-base", "true")
                except AssertionError as error:
                    raise NotHere(f"containers do not run here: {error}") from None
                yield running
        except NotHere as error:
            pytest.skip(str(error))


@pytest.fixture(scope="module")
def clone(base, tmp_path_factory):
    """A fresh clone of this tree, with the packages that a build without a network needs."""
    folder = tmp_path_factory.mktemp("clone")
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    version = "import sys; print('%d.%d' % sys.version_info[:2])"
    python = base.docker("run", "--rm", "manor-base", "python3", "-c", version).strip()
    shutil.copytree(wheels(ROOT / "requirements" / "run.txt", python), folder / "deploy" / "wheels")
    return folder


@pytest.fixture(scope="module")
def images():
    """A folder with the kernel and initrd of the demo's guest, for everybody to read."""
    build = run(sys.executable, ROOT / "deploy" / "guest" / "build.py")
    with tempfile.TemporaryDirectory(prefix="manor-images-") as name:
        Path(name).chmod(0o755)
        for line in build.splitlines():
            path = Path(line.split(" ", 1)[1])
            shutil.copyfile(path, Path(name) / path.name)
        yield Path(name)


class Project:
    """The compose project of one clone."""

    def __init__(self, running: Engine, folder: Path, form: Compose, images: Path) -> None:
        self._folder, self._form = folder, form
        own = {"MANOR_BASE": "manor-base", "PIP_NO_INDEX": "1", "MANOR_IMAGES": str(images)}
        self._environment = {**running.environment(), **form.variables, **own}

    def choose(self, hypervisor: str) -> None:
        """From the next command on."""
        self._environment["MANOR_HYPERVISOR"] = hypervisor

    def compose(self, *words: str, stdin: str = "") -> str:
        """Run one command of compose."""
        return run(*self._command(*words), cwd=self._folder, env=self._environment, input=stdin)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start one that goes on."""
        return subprocess.Popen(
            self._command(*words), cwd=self._folder, env=self._environment, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def manor(self, *words: str, stdin: str = "") -> str:
        """Run the CLI in its container."""
        return self.compose("run", "--rm", "-T", "cli", *words, stdin=stdin)

    def _command(self, *words: str) -> list[str]:
        return [*self._form.command, "--ansi", "never", *words]


@pytest.fixture(scope="module", params=[Compose.one, Compose.two], ids=["docker-compose", "docker compose"])
def project(request, base, clone, images):
    """`up -d` from the clone, healthy; each form of compose builds its own images."""
    try:
        made = Project(base, clone, request.param(), images)
    except NotHere as error:
        pytest.skip(str(error))
    try:
        made.compose("up", "-d")
        wait_healthy(base, made)
        yield made
    finally:
        made.compose("down", "--volumes", "--rmi", "all")


def wait_healthy(running: Engine, project: Project) -> None:
    """Every container's own health check has said so."""
    for _ in running.events("health_status", within=HEALTHY_S):
        if healthy(running) == SERVICES:
            return
    raise AssertionError(project.compose("ps") + project.compose("logs", "--tail=20"))


def healthy(running: Engine) -> set[str]:
    service = '{{.Label "com.docker.compose.service"}}'
    return set(running.docker("ps", "--filter", "health=healthy", "--format", service).split())


def inspected(running: Engine) -> dict[str, Any]:
    names = running.docker("ps", "--quiet").split()
    found = json.loads(running.docker("inspect", *names))
    return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in found}


def test_all_services_are_ready_and_the_command_line_sees_them(project):
    rows = json.loads(project.manor("service", "list", "-o", "json"))
    assert {row["name"] for row in rows if row["ready"]} == (SERVICES - {"broker"}) | {"bus"}


def test_every_container_is_unprivileged_and_cannot_write_to_its_image(project, base):
    containers = inspected(base)
    assert set(containers) == CONTAINERS
    for one in containers.values():
        host = one["HostConfig"]
        assert one["Config"]["User"] == "10001:10001"
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["RestartPolicy"]["Name"] == "unless-stopped"


def test_every_container_sees_its_own_key_and_no_other(project, base):
    seen = {name: base.docker("exec", one["Id"], "ls", "/run/secrets/manor").split()
            for name, one in inspected(base).items() if name != "runs"}  # fmt: skip
    assert seen.pop("broker") == ["authorised.json", "broker.key", "broker.pub", "service-health.key"]
    assert seen == {name: ["broker.pub", f"service-{name}.key"] for name in seen}


def test_a_domain_is_described_on_standard_input_and_runs(project):
    assert "domain/web is RUNNING" in project.manor("apply", "-f", "-", stdin=WEB)
    rows = json.loads(project.manor("list", "-o", "json"))
    assert [(row["name"], row["hypervisor"]) for row in rows] == [("web", "fake")]


def test_lifecycle_is_restarted_under_load_and_no_call_fails(project):
    with Load(project) as load:
        load.wait_calls(200)
        project.compose("restart", "lifecycle")
        load.wait_calls(200)


class Load:
    """A caller that never stops, in a container; it ends at the first call that fails."""

    def __init__(self, project: Project) -> None:
        self._process = project.start("run", "--rm", "-T", "--entrypoint", "python", "cli", "-c", LOAD)
        self._calls = 0
        self._turn = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._reader.join()
        with self._process:  # closes what is left of it, and waits
            pass

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._turn:
                self._calls = int(line)
                self._turn.notify_all()

    def wait_calls(self, more: int) -> None:
        """Wait until so many more calls have been answered."""
        with self._turn:
            wanted = self._calls + more
            assert self._turn.wait_for(lambda: self._calls >= wanted, timeout=60), f"{self._calls} calls"


def test_down_and_up_again_keeps_documents_and_keys(project, base):
    project.compose("down")
    assert base.docker("ps", "--all", "--quiet") == ""
    project.compose("up", "-d")
    wait_healthy(base, project)
    rows = json.loads(project.manor("list", "-o", "json"))
    assert [row["name"] for row in rows] == ["web"]


def test_a_guest_of_qemu_outlives_the_container_of_lifecycle(project, base):
    project.choose("qemu")
    project.compose("up", "-d")
    wait_healthy(base, project)
    project.manor("apply", "-f", "-", stdin=GUEST)
    project.manor("start", "guest")
    project.manor("--timeout", "100", "console", "guest", "--watch", "--until", "MANOR-GUEST-READY")
    assert "DISK-WRITTEN" in typed(project, "disk write /dev/vda 4")
    before, emulator = uptime(project), emulators(base)
    assert len(emulator) == 1
    project.compose("restart", "lifecycle")
    wait_healthy(base, project)
    assert uptime(project) > before
    assert emulators(base) == emulator
    assert "DISK-VERIFIED" in typed(project, "disk verify /dev/vda 4")
    (row,) = [row for row in json.loads(project.manor("list", "-o", "json")) if row["name"] == "guest"]
    assert (row["state"], row["incarnation"]) == ("RUNNING", 1)


def typed(project: Project, line: str) -> str:
    """Type a line at the guest's console and return what it answered."""
    words = ("--timeout", "60", "console", "guest", "--no-scrollback", "--until", PROMPT)
    return project.manor(*words, stdin=line + "\n")


def uptime(project: Project) -> float:
    answer = typed(project, "cat /proc/uptime")
    found = re.search(r"^([0-9.]+) [0-9.]+\s*$", answer, re.MULTILINE)
    assert found, answer
    return float(found[1])


def emulators(running: Engine) -> list[str]:
    """The processes of that guest, as the container sees them in which they were born."""
    runs = inspected(running)["runs"]["Id"]
    lines = running.docker("top", runs, "-o", "pid,args").splitlines()
    return [line.split()[0] for line in lines if "-name guest=guest," in line]
