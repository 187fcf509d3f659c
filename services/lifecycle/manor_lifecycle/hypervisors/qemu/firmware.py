"""Where this machine keeps UEFI firmware: the descriptions that all distributions install.

Format: QEMU, docs/interop/firmware.json; of several the first by file name that fits, as it says there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from manor_bus.wire.errors import bad_request
from manor_lifecycle.hypervisors.qemu.arguments import Firmware

FOLDERS: Final = (Path("/etc/qemu/firmware"), Path("/usr/share/qemu/firmware"))


def uefi(machine: str, folders: Sequence[Path] = FOLDERS) -> Firmware:
    """Return the firmware for a machine type, without secure boot. Raises `bad_request` without one."""
    files = {file.name: file for folder in reversed(folders) for file in folder.glob("*.json")}
    for name in sorted(files):
        try:
            description: dict[str, Any] = msgspec.json.decode(files[name].read_bytes(), type=dict[str, Any])
            if _fits(description, machine):
                mapping = description["mapping"]
                return Firmware(mapping["executable"]["filename"], mapping["nvram-template"]["filename"])
        except (OSError, msgspec.DecodeError, KeyError, TypeError):
            continue  # somebody else's file; the next one may do
    raise bad_request(
        f"no UEFI firmware for {machine} is installed",
        hint="Install the package ovmf, or use spec.boot.firmware: bios.",
    )


def _fits(description: dict[str, Any], machine: str) -> bool:
    mapping = description["mapping"]
    kind = "q35" if "q35" in machine else "i440fx"
    return (
        "uefi" in description["interface-types"]
        and mapping["device"] == "flash"
        and mapping["executable"]["format"] == "raw"
        and not {"secure-boot", "enrolled-keys", "requires-smm"} & set(description["features"])
        and any(
            target["architecture"] == "x86_64" and any(kind in one for one in target["machines"])
            for target in description["targets"]
        )
    )
