"""Real guests for the tests of this folder: a house for one test, and one booted guest for all of them."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from manor_bus.wire.messages.devices import Descriptor
from manor_bus.wire.messages.documents import Boot, Channel, Cpu, Disk, DomainSpec, Memory, Nic
from manor_lifecycle.hypervisors import AdapterSettings, Attachment, ConsoleStream, Creation
from manor_lifecycle.hypervisors.qemu import options, program
from manor_lifecycle.hypervisors.qemu.adapter import QemuHypervisor
from manor_lifecycle.hypervisors.seen import Activity, Run, Seen, SeenRun

ROOT = Path(__file__).parents[4]
BUILDER = ROOT / "deploy" / "guest" / "build.py"
UUID = "4fd5b1a6-4f7d-4a6e-8d3c-6f0c1d2e3f40"
UID = 231_001 if os.geteuid() == 0 else 0
DISK_MIB = 16
PATIENCE_S = 40.0  # for what a busy machine may make slow; nothing is measured with it
OPTIONS = {"accelerator": "tcg", "heartbeat_s": "0.2", "silence_s": "1"}


def why_not() -> str:
    """Say what this machine lacks for real guests."""
    return "" if shutil.which("qemu-system-x86_64") else "needs qemu-system-x86_64 (package qemu-system-x86)"


def build_image() -> tuple[Path, Path]:
    """Return the kernel and the initramfs of the demo guest. Raises RuntimeError saying why not."""
    done = subprocess.run([sys.executable, BUILDER], capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    return Path(found["kernel"]), Path(found["initrd"])


class Screen:
    """A person at a console."""

    def __init__(self, stream: ConsoleStream) -> None:
        self.stream = stream
        self.seen = b""

    async def until(self, text: str) -> str:
        """Return what is printed up to and with a text."""
        wanted = text.encode()
        async with asyncio.timeout(PATIENCE_S):
            while wanted not in self.seen:
                content = await self.stream.read()
                assert content, f"the console ended before {text!r}: {self.seen!r}"
                self.seen += content
        before, _, self.seen = self.seen.partition(wanted)
        return (before + wanted).decode(errors="replace")

    async def type(self, command: str) -> None:
        """Type a line."""
        await self.stream.write(command.encode() + b"\n")

    async def ask(self, command: str) -> str:
        """Run a command and return what it printed."""
        mark = uuid.uuid4().hex[:8]
        await self.type(f"echo {mark[:4]}''{mark[4:]}; {command}; echo {mark[4:]}''{mark[:4]}")
        await self.until(mark)
        return (await self.until(mark[4:] + mark[:4])).removesuffix(mark[4:] + mark[:4]).strip("\r\n")


@dataclass
class Place:
    """A folder that the guests' user can pass, and what the test keeps in it."""

    folder: Path
    kernel: Path
    initrd: Path
    state_id: str = ""
    settings: dict[str, str] = field(default_factory=lambda: dict(OPTIONS))

    def file(self, name: str, content: bytes = b"", mib: int = DISK_MIB) -> Path:
        """Return a disk image that the guests' user may use."""
        path = self.folder / name
        if not path.exists():
            path.write_bytes(content)
            os.truncate(path, mib << 20)
            path.chmod(0o666)
        return path

    def disk(self, name: str, generation: int = 1, **fields: object) -> Attachment:
        """Return a disk with a prepared back end."""
        path = str(self.file(f"{name}.raw"))
        args: dict[str, str | int | bool] = {"path": path, "format": "raw", "cache": "writeback"}
        descriptor = Descriptor(type="file", args=args, generation=generation)
        return Attachment(Disk(id=name, **fields), descriptor)  # type: ignore[arg-type]

    def nic(self, name: str) -> Attachment:
        """Return a card in a network of its own."""
        return Attachment(Nic(id=name), Descriptor(type="user", generation=1))

    def channel(self, name: str, path: Path) -> Attachment:
        """Return a channel to a socket."""
        args: dict[str, str | int | bool] = {"path": str(path)}
        return Attachment(Channel(id=name, name="org.test"), Descriptor(type="channel", args=args))

    def linux(self, **fields: object) -> DomainSpec:
        """Return the description of the demo guest."""
        cmdline = "console=ttyS0 quiet"
        boot = Boot(kernel=str(self.kernel), initrd=str(self.initrd), cmdline=cmdline)
        shape = {"cpu": Cpu(count=1, max=2), "memory": Memory(size_mib=128, max_mib=160), "boot": boot}
        return DomainSpec(**{**shape, **fields})  # type: ignore[arg-type]

    def bare(self, **fields: object) -> DomainSpec:
        """Return a guest without an operating system: the firmware waits for ever, and answers nothing."""
        return DomainSpec(**{"memory": Memory(size_mib=16), "rng": False, **fields})  # type: ignore[arg-type]

    def creation(self, spec: DomainSpec, *attachments: Attachment, incarnation: int = 1) -> Creation:
        """Return what to create."""
        return Creation(Run(UUID, incarnation), "web", spec, attachments, uid=UID)

    @asynccontextmanager
    async def hypervisor(self) -> AsyncIterator[QemuHypervisor]:
        """Open the adapter; guests stay."""
        directory = self.folder / "qemu"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings = AdapterSettings(directory, "n1", self.settings, durable=False, state_id=self.state_id)
        chosen = options.read(settings.options)
        found = await program.inspect(chosen.binary, chosen.accelerator, directory)
        adapter = QemuHypervisor(settings, chosen, found)
        await adapter.begin()
        try:
            yield adapter
        finally:
            await adapter.close()


class Story:
    """Looks at the one guest whenever the adapter says that something is different."""

    def __init__(self, hypervisor: QemuHypervisor) -> None:
        self._hypervisor, self._told = hypervisor, hypervisor.events()

    async def until(self, holds: Callable[[Seen], bool]) -> Seen:
        """Return what is there when that holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not holds(seen := (await self._hypervisor.look(UUID))[UUID]):
                await anext(self._told)
            return seen

    async def end(self) -> SeenRun:
        """Return the run when it has ended."""
        seen = await self.until(lambda seen: seen.run is not None and seen.run.activity is Activity.ENDED)
        assert seen.run is not None
        return seen.run


async def run_of(hypervisor: QemuHypervisor) -> SeenRun | None:
    """Return the run of the one guest."""
    return (await hypervisor.look(UUID))[UUID].run


def process_facts(pid: int) -> dict[str, str]:
    """Return what the kernel says about a process."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return dict(re.findall(r"^(\w+):[ \t]*(.*)$", text, re.MULTILINE))


def pid_of(hypervisor: QemuHypervisor) -> int:
    """Return the process of the one guest."""
    (guest,) = hypervisor._guests.values()
    return guest.process.identity.pid


def open_files(pid: int) -> set[str]:
    """Return the files that a process has open."""
    return {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
