"""A whole Manor node of real processes in a folder of its own, driven through the public command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manor_bus.peer.blocking import Client
from manor_bus.settings import BusSettings

COMMAND_S = 120.0


@dataclass(frozen=True)
class Node:
    """One node's state directory and the commands that act on it."""

    directory: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    def manor(self, *arguments: str, check: bool = True, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run one command of the CLI to its end."""
        done = subprocess.run(
            [str(Path(sys.executable).parent / "manor"), *arguments],
            env=self.environment(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        if check and done.returncode != 0:
            command = " ".join(arguments)
            message = (
                f"manor {command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}\n{self.logs()}"
            )
            raise AssertionError(message)
        return done

    def json(self, *arguments: str) -> Any:
        """Run a command with `-o json` and parse what it prints."""
        return json.loads(self.manor(*arguments, "-o", "json").stdout)

    def environment(self) -> dict[str, str]:
        """What a shell would export."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MANOR_")}
        return {**kept, "MANOR_DIR": str(self.directory), "NO_COLOR": "1", **self.variables}

    def client(self) -> Client:
        """Attach to the bus as the operator."""
        return Client(BusSettings.from_environment("operator/admin", self.environment()))

    def pid(self, service: str) -> int:
        """Return the process id of the running instance of a service (`bus`: the broker)."""
        rows = [row for row in self.json("service", "list") if row["name"] == service]
        assert rows, f"{service} is not there"
        return int(rows[0]["pid"])

    def kill(self, service: str) -> int:
        """End a service with SIGKILL; its supervisor starts it again."""
        pid = self.pid(service)
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_replaced(self, service: str, old_pid: int, timeout: float = 30.0) -> None:
        """Wait until another process serves, ready."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            done = self.manor("service", "list", "-o", "json", check=False)
            if done.returncode == 0:
                rows = [row for row in json.loads(done.stdout) if row["name"] == service]
                if rows and rows[0]["ready"] and rows[0]["pid"] != old_pid:
                    return
        raise AssertionError(f"{service} did not come back:\n{self.logs()}")

    def logs(self) -> str:
        """Return the ends of all logs."""
        texts = []
        for path in sorted((self.directory / "log").glob("*.log")):
            texts.append(f"--- {path.name}\n" + "\n".join(path.read_text().splitlines()[-25:]))
        return "\n".join(texts)


@contextmanager
def node(directory: Path, *options: str, **variables: str) -> Iterator[Node]:
    """Bring a node up, and leave nothing of it running."""
    made = Node(directory, variables)
    try:
        made.manor("up", "--detach", *options)
        yield made
    finally:
        with suppress(subprocess.TimeoutExpired):
            made.manor("down", check=False)
