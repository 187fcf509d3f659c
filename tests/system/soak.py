"""Soak: a node lives through many domains while its services are killed, and nothing of it grows.

    python -m tests.system.soak --cycles 1400

A cycle applies a domain with a volume, starts it, attaches a disk and detaches it, destroys it and deletes
all of it; in between one part after the other is killed. It is measured after a warm-up and at the end:
memory, descriptors, processes, files, and what is written down.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from manor_bus.peer.blocking import Client
from manor_bus.wire.messages import Message, config, devices
from manor_bus.wire.messages import lifecycle as m
from manor_bus.wire.messages.lifecycle import DomainStatus, Operation, OperationState
from tests.system.nodes import Node, node

PARTS: Final = ("lifecycle", "devices", "discovery", "config", "bus")
WARM_UP: Final = 20
KILL_EVERY: Final = 10  # cycles
BUDGET_S: Final = 30.0
REASON: Final = "soak"


@dataclass(frozen=True)
class Size:
    # What may be added between two measurements: allocators keep some; history is bounded by its size.

    processes: int
    descriptors: int
    kib: int
    files: int
    written: int


# What may be added between two measurements: allocators keep some; history is bounded by size.
BOUNDS: Final = Size(processes=0, descriptors=8, kib=24 * 1024, files=8, written=6 * 1024 * 1024)
PER_CYCLE: Final = 6 * 1024  # bytes of history in config and of records that are not compacted yet


def processes(directory: Path) -> list[int]:
    """Return the processes that were told this state directory."""
    mark = f"MANOR_DIR={directory}\0".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                if mark in (entry / "environ").read_bytes() + b"\0":
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def memory_kib(pid: int) -> int:
    """Return the memory of a process, what it shares shared out."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def measure(directory: Path) -> Size:
    """Measure a node that rests."""
    pids = processes(directory)
    files = [path for path in directory.rglob("*") if path.is_file() and not path.is_socket()]
    return Size(
        processes=len(pids),
        descriptors=sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids),
        kib=sum(map(memory_kib, pids)),
        files=len(files),
        written=sum(path.stat().st_size for path in files if path.suffix != ".log"),
    )


def growth(before: Size, after: Size, cycles: int) -> list[str]:
    """Say what grew beyond its bound."""
    wrong = []
    for one in fields(Size):
        was, now, bound = (getattr(size, one.name) for size in (before, after, BOUNDS))
        if one.name == "written":
            bound += PER_CYCLE * cycles
        if now - was > bound:
            wrong.append(f"{one.name} grew from {was} to {now} in {cycles} cycles; {bound} more are allowed")
    return wrong


class Cycle:
    """One domain's life, over the bus."""

    def __init__(self, client: Client, number: int) -> None:
        self._client = client
        self.name, self.extra = f"soak{number}", f"soak{number}-extra"

    def _apply(self, *documents: dict[str, Any]) -> tuple[config.Change, ...]:
        request = config.Apply(documents=documents, reason=REASON)
        return self._client.call(request, config.Applied, timeout=BUDGET_S).changes

    def _do(self, request: Message) -> None:
        begun = self._client.call(request, Operation, timeout=BUDGET_S)
        ended = self._client.call(m.OperationFollow(id=begun.id), Operation, timeout=BUDGET_S)
        assert ended.state is OperationState.DONE, ended

    def _domain(self, *volumes: str) -> dict[str, Any]:
        disks = [{"id": f"vd{'abc'[at]}", "volume": volume} for at, volume in enumerate(volumes)]
        return {"kind": "Domain", "metadata": {"name": self.name}, "spec": {"disks": disks}}

    def _until(self, uuid: str, revision: int) -> None:
        for change in self._client.watch(f"domain.{uuid}", timeout=BUDGET_S):
            status = getattr(change, "value", None)
            if isinstance(status, DomainStatus) and status.revision >= revision and not status.operation:
                return
        raise AssertionError(f"{self.name} did not take revision {revision}")

    def live(self) -> None:
        """Go through it all."""
        volumes = ({"kind": "Volume", "metadata": {"name": name}, "spec": {"size_mib": 1}}
                   for name in (self.name, self.extra))  # fmt: skip
        *_, made = self._apply(*volumes, self._domain(self.name))
        self._until(made.uuid, made.revision)
        self._do(m.DomainStart(name=self.name, reason=REASON))
        for disks in ((self.name, self.extra), (self.name,)):
            (change,) = self._apply(self._domain(*disks))
            self._until(made.uuid, change.revision)
        self._do(m.DomainDestroy(name=self.name, reason=REASON))
        self._do(m.DomainDelete(name=self.name, reason=REASON))
        gone = tuple(config.Reference(kind="Volume", name=name) for name in (self.name, self.extra))
        self._client.call(config.Delete(references=gone, reason=REASON), config.Applied, timeout=BUDGET_S)


def soak(running: Node, cycles: int, kill_every: int = KILL_EVERY) -> Iterator[Size]:
    """Live so many cycles after a warm-up; yields the size before and the size after."""
    for begin, end in ((0, WARM_UP), (WARM_UP, WARM_UP + cycles)):
        with running.client() as client:
            for number in range(begin, end):
                Cycle(client, number).live()
                if number % kill_every == kill_every - 1:
                    part = PARTS[number // kill_every % len(PARTS)]
                    running.wait_replaced(part, running.kill(part))
            at_rest(client)
        yield measure(running.directory)


def at_rest(client: Client) -> None:
    """Nothing is left of what was deleted, and the services have said so."""
    for change in client.watch("volume.*", timeout=BUDGET_S, policy="gap"):
        volumes = client.call(devices.VolumeList(), devices.VolumesListed, timeout=BUDGET_S).volumes
        if not volumes:
            break
        assert change is not None
    assert client.call(devices.DeviceList(), devices.DevicesListed, timeout=BUDGET_S).devices == ()


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak a node of its own and say what grew."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cycles", type=int, default=1_400)
    cycles = parser.parse_args(arguments).cycles
    with (
        tempfile.TemporaryDirectory(prefix="manor") as directory,
        node(Path(directory), "--hypervisor", "fake") as running,
    ):
        before, after = soak(running, cycles)
    wrong = growth(before, after, cycles)
    told = wrong or [f"nothing grew beyond its bound in {cycles} cycles"]
    sys.stdout.write("\n".join([f"before {before}", f"after  {after}", *told]) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
