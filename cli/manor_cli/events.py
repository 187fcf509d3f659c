"""Show messages: one line for people, one CloudEvents-named JSON object for programs. Pure."""

from __future__ import annotations

import datetime
from typing import Any

from manor_bus.peer.events import Change
from manor_bus.wire import codec
from manor_bus.wire.envelope import Envelope, Kind
from manor_bus.wire.messages import Message
from manor_bus.wire.messages.bus import ServiceStatus
from manor_bus.wire.messages.catalogue import CALL_BY_TYPE, EVENT_BY_BODY, EVENT_BY_TYPE
from manor_bus.wire.messages.config import DocumentChanged
from manor_bus.wire.messages.consoles import ConsoleOutput
from manor_bus.wire.messages.devices import (
    BackendStatus,
    DeviceStatus,
    VolumeStatus,
)
from manor_bus.wire.messages.lifecycle import DomainStatus, NodeStatus, Operation
from manor_bus.wire.messages.providers import ProviderStatus, ResourceStatus
from manor_cli.render import as_json, clean, percent, whole
from manor_cli.views import problem


def moment(seconds: float) -> str:
    """Return seconds since 1970 as RFC 3339 in UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")


def cloud(change: Change, now: float) -> dict[str, Any]:
    """Return a change as a CloudEvents-named object; `data` is null when the object is gone."""
    value = change.value
    event = EVENT_BY_BODY.get(type(value)) if isinstance(value, Message) else None
    return {
        "specversion": "1.0",
        "id": f"{change.epoch}/{change.rev}",
        "source": change.sender,
        "type": event.type_name if event else "",
        "subject": change.subject,
        "time": moment(now),
        "k": Kind.PUB.name,
        "epoch": change.epoch,
        "rev": change.rev,
        "data": whole(value),
    }


def cloud_of(sender: str, wire: Envelope, now: float) -> dict[str, Any]:
    """Return a message as it passed as a CloudEvents-named object, the bus's own fields beside."""
    found = {
        "specversion": "1.0",
        "id": wire.id,
        "source": sender,
        "type": wire.type,
        "subject": wire.subject,
        "time": moment(wire.time or now),
        "k": Kind(wire.k).name,
        "to": wire.to,
        "re": wire.re,
        "timeout": wire.timeout,
        "idempotencykey": wire.idempotencykey,
        "epoch": wire.epoch,
        "rev": wire.rev,
        "err": whole(wire.err) if wire.err else None,
        "data": body(wire),
    }
    kept = ("specversion", "id", "source", "type", "subject", "time", "data")
    return {key: value for key, value in found.items() if value or key in kept}


def body(wire: Envelope) -> Any:
    """Return the data of a message as plain values, with all fields where its type is known."""
    if wire.data == codec.NIL:
        return None
    event, call = EVENT_BY_TYPE.get(wire.type), CALL_BY_TYPE.get(wire.type)
    if event is not None and wire.k == Kind.PUB:
        return whole(codec.decode(wire.data, event.body))
    if call is not None and wire.k == Kind.REQ:
        return whole(codec.decode(wire.data, call.request))
    return whole(codec.decode(wire.data, object))


def line(change: Change) -> str:
    """Return a change in one line for people."""
    if change.value is None:
        return f"{clean(change.subject)} gone"
    return f"{clean(change.subject)} {clean(summary(change.value))}"


def line_of(sender: str, wire: Envelope) -> str:
    """Return a message in one line for people."""
    told = f"{problem(whole(wire.err))}" if wire.err else as_json(body(wire), indent=0)
    return f"{Kind(wire.k).name:<6} {clean(sender)} -> {clean(wire.to or wire.subject)} {clean(told)}"


def summary(value: Any) -> str:
    """Say what an event is about, by its type."""
    match value:
        case DomainStatus():
            words = [value.name, value.state.value, f"generation {value.generation}", f"on {value.node}"]
            return " ".join([*words, *([f"({value.reason})"] if value.reason else [])])
        case NodeStatus():
            return f"{value.cpus} cpus, {value.memory_free_mib} of {value.memory_mib} MiB free"
        case ServiceStatus():
            return f"{'ready' if value.ready else 'not ready'} pid {value.pid} on {value.node}"
        case Operation():
            error = problem(whole(value.error)) if value.error else value.step
            return (
                f"{value.kind} {value.target} {value.state.value} {percent(value.progress)} {error}".rstrip()
            )
        case DeviceStatus():
            return f"{value.type} {value.state.value} generation {value.generation} {value.reason}".rstrip()
        case VolumeStatus() | BackendStatus() | ProviderStatus() | ResourceStatus():
            return f"{value.state} {value.reason}".rstrip()
        case DocumentChanged(document=document):
            return f"revision {document.metadata.revision} by {document.metadata.modified_by}"
        case ConsoleOutput():
            return f"{len(value.content)} bytes at {value.offset}"
        case _:
            return as_json(whole(value), indent=0)
