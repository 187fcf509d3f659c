"""What the kernel says about this machine's clocks and this process."""

from __future__ import annotations

import time
from pathlib import Path


def boot_id() -> str:
    """Return the kernel's boot id: processes with the same one share CLOCK_MONOTONIC. Empty if unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def since_boot() -> float:
    """Return the seconds since this boot, suspended time included: a clock that nobody sets."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def resident_kib() -> int:
    """Return how much memory this process has now."""
    import resource  # most commands never ask

    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() // 1024
