"""Which accelerators of this machine really run guest code.

Opening /dev/kvm proves nothing: on some machines it opens, makes a virtual machine, and then interprets every
instruction, thousands of times slower than it should, or never gets a stock kernel past its first page. So a
small program (probe.S, beside this file) is run: it computes, enters long mode, takes timer interrupts in
user mode and makes system calls. An accelerator that is not through in a few seconds is of no use.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

import msgspec

from manor_host import clock, privileges
from manor_lifecycle.hypervisors.qemu import process
from manor_lifecycle.hypervisors.qemu.lending import in_memory

PROGRAM: Final = bytes.fromhex(
    "eb22669002b0ad1b00000100fe4f51e40400100000001000000000000000000000001000fafcbc00801100bf00001100b900"
    "30000031c0f3abc7050000110007101100c7050010110007201100bf00201100b887000000890783c70805000020003d8700"
    "004075efb8000011000f22d80f20e083c8200f22e0b9800000c00f320d010100000f300f20c00d010000800f22c00f0115e0"
    "011000eaa00010000800b8100000008ed88ec08ed048c704250450110000801100b8280000000f00d8b89601100066890425"
    "0042110066c7042502421100080066c7042504421100008ec1e81066890425064211000f011c25e6011000b011e620b020e6"
    "21b004e621b001e621b0fee621b034e643b0a9e640b004e640b9810000c031c0ba080013000f30b9820000c0b88801100031"
    "d20f30b9840000c0b8000200000f30e83700000031db6a1b6800a0110068020200006a23685701100048cfe81b0000000f05"
    "833c2500b011000572f481fbe803000072ecb8010000000f05b980969800ff042508b01100ffc975f5c385c07505ffc3480f"
    "07b010e6f4f450ff042500b01100b020e6205848cf0f1f00000000000000000000000000009a200000000000009200000000"
    "000000f200000000000000fa2000670000501189000000000000000000003700a80110000f020040110000000000"
)
DONE: Final = 33  # exit status that only the whole way through the program gives
# A real accelerator needs 0.1 s, an interpreter of instructions more than 10 s; TCG may find a busy machine.
BOUNDS_S: Final = {"kvm": 5.0, "tcg": 30.0}
NOBODY: Final = 65534  # guests do not run as root, so the probe does not either
FILE: Final = "accelerators.json"


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in this boot of the machine with this QEMU."""

    boot_id: str
    binary: str
    version: str
    works: tuple[str, ...]


async def accelerators(binary: str, version: str, directory: Path) -> tuple[str, ...]:
    """Return what works, best first; found out once for each boot and version."""
    file, boot = directory / FILE, clock.boot_id()
    try:
        known = msgspec.json.decode(file.read_bytes(), type=Findings)
        if (known.boot_id, known.binary, known.version) == (boot, binary, version):
            return known.works
    except (FileNotFoundError, msgspec.DecodeError):
        pass  # never asked, or not whole: ask again
    works = [name for name, bound in BOUNDS_S.items() if await runs(binary, name, bound)]
    found = Findings(boot_id=boot, binary=binary, version=version, works=tuple(works))
    if works:
        file.write_bytes(msgspec.json.encode(found))
    return found.works


async def runs(binary: str, accelerator: str, bound_s: float) -> bool:
    """Say whether the program comes through within the bound."""
    program = in_memory("probe", PROGRAM)
    argv = [binary, "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", "-m", "32"]
    argv += ["-accel", accelerator, "-cpu", "max", "-kernel", f"/dev/fd/{program}", "-no-reboot"]
    argv += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
    silence = os.open(os.devnull, os.O_WRONLY)
    uid = NOBODY if privileges.may(privileges.SETUID) else 0
    try:
        child = await process.launch(argv, [program], silence, uid, "")
    finally:
        os.close(program)
        os.close(silence)
    try:
        async with asyncio.timeout(bound_s):
            await child.ended.wait()
    except TimeoutError:
        return False
    finally:
        if not child.ended.is_set():
            child.kill()
            await child.ended.wait()
    return child.status == DONE
