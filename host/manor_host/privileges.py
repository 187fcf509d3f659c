"""What this process may beyond other users: capabilities, which others than root may have.

Source: capabilities(7), prctl(2).
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Final

STATUS: Final = Path("/proc/self/status")
SETUID: Final = 7  # to start processes as other users; Linux, include/uapi/linux/capability.h
NET_ADMIN: Final = 12
_AMBIENT, _CLEAR_ALL = 47, 4  # Linux, include/uapi/linux/prctl.h


def may(capability: int) -> bool:
    """Say whether this process has a capability in effect."""
    status = STATUS.read_text(encoding="ascii", errors="replace")
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> capability & 1)


def keep() -> None:
    """Keep what a unit of systemd gave us to ourselves: programs started from now on have none of it.

    To be called before the process has a second thread.
    """
    ctypes.CDLL(None).prctl(_AMBIENT, _CLEAR_ALL, 0, 0, 0)
