"""What `look` says about each sort of guest."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from manor_host.processes import up_for
from manor_lifecycle.hypervisors import Activity, Cause, Run, SeenDevice, SeenRun
from manor_lifecycle.hypervisors.qemu import events
from manor_lifecycle.hypervisors.qemu.guest import Guest
from manor_lifecycle.hypervisors.qemu.record import Record, ids, spec_now


def living(guest: Guest) -> SeenRun:
    """Return a guest as it was when it last said so."""
    record, (activity, cause) = guest.record, guest.last
    silent_for_s = asyncio.get_running_loop().time() - guest.answered
    features = guest.site.program.features(record.machine)
    if record.ended is not None:
        return replace(over(record), features=features, silent_for_s=silent_for_s)
    io = {**{one.device: one.io for one in record.troubles if one.device}, **guest.io}
    return replace(
        over(record),
        activity=activity,
        cause=events.with_troubles(cause, record.troubles, io),
        devices=tuple(SeenDevice(one, io.get(one, "ok")) for one in ids(record)),
        uptime_s=up_for(record.started_ticks),
        features=features,
        silent_for_s=silent_for_s,
    )


def over(record: Record) -> SeenRun:
    """Return a run that ended."""
    return SeenRun(
        run=Run(record.uuid, record.incarnation),
        born=record.born or record.incarnation,
        name=record.name,
        activity=Activity.ENDED,
        cause=Cause(detail=record.detail),
        spec=spec_now(record),
        devices=tuple(SeenDevice(one) for one in ids(record)),
        cpus=record.cpus,
        memory_mib=record.memory_mib,
        started=record.created,
        uptime_s=record.lasted_s,
        end=record.ended,
        end_detail=record.detail,
    )
