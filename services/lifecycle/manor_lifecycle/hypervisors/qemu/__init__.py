"""QEMU: each guest is a process of its own that outlives the service and is found again by it."""

from __future__ import annotations

from manor_lifecycle.hypervisors import AdapterSettings, Hypervisor
from manor_lifecycle.hypervisors.qemu import options, program
from manor_lifecycle.hypervisors.qemu.adapter import QemuHypervisor


async def open_hypervisor(settings: AdapterSettings) -> Hypervisor:
    """Look at the installed QEMU, find the guests that run, and begin to watch them."""
    chosen = options.read(settings.options)
    found = await program.inspect(chosen.binary, chosen.accelerator, settings.directory)
    adapter = QemuHypervisor(settings, chosen, found)
    await adapter.begin()
    return adapter
