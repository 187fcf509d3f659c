"""The QEMU that is installed: its version, its machine types, what it can do with this machine."""

from __future__ import annotations

import asyncio
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from manor_bus.wire.errors import Kind, ManorError, bad_request
from manor_bus.wire.messages.documents import DomainSpec
from manor_lifecycle.hypervisors.qemu import probe
from manor_lifecycle.hypervisors.seen import Feature

QUESTION_S: Final = 20.0
CPU_UNPLUG_SINCE: Final = (9, 0)  # QEMU 7.2 destroys its own memory when TCG unplugs a processor
PNG_SINCE: Final = (7, 1)


@dataclass(frozen=True)
class Program:
    """`machines`: alias -> versioned machine type. `accelerators`: those that really work, best first."""

    binary: str
    version: tuple[int, ...]
    machines: dict[str, str]
    accelerators: tuple[str, ...]

    @property
    def version_text(self) -> str:
        """The version as people write it."""
        return ".".join(map(str, self.version))

    def machine(self, spec: DomainSpec) -> str:
        """Return the versioned machine type for a document. Raises `bad_request` when there is none."""
        wanted = spec.machine or ("microvm" if spec.type == "microvm" else "q35")
        if wanted not in self.machines:
            hint = f"Use one of: {', '.join(sorted(set(self.machines)))}."
            raise bad_request(f"this QEMU has no machine type {wanted!r}", hint=hint)
        return self.machines[wanted]

    def features(self, machine: str = "") -> frozenset[Feature]:
        """Return what can be done beyond creating and destroying, with a run of that machine type."""
        missing = set() if self.version >= PNG_SINCE else {Feature.SCREENSHOT}
        if self.accelerators[0] == "tcg" and self.version < CPU_UNPLUG_SINCE:
            missing.add(Feature.CPU_UNPLUG)
        if machine.startswith("microvm"):
            missing |= {Feature.DISK_PLUG, Feature.NIC_PLUG, Feature.CPU_PLUG, Feature.CPU_UNPLUG}
        return frozenset(set(Feature) - missing)


def machines(listing: str) -> dict[str, str]:
    """Read the output of `-machine help`; only machine types this adapter knows how to wire."""
    found: dict[str, str] = {}
    for line in listing.splitlines():
        name, _, rest = line.partition(" ")
        if name in ("q35", "pc", "microvm") or name.startswith(("pc-q35-", "pc-i440fx-")):
            alias = re.search(r"\(alias of ([\w.-]+)\)", rest)
            found[name] = alias[1] if alias else name
    return found


async def inspect(binary: str, accelerator: str, directory: Path) -> Program:
    """Look at an installed QEMU. Raises `unavailable` when there is none, or none that works."""
    path = shutil.which(binary)
    if path is None:
        hint = "Install QEMU (Debian, Ubuntu: qemu-system-x86), or set the option binary."
        raise ManorError(Kind.UNAVAILABLE, f"there is no program {binary!r}", hint=hint)
    version = re.search(r"version (\d+(?:\.\d+)*)", await _output(path, "--version"))
    if version is None:
        raise ManorError(Kind.UNAVAILABLE, f"{path} does not say which QEMU it is")
    types = machines(await _output(path, "-machine", "help"))
    working = (
        (accelerator,) if accelerator != "auto" else await probe.accelerators(path, version[1], directory)
    )
    if not working:
        raise ManorError(Kind.UNAVAILABLE, f"{path} runs no guest code on this machine, not even with TCG")
    return Program(path, tuple(int(part) for part in version[1].split(".")), types, working)


async def _output(*argv: str) -> str:
    child = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(QUESTION_S):
            content, _ = await child.communicate()
    except TimeoutError:
        child.kill()
        await child.wait()
        raise ManorError(Kind.TIMEOUT, f"{argv[0]} did not answer within {QUESTION_S:g} s") from None
    return content.decode(errors="replace")
