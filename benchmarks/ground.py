"""The servers that are compared, each started on this machine with keys and files of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import running, wait_for
from manor_bus import keys


@dataclass(frozen=True)
class Server:
    """What is measured: `endpoint` for callers and publishers, `behind` for services and subscribers."""

    name: str
    pid: int
    endpoint: str
    behind: str


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """A state directory with the keys of a node; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="manor-bench-") as name:
        folder = Path(name)
        keys.create(folder / "keys")
        yield folder


@contextlib.contextmanager
def broker(folder: Path, name: str = "bus") -> Iterator[Server]:
    """Manor's broker on ipc."""
    socket = folder / f"{name}.sock"
    environment = {"MANOR_DIR": str(folder), "MANOR_NODE": "n1", "MANOR_BUS": f"ipc://{socket}"}
    with running([sys.executable, "-m", "manor_bus"], folder / f"{name}.log", environment) as pid:
        wait_for("the broker's socket", socket.exists)
        yield Server("manor", pid, f"ipc://{socket}", f"ipc://{socket}")


@contextlib.contextmanager
def forwarder(folder: Path, kind: str) -> Iterator[Server]:
    """One of `benchmarks.forwarders`: C code of libzmq that checks nothing, with CURVE like ours."""
    front, back = folder / f"{kind}.front", folder / f"{kind}.back"
    command = [
        sys.executable,
        "-m",
        "benchmarks.forwarders",
        kind,
        str(folder / "keys"),
        str(front),
        str(back),
    ]
    with running(command, folder / f"{kind}.log") as pid:
        wait_for(f"the socket of {kind}", front.exists)
        yield Server(kind, pid, f"ipc://{front}", f"ipc://{front if kind == 'echo' else back}")


def nats_program() -> str | None:
    """Where nats-server is; Debian keeps it where users' PATH does not look."""
    return shutil.which("nats-server", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def nats(folder: Path, *, secure: bool = False) -> Iterator[Server]:
    """A nats-server on a loopback port it chooses itself; `secure`: TLS with certificates on both sides."""
    program = nats_program()
    assert program is not None
    name = "nats-tls" if secure else "nats"
    ports = folder / name
    ports.mkdir()
    command = [program, "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", str(ports)]
    if secure:
        pair = certificate(folder)
        command += ["--tls", "--tlscert", pair[0], "--tlskey", pair[1], "--tlsverify", "--tlscacert", pair[0]]
    with running(command, folder / f"{name}.log") as pid:
        wait_for("nats-server", lambda: any(file.stat().st_size for file in ports.iterdir()))
        url = json.loads(next(ports.iterdir()).read_text(encoding="ascii"))["nats"][0]
        address = url.partition("://")[2]
        endpoint = f"tls://{address}" if secure else f"nats://{address}"
        yield Server(name, pid, endpoint, endpoint)


def certificate(folder: Path) -> tuple[str, str]:
    """A certificate for 127.0.0.1 that everybody trusts, and its key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    if not cert.exists():
        what = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        who = ["-subj", "/CN=bench", "-addext", "subjectAltName=IP:127.0.0.1"]
        command = ["openssl", "req", *what, *who, "-keyout", str(key), "-out", str(cert)]
        subprocess.run(command, check=True, capture_output=True)
    return str(cert), str(key)
