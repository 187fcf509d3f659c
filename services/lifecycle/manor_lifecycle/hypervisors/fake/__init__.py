"""A hypervisor without guests: in memory, with one small file per domain so that runs outlive the service.

For the first five minutes, for tests and for benchmarks. It does as it is told: see `faults`.
"""

from __future__ import annotations

from manor_lifecycle.hypervisors import AdapterSettings, Hypervisor
from manor_lifecycle.hypervisors.fake.adapter import FakeHypervisor
from manor_lifecycle.hypervisors.fake.guest import Guest

__all__ = ["FakeHypervisor", "Guest", "open_hypervisor"]


async def open_hypervisor(settings: AdapterSettings) -> Hypervisor:
    """Open the fake hypervisor on its directory."""
    return FakeHypervisor(settings)
