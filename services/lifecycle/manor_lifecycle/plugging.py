"""The deeds about devices: connecting back ends, plugging and unplugging front ends. They decide nothing.

The keys of a run's devices carry the incarnation the run was created with, so a reset keeps them.
"""

from __future__ import annotations

import contextlib
from typing import Final

from manor_bus.wire.errors import Kind, ManorError
from manor_bus.wire.messages import Done
from manor_bus.wire.messages.devices import (
    Connect,
    Connected,
    Descriptor,
    Detach,
    DeviceKey,
    DomainGone,
    Refused,
    Released,
)
from manor_bus.wire.messages.documents import Channel, Disk, Nic
from manor_lifecycle.hypervisors import Attachment
from manor_lifecycle.life import Connection, Life, Work
from manor_lifecycle.means import Means
from manor_lifecycle.plan import LiveChange, Step, devices_of, type_of
from manor_lifecycle.reconcile import applied, without

CALL_TIMEOUT_S: Final = 12.0
GUEST_UNPLUG_S: Final = 10.0  # rule D5


def _key(life: Life, device: str) -> DeviceKey:
    return DeviceKey(uuid=life.uuid, incarnation=life.born, id=device)


async def connect(means: Means, life: Life, work: Work, step: Step) -> None:
    """Have the back end prepared; its descriptor is in `work` and its connection in `life` then."""
    device = next(d for d in devices_of(life.made_of) if d.id == step.device)
    request = Connect(
        key=_key(life, device.id),
        domain=life.name,
        type=type_of(device),
        disk=device if isinstance(device, Disk) else None,
        nic=device if isinstance(device, Nic) else None,
        channel=device if isinstance(device, Channel) else None,
        uid=means.record(life.uuid).uid,
    )
    key = f"{work.id}-{work.attempt}-{life.born}-{device.id}"
    descriptor = await means.peer.call(request, Descriptor, timeout=step.timeout_s - 2, key=key)
    work.descriptors[device.id] = descriptor
    life.connections[device.id] = Connection(device, descriptor.generation)


async def announce(means: Means, life: Life, work: Work, step: Step) -> None:
    """Say that the front end is attached."""
    descriptor = work.descriptors.get(step.device)
    if descriptor is not None:
        request = Connected(key=_key(life, step.device), generation=descriptor.generation)
        await means.peer.call(request, Done, timeout=CALL_TIMEOUT_S)


async def release(means: Means, life: Life, work: Work, step: Step) -> None:
    """Give one back end back."""
    connection = life.connections.get(step.device)
    key = _key(life, step.device)
    if connection is None:  # it was never connected: the run does not have it, and what there is of it goes
        _forget(life, step.device)
        await means.peer.call(Detach(key=key, mode="force"), Done, timeout=CALL_TIMEOUT_S)
        return
    request = Released(key=key, generation=connection.generation)
    try:
        await means.peer.call(request, Done, timeout=CALL_TIMEOUT_S)
    except ManorError as error:
        if error.kind is not Kind.STALE:  # then devices has released it already
            raise
    _forget(life, step.device)


def _forget(life: Life, device: str) -> None:
    life.connections.pop(device, None)
    life.refused.pop(device, None)
    if life.running is not None:
        life.running = without(life.running, device)


async def release_all(means: Means, life: Life, work: Work, step: Step) -> None:
    """Give all back ends of the run back; what cannot be told now is owed."""
    if not life.connections and not life.views and not devices_of(life.spec):
        return
    life.connections.clear()
    life.refused.clear()
    means.owed[life.uuid, life.born] = None
    await means.peer.call(DomainGone(uuid=life.uuid, incarnation=life.born), Done, timeout=CALL_TIMEOUT_S)
    means.owed.pop((life.uuid, life.born), None)


async def begin_detach(means: Means, life: Life, work: Work, step: Step) -> None:
    """Say that the guest is about to be asked."""
    await means.peer.call(Detach(key=_key(life, step.device)), Done, timeout=CALL_TIMEOUT_S)


async def force_detach(means: Means, life: Life, work: Work, step: Step) -> None:
    """Say that the guest will not be asked."""
    request = Detach(key=_key(life, step.device), mode="force")
    await means.peer.call(request, Done, timeout=CALL_TIMEOUT_S)


async def plug(means: Means, life: Life, work: Work, step: Step) -> None:
    """Attach the front end to the live run."""
    attachment = Attachment(life.connections[step.device].device, work.descriptors[step.device])
    await means.hypervisor(life).plug(life.run, attachment)
    if life.running is not None:
        change = LiveChange(type="plug", device=step.device)
        life.running = applied(life.running, life.spec, change)


async def unplug(means: Means, life: Life, work: Work, step: Step) -> None:
    """Ask the guest to let a device go; a refusal is passed on to devices, and remembered."""
    hypervisor = means.hypervisor(life)
    try:
        await hypervisor.unplug(life.run, step.device, force=False, timeout_s=GUEST_UNPLUG_S)
    except ManorError as refusal:
        if refusal.kind not in (Kind.DENIED_STATE, Kind.TIMEOUT):
            raise
        life.refused[step.device] = refusal.message
        connection = life.connections.get(step.device)
        request = Refused(
            key=_key(life, step.device),
            generation=connection.generation if connection else 0,
            reason=refusal.message,
            pending=True,
        )
        with contextlib.suppress(ManorError):  # devices finds the refusal by itself after its time limit
            await means.peer.call(request, Done, timeout=CALL_TIMEOUT_S / 2)
        raise


async def force_unplug(means: Means, life: Life, work: Work, step: Step) -> None:
    """Take a device away."""
    await means.hypervisor(life).unplug(life.run, step.device, force=True, timeout_s=GUEST_UNPLUG_S)
