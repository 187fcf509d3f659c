"""Stop the services that run on this machine, and with them what nobody answers for any more."""

from __future__ import annotations

from typing import Final

from manor_cli.app import App
from manor_cli.runner import present, systemd
from manor_host import processes
from manor_host.processes import Identity

GRACE_S: Final = 12.0  # a little more than the supervisor gives its children


def stop_everything(app: App, *, guests: bool) -> list[Identity]:
    """End who keeps the services, the services, the broker, and with `guests` what guests are left.

    It looks again until nothing is there: one may have been about to appear. Returns what survived.
    """
    directory = app.settings.directory
    if units := systemd.units(directory):
        systemd.act("stop", *(unit.name for unit in units.values()))
    while True:
        supervisor = present.supervisor(directory)
        survivors = processes.end([supervisor] if supervisor else [], 2 * GRACE_S)
        running = present.services(directory)
        broker = running.pop("bus", [])
        survivors += processes.end([one for found in running.values() for one in found], GRACE_S)
        survivors += processes.end(broker, GRACE_S)
        left = present.guests(directory) if guests else []
        if left:
            app.note(f"ending {len(left)} QEMU processes that were left")
        survivors += processes.end(left, GRACE_S)
        if survivors or not (supervisor or running or broker or left):
            return survivors
