"""Identity of this machine's monotonic clock."""

from __future__ import annotations

from pathlib import Path


def boot_id() -> str:
    """Return the kernel's boot id: processes with the same one share CLOCK_MONOTONIC. Empty if unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
