"""A container engine of the test's own: dockerd with its own socket, data, network, mounts and process ids.

Everything it makes lives in namespaces that end with it. The base image comes from debootstrap, the packages
from pip on this machine, both kept in the cache: nothing is pulled, and builds need no network.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.system.roots import CACHE, PATH, NotHere, debian, run, suite_here, unpacked

PROGRAMS = {
    "dockerd": "docker.io", "docker-compose": "docker-compose", "docker": "docker.io", "ip": "iproute2",
    "unshare": "util-linux", "debootstrap": "debootstrap",
}  # fmt: skip
IN_NAMESPACES = (
    "unshare", "--mount", "--propagation", "private", "--net", "--pid", "--mount-proc", "--fork",
    "--kill-child",
)  # fmt: skip
START_S = 60.0


def missing() -> str:
    """What keeps this machine from having an engine; empty when nothing does."""
    if os.geteuid() != 0:
        return "a container engine of one's own needs root"
    absent = sorted({package for name, package in PROGRAMS.items() if shutil.which(name, path=PATH) is None})
    return f"not installed: {' '.join(absent)} (apt-get install them)" if absent else ""


def base_image() -> Path:
    """A root file system of this machine's Debian with Python and QEMU, as a tar archive; made once."""
    return debian("base-qemu", suite_here(), ("python3", "python3-venv", "qemu-system-x86", "qemu-utils"))


def wheels(requirements: Path, python: str) -> Path:
    """The pinned packages for a Python version, fetched once the way pip is set up on this machine."""
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:16]
    folder = CACHE / f"wheels-{python}-{digest}"
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.{os.getpid()}")
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--only-binary=:all:")
        run(*pip, "--python-version", python, "-r", requirements, "-d", part)
        part.rename(folder)
    return folder


@dataclass(frozen=True)
class Compose:
    """A form of compose: its command, and what it finds in the environment."""

    command: tuple[str, ...]
    variables: dict[str, str]

    @staticmethod
    def one() -> Compose:
        """The program `docker-compose` of this machine, with the builder of its time."""
        return Compose(("docker-compose",), {"DOCKER_BUILDKIT": "0"})

    @staticmethod
    def two() -> Compose:
        """`docker compose` as Debian 13 has it, with BuildKit."""
        root = unpacked("trixie", ("docker-compose", "docker-cli", "docker-buildx"))
        settings = root / "config"
        settings.mkdir(exist_ok=True)
        plugins = {"cliPluginsExtraDirs": [str(root / "usr/libexec/docker/cli-plugins")]}
        (settings / "config.json").write_text(json.dumps(plugins))
        return Compose((str(root / "usr/bin/docker"), "compose"), {"DOCKER_CONFIG": str(settings)})


@dataclass(frozen=True)
class Engine:
    """A running engine."""

    socket: Path

    def docker(self, *words: str | Path) -> str:
        """Run the client."""
        return run("docker", *words, env=self.environment())

    def events(self, what: str, within: float) -> Iterator[dict[str, str]]:
        """The attributes of containers to which something happened: so far, and for so many seconds."""
        every = [
            "docker",
            "events",
            "--since",
            "24h",
            "--filter",
            f"event={what}",
            "--format",
            "{{json .Actor}}",
        ]
        process = subprocess.Popen(every, env=self.environment(), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        enough = threading.Timer(within, process.terminate)
        enough.start()
        try:
            for line in process.stdout:
                yield json.loads(line)["Attributes"]
        finally:
            enough.cancel()
            process.terminate()
            process.wait()
            process.stdout.close()

    def environment(self) -> dict[str, str]:
        """What points clients to this engine."""
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith(("DOCKER_", "COMPOSE_"))
        }
        return {**kept, "PATH": PATH, "DOCKER_HOST": f"unix://{self.socket}"}


@contextmanager
def engine(folder: Path) -> Iterator[Engine]:
    """Run an engine whose every file is under `folder`; nothing of it is left afterwards."""
    socket, log = folder / "docker.sock", folder / "dockerd.log"
    group = f"/manor-test-{os.getpid()}"
    daemon = (
        f"exec dockerd -H unix://{socket} --exec-root {folder}/exec --data-root {folder}/data"
        f" --pidfile {folder}/dockerd.pid --cgroup-parent {group} --iptables=false --ip-forward=false"
        " --ip-masq=false --userland-proxy=false"
    )
    (folder / "data").mkdir()
    in_memory = f"mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs {folder}/data"  # gone with the namespace
    script = f"ip link set lo up && {in_memory} && {daemon}"
    with log.open("wb") as words:
        outer = subprocess.Popen(
            [*IN_NAMESPACES, "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=words, stderr=words,
            env={**os.environ, "PATH": PATH},
        )  # fmt: skip
    made = Engine(socket)
    try:
        _await(made, outer, log)
        yield made
    finally:
        _stop(outer)
        for left in sorted(Path("/sys/fs/cgroup").glob(f"*{group}/**/"), reverse=True):
            with suppress(OSError):
                left.rmdir()


def _await(made: Engine, outer: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while True:
        with suppress(AssertionError):
            made.docker("version")
            return
        if outer.poll() is not None or time.monotonic() > end:
            raise NotHere("dockerd does not start here: " + " | ".join(log.read_text().splitlines()[-3:]))
        with suppress(subprocess.TimeoutExpired):
            outer.wait(0.1)


def _stop(outer: subprocess.Popen[bytes]) -> None:
    """End dockerd by its process id; with it, as the first process of its namespace, ends all it started."""
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    for child in children.read_text().split() if outer.poll() is None else ():
        with suppress(ProcessLookupError):
            os.kill(int(child), signal.SIGTERM)
    try:
        outer.wait(30)
    except subprocess.TimeoutExpired:
        outer.kill()  # takes its child with it
        outer.wait()
