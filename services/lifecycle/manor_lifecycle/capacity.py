"""What this node has: its processors and memory, and the hypervisors that really work on it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from manor_bus import VERSION
from manor_bus.wire.messages.lifecycle import NodeStatus
from manor_lifecycle.hypervisors import Description

MIB: Final = 1024 * 1024
FREE_STEP_MIB: Final = 256  # free memory is told in such steps, so that it does not change all the time


def measure(
    node: str, boot_id: str, descriptions: Mapping[str, Description], labels: Mapping[str, str]
) -> NodeStatus:
    """Return the node's status as it is now."""
    page = os.sysconf("SC_PAGE_SIZE")
    free = os.sysconf("SC_AVPHYS_PAGES") * page // MIB
    accelerators = dict.fromkeys(a for found in descriptions.values() for a in found.accelerators)
    return NodeStatus(
        name=node,
        boot_id=boot_id,
        cpus=os.cpu_count() or 1,
        memory_mib=os.sysconf("SC_PHYS_PAGES") * page // MIB,
        memory_free_mib=free - free % FREE_STEP_MIB,
        accelerators=tuple(accelerators),
        hypervisors={name: found.version for name, found in descriptions.items()},
        version=VERSION,
        labels=dict(labels),
    )
