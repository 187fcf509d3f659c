"""A real broker process in a folder of its own, for tests of what stands directly on sockets."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from manor_bus import keys
from manor_bus.peer.blocking import Client
from manor_bus.settings import BusSettings


@dataclass
class RealBroker:
    """A broker that can be started, killed and started again."""

    directory: Path
    tcp: str = ""
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def environment(self) -> dict[str, str]:
        """What peers and the broker are told."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MANOR_")}
        said = {"MANOR_DIR": str(self.directory), "MANOR_NODE": "n1"}
        return {**kept, **said, **({"MANOR_BUS_TCP": self.tcp} if self.tcp else {})}

    def start(self) -> None:
        """Start the process; clients wait for it by themselves."""
        self.process = subprocess.Popen([sys.executable, "-m", "manor_bus"], env=self.environment)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()
        self.process.wait()

    def settings(self, principal: str = "operator/admin") -> BusSettings:
        """How a principal attaches."""
        return BusSettings.from_environment(principal, self.environment)

    def client(self, principal: str = "operator/admin") -> Client:
        """Attach as a principal."""
        return Client(self.settings(principal))


@contextmanager
def real_broker(tcp: str = "") -> Iterator[RealBroker]:
    """Run a broker; its folder has a short name because a socket's path is limited."""
    with tempfile.TemporaryDirectory(prefix="mbus") as folder:
        made = RealBroker(Path(folder), tcp)
        keys.create(made.directory / "keys")
        made.start()
        try:
            yield made
        finally:
            made.process.terminate()
            made.process.wait(10)
