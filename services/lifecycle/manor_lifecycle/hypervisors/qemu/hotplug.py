"""Devices and processors that come and go while the guest lives."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, Final

import msgspec

from manor_bus.wire.errors import Kind, ManorError, Problem, bad_request, denied_state, not_found
from manor_bus.wire.messages.devices import Descriptor
from manor_bus.wire.messages.documents import Disk
from manor_lifecycle.hypervisors import Attachment, Changed
from manor_lifecycle.hypervisors.qemu import frontends, wiring
from manor_lifecycle.hypervisors.qemu.birth import explained, pin
from manor_lifecycle.hypervisors.qemu.frontends import Command, Reach
from manor_lifecycle.hypervisors.qemu.guest import Guest
from manor_lifecycle.hypervisors.qemu.monitor import Refusal
from manor_lifecycle.hypervisors.qemu.record import Plugged, added, find, relinked, removed, replaced
from manor_lifecycle.hypervisors.seen import Feature

FORCE_WAIT_S: Final = 1.0  # what a forced unplug gives the guest before it takes the back end away
RECONNECT_S: Final = 15.0  # for a guest to let a device go that must be plugged anew
CPU_ANSWER_S: Final = 15.0
CPU_LOOK_S: Final = 0.1


async def plug(guest: Guest, attachment: Attachment) -> None:
    """Attach a device, or give an attached one its new back end."""
    device = attachment.device
    there = find(guest.record, device.id)
    if there is not None:
        if attachment.descriptor.generation <= there.descriptor.generation:
            return
        if isinstance(device, Disk):
            return await _reconnect(guest, there, attachment.descriptor)
        await unplug(guest, device.id, force=False, timeout_s=RECONNECT_S)
    if reason := frontends.hot(guest.record, device):
        problem = Problem(path=f"{type(device).__name__.lower()}s[{device.id}]", reason=reason)
        raise bad_request(f"{device.id} cannot be attached to {guest.record.name} now", problem)
    record, plugged = added(guest.record, attachment)
    guest.keep(record)
    with contextlib.ExitStack() as files:
        try:
            looked_at = await _lend(guest, plugged, files)
            await _do(guest, frontends.attach(record, plugged, looked_at))
        except BaseException:
            await asyncio.shield(_take_back(guest, plugged))
            raise


async def unplug(guest: Guest, device: str, *, force: bool, timeout_s: float) -> None:
    """Detach a device; see `Hypervisor.unplug`."""
    plugged = find(guest.record, device)
    if plugged is None:
        return
    reason = frontends.hot(guest.record, plugged.device)
    if not force and reason:
        raise bad_request(f"{device} cannot be detached from {guest.record.name}: {reason}")
    answer = asyncio.get_running_loop().create_future()
    guest.unplugs[plugged.number] = answer
    try:
        gone = await _request(guest, plugged, answer, min(timeout_s, FORCE_WAIT_S) if force else timeout_s)
    finally:
        del guest.unplugs[plugged.number]
    if gone:
        return
    if force:
        return await _cut_off(guest, plugged)
    if gone is None:
        message = f"{guest.record.name} has not let {device} go within {timeout_s:g} s"
        raise ManorError(Kind.TIMEOUT, message, hint="It may do so later; detach by force if it must be now.")
    raise denied_state(f"{guest.record.name} refused to let {device} go", hint="Unmount it in the guest.")


async def _request(
    guest: Guest, plugged: Plugged, answer: asyncio.Future[bool], wait_s: float
) -> bool | None:
    """Ask the guest to let a device go: True, False (it refused), or None (no answer in time)."""
    with contextlib.suppress(
        Refusal
    ):  # asked before, or its place has no hot plug: what matters is the answer
        await guest.monitor.ask("device_del", {"id": frontends.front_end(plugged)})
    over = asyncio.ensure_future(guest.process.ended.wait())
    try:
        await asyncio.wait((answer, over), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        over.cancel()
    if not answer.done():
        guest.demand_life()
        return None
    return answer.result()


async def _cut_off(guest: Guest, plugged: Plugged) -> None:
    """Take the back end from a front end that the guest does not let go; the guest sees errors."""
    if plugged.disk is not None:
        await _reconnect(guest, plugged, None)
        plugged = next(one for one in guest.record.plugged if one.number == plugged.number)
    else:
        await guest.undo(frontends.release_link(plugged))
    guest.learn(replaced(guest.record, msgspec.structs.replace(plugged, gone=True)))


async def _reconnect(guest: Guest, plugged: Plugged, descriptor: Descriptor | None) -> None:
    """Give a disk another back end, below a front end that stays; None: one where every request fails."""
    if descriptor is not None and _same_file(descriptor, plugged.descriptor):
        guest.keep(replaced(guest.record, msgspec.structs.replace(plugged, descriptor=descriptor)))
        return
    record, changed = relinked(guest.record, plugged, descriptor or plugged.descriptor)
    assert plugged.disk is not None
    if descriptor is None:
        commands = frontends.dead_end(changed, await _size(guest, plugged))
    else:
        with contextlib.ExitStack() as files:
            looked_at, _ = await wiring.reach(guest.site, changed, files)
        commands = frontends.disk_nodes(changed, plugged.disk, looked_at)
    try:
        await _do(guest, [*commands, frontends.redirect(changed)])
    except BaseException:
        await asyncio.shield(guest.undo(frontends.release_link(changed)))
        raise
    guest.learn(record)
    await guest.undo(frontends.release_link(plugged))


def _same_file(one: Descriptor, other: Descriptor) -> bool:
    """A file has no server that could come back as another; to open it twice would only break its lock."""
    return one.type == other.type == "file" and one.args == other.args


async def _size(guest: Guest, plugged: Plugged) -> int:
    for node in await guest.ask("query-named-block-nodes", {"flat": True}):
        if node["node-name"] == f"t{plugged.number}":
            return int(node["image"]["virtual-size"])
    raise not_found(f"QEMU of {guest.record.name} has no node for {plugged.device.id}")


async def _lend(guest: Guest, plugged: Plugged, files: contextlib.ExitStack) -> Reach:
    """Look at a back end and hand over the descriptors it takes, under names."""
    looked_at, descriptors = await wiring.reach(guest.site, plugged, files)
    for descriptor in descriptors:
        await guest.ask("getfd", {"fdname": f"fd{plugged.number}-{descriptor}"}, lend=descriptor)
    named = {str(descriptor): f"fd{plugged.number}-{descriptor}" for descriptor in descriptors}
    return Reach(
        direct=looked_at.direct,
        taps=tuple(named[one] for one in looked_at.taps),
        vhosts=tuple(named[one] for one in looked_at.vhosts),
    )


async def _do(guest: Guest, commands: list[Command]) -> None:
    for command, arguments in commands:
        try:
            await guest.monitor.ask(command, arguments)
        except Refusal as refusal:
            raise await explained(guest.record, f"{json.dumps(arguments)}: {refusal}") from None


async def _take_back(guest: Guest, plugged: Plugged) -> None:
    front: Command = ("device_del", {"id": frontends.front_end(plugged)})
    await guest.undo([front, *frontends.release(plugged)])
    guest.learn(removed(guest.record, plugged.number))


# --- processors -------------------------------------------------------------------------------------------


async def set_cpus(guest: Guest, count: int) -> None:
    """Add or remove virtual processors until there are `count`."""
    record, spec = guest.record, guest.record.spec.cpu
    most = max(spec.max or 0, spec.count)
    if not 1 <= count <= most:
        raise bad_request(f"{record.name} can have 1 to {most} processors, not {count}")
    needed = Feature.CPU_PLUG if count > record.cpus else Feature.CPU_UNPLUG
    if count != record.cpus and needed not in guest.site.program.features(record.machine):
        fewer = "more" if count > record.cpus else "fewer"
        machine = f"{record.machine} of QEMU {guest.site.program.version_text} under {record.accelerator}"
        raise bad_request(f"{record.name} cannot have {fewer} processors now: {machine} has no {needed}")
    while guest.record.cpus < count:
        await _add_cpu(guest)
    while guest.record.cpus > count:
        await _remove_cpu(guest)
    await pin(guest)
    guest.site.say(Changed(record.uuid))


async def _add_cpu(guest: Guest) -> None:
    places: list[dict[str, Any]] = await guest.ask("query-hotpluggable-cpus")
    free = [place for place in places if "qom-path" not in place][-1]
    name = f"cpu{guest.record.cpus}"
    async with guest.changing(cpus=guest.record.cpus + 1):
        await guest.ask("device_add", {"driver": free["type"], "id": name, **free["props"]})


async def _remove_cpu(guest: Guest) -> None:
    name = f"cpu{guest.record.cpus - 1}"
    await guest.ask("device_del", {"id": name})
    try:
        async with asyncio.timeout(CPU_ANSWER_S):
            await _until_cpu_gone(guest, f"/{name}")
    except TimeoutError:
        message = f"{guest.record.name} has not let processor {name} go within {CPU_ANSWER_S:g} s"
        raise ManorError(Kind.TIMEOUT, message, hint="It may be busy; repeat it later.") from None
    guest.learn(msgspec.structs.replace(guest.record, cpus=guest.record.cpus - 1))


async def _until_cpu_gone(guest: Guest, path_end: str) -> None:
    while True:
        places = await guest.ask("query-hotpluggable-cpus")
        if not any(place.get("qom-path", "").endswith(path_end) for place in places):
            return
        await asyncio.sleep(CPU_LOOK_S)
