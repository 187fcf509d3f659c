"""What devices tells of the connections of a domain, and what is due for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from manor_bus.wire.messages.devices import ConnectionState, DeviceStatus
from manor_bus.wire.messages.lifecycle import State
from manor_lifecycle import machine
from manor_lifecycle.life import Connection, Life
from manor_lifecycle.machine import Trigger
from manor_lifecycle.plan import Arguments, LiveChange

if TYPE_CHECKING:
    from manor_lifecycle.domains import Domains

NOT_CONNECTED: Final = frozenset(
    {ConnectionState.ABSENT, ConnectionState.CLOSED, ConnectionState.CLOSING, ConnectionState.FAILED}
)


def told(domains: Domains, domain: str, device: str, status: DeviceStatus | None) -> None:
    """Take that a connection changed its state, or is gone (None)."""
    if status is None:
        life = domains.by_uuid.get(domains.uuids.get(domain, ""))
        if life is not None and life.views.pop(device, None) is not None:
            domains.changed(life)
        return
    life = domains.by_uuid.get(status.key.uuid)
    if life is None or life.state is State.FOREIGN:
        return
    life.views[device] = status
    domains.changed(life)
    if life.guest is None:
        if not life.works and status.state not in NOT_CONNECTED:
            domains.means.owed[life.uuid, status.key.incarnation] = None
        return
    _follow(domains, life, device, status)


def _follow(domains: Domains, life: Life, device: str, status: DeviceStatus) -> None:
    connection = life.connections.get(device)
    if connection is None or status.key.incarnation != life.born:
        return
    if connection.generation == 0:  # adopted after a restart
        life.connections[device] = Connection(connection.device, status.generation)
        return
    kind = None
    if status.state is ConnectionState.READY and status.generation > connection.generation:
        changes = (LiveChange(type="reconnect", device=device),)
        kind, arguments = "configure", Arguments(changes=changes)
    elif status.state is ConnectionState.BROKEN:
        kind, arguments = "unplug", Arguments(device=device, force=True)
    if kind is not None and not any(w.arguments == arguments for w in life.works):
        if machine.knows(life.state, Trigger(kind)):
            domains.internal(life, kind, arguments, status.reason or f"device {device} is {status.state}")
            domains.driver.wake(life)
    elif status.state is ConnectionState.CONNECTED:
        life.connections[device] = Connection(connection.device, status.generation)
