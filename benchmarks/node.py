"""A whole node of real processes with the fake hypervisor, brought up and down by the command line."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from manor_bus.peer.blocking import Client
from manor_bus.settings import BusSettings

MANOR: Final = str(Path(sys.executable).with_name("manor"))
COMMAND_S: Final = 300.0


@dataclass(frozen=True)
class Node:
    """One running node."""

    directory: Path

    @property
    def environment(self) -> dict[str, str]:
        """What its commands and callers are told."""
        return {**os.environ, "MANOR_DIR": str(self.directory), "NO_COLOR": "1"}

    def manor(self, *words: str) -> str:
        """Run one command."""
        outcome = subprocess.run(
            [MANOR, *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        if outcome.returncode != 0:
            message = f"manor {' '.join(words)} ended with {outcome.returncode}: {outcome.stderr[-2000:]}"
            raise RuntimeError(message)
        return outcome.stdout

    def client(self) -> Client:
        """Attach as the operator."""
        return Client(BusSettings.from_environment("operator/admin", self.environment))

    def pids(self) -> dict[str, int]:
        """The processes by name, the broker as `bus`."""
        rows: list[dict[str, Any]] = json.loads(self.manor("service", "list", "-o", "json"))
        return {row["name"]: row["pid"] for row in rows}


@contextlib.contextmanager
def node() -> Iterator[Node]:
    """Bring a node up; nothing of it is left afterwards."""
    with tempfile.TemporaryDirectory(prefix="manor-bench-") as name:
        made = Node(Path(name))
        try:
            made.manor("up", "--detach", "--hypervisor", "fake")
            yield made
        finally:
            made.manor("down")
