"""Which columns each kind of thing is shown with, and the rows behind them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from manor_bus.wire.errors import ErrorBody
from manor_bus.wire.messages.lifecycle import DomainStatus, Operation, PendingChange, State
from manor_cli.render import Column, View, duration, mebibytes, moment, percent, whole

if TYPE_CHECKING:
    from manor_bus.wire.messages.devices import DeviceStatus
    from manor_bus.wire.messages.documents import AnyDocument

LIVE: Final = frozenset(State) - {
    State.DEFINED,
    State.SUSPENDED,
    State.DELETED,
    State.FAILED,
    State.FOREIGN,
    State.LOST,
}


def pending(changes: Any) -> str:
    """Show what of the document the running domain does not have yet."""
    return (
        "; ".join(f"{one['path']}: {one['old'] or '-'} -> {one['new'] or '-'}" for one in changes or ())
        or "-"
    )


def count(items: Any) -> str:
    """Show how many there are; none is a dash."""
    return str(len(items)) if items else "-"


def problem(error: Any) -> str:
    """Show the error of an operation."""
    return f"{error['kind']}: {error['message']}" if error else "-"


def number(value: Any) -> str:
    """Show a whole number; none is a dash, zero is zero."""
    return "-" if value is None else f"{value:g}"


def seconds(value: Any) -> str:
    """Show a length of time; zero is a dash."""
    return duration(value) if value else "-"


DOMAINS: Final = View(
    (
        Column("NAME", "name"),
        Column("STATE", "state"),
        Column("GEN", "generation"),
        Column("NODE", "node"),
        Column("HYPERVISOR", "hypervisor"),
        Column("CPUS", "cpus"),
        Column("MEMORY", "memory_mib", mebibytes),
        Column("UPTIME", "uptime_s", seconds),
        Column("PENDING", "pending", count),
        Column("UUID", "uuid", wide=True),
        Column("RUN", "run", wide=True),
        Column("REVISION", "revision", wide=True),
        Column("INCARNATION", "incarnation", wide=True),
        Column("DEVICES", "devices", count, wide=True),
        Column("OPERATION", "operation", wide=True),
        Column("REASON", "reason", wide=True),
    ),
    prefix="domain/",
    empty="no domains; describe one in a file and say: manor apply -f FILE",
)
NODES: Final = View(
    (
        Column("NAME", "name"),
        Column("CPUS", "cpus"),
        Column("MEMORY", "memory_mib", mebibytes),
        Column("FREE", "memory_free_mib", mebibytes),
        Column("ACCELERATORS", "accelerators"),
        Column("HYPERVISORS", "hypervisors"),
        Column("VERSION", "version"),
        Column("LABELS", "labels", wide=True),
        Column("BOOT", "boot_id", wide=True),
    ),
    prefix="node/",
    empty="no node is registered",
)
SERVICES: Final = View(
    (
        Column("NAME", "name"),
        Column("INSTANCE", "instance"),
        Column("PID", "pid"),
        Column("READY", "ready"),
        Column("VERSION", "version"),
        Column("NODE", "node"),
        Column("DRAINING", "draining", wide=True),
        Column("UPTIME", "uptime_s", seconds, wide=True),
        Column("ADDRESS", "address", wide=True),
    ),
    prefix="service/",
    empty="no service is attached to the bus",
)
PROVIDERS: Final = View(
    (
        Column("NAME", "name"),
        Column("BACKEND", "backend"),
        Column("STATE", "state"),
        Column("CLASSES", "classes"),
        Column("NODE", "node"),
        Column("EPOCH", "epoch"),
        Column("IN USE", "in_use"),
        Column("VERSION", "version", wide=True),
        Column("REASON", "reason", wide=True),
    ),
    prefix="provider/",
    empty="no provider offers back ends",
)
RESOURCES: Final = View(
    (
        Column("NAME", "name"),
        Column("TYPE", "type"),
        Column("STATE", "state"),
        Column("NODE", "node"),
        Column("REASON", "reason"),
    ),
    prefix="resource/",
    empty="no resource is registered",
)
OPERATIONS: Final = View(
    (
        Column("ID", "id"),
        Column("KIND", "kind"),
        Column("TARGET", "target"),
        Column("STATE", "state"),
        Column("STEP", "step"),
        Column("PROGRESS", "progress", percent),
        Column("CREATED", "created", moment),
        Column("ERROR", "error", problem),
        Column("WHO", "who", wide=True),
        Column("ENDED", "ended", moment, wide=True),
        Column("REASON", "reason", wide=True),
    ),
    name="id",
    prefix="operation/",
    empty="no operations",
)
DEVICES: Final = View(
    (
        Column("DOMAIN", "domain"),
        Column("ID", "id"),
        Column("TYPE", "type"),
        Column("STATE", "state"),
        Column("PROVIDER", "provider"),
        Column("GEN", "generation"),
        Column("REASON", "reason"),
        Column("BACK END", "backend", wide=True),
        Column("EPOCH", "provider_epoch", wide=True),
    ),
    name="path",
    prefix="device/",
    empty="no devices are connected",
)
BACKENDS: Final = View(
    (
        Column("NAME", "name"),
        Column("STATE", "state"),
        Column("VERSION", "version"),
        Column("CLASSES", "classes"),
        Column("IN USE", "in_use"),
        Column("EPOCH", "epoch"),
        Column("REASON", "reason"),
    ),
    prefix="backend/",
    empty="no back ends are installed",
)
VOLUMES: Final = View(
    (
        Column("NAME", "name"),
        Column("STATE", "state"),
        Column("FORMAT", "format"),
        Column("SIZE", "size_mib", mebibytes),
        Column("USED", "used_mib", mebibytes),
        Column("USERS", "users"),
        Column("REASON", "reason"),
        Column("PATH", "path", wide=True),
        Column("UUID", "uuid", wide=True),
    ),
    prefix="volume/",
    empty="no volumes; make one: manor volume create NAME --size 1G",
)
DOCUMENTS: Final = View(
    (
        Column("KIND", "kind"),
        Column("NAME", "name"),
        Column("REVISION", "revision"),
        Column("MODIFIED", "modified", moment),
        Column("BY", "modified_by"),
        Column("LABELS", "labels"),
        Column("UUID", "uuid", wide=True),
        Column("STATE", "state", wide=True),
        Column("PENDING", "pending", pending, wide=True),
        Column("REASON", "reason", wide=True),
    ),
    name="path",
    empty="no documents",
)
HISTORY: Final = View(
    (
        Column("REVISION", "revision"),
        Column("AT", "at", moment),
        Column("ACTION", "action"),
        Column("NAME", "name"),
        Column("BY", "by"),
        Column("REASON", "reason"),
        Column("CHANGES", "diff", lambda diff: ", ".join(line["path"] for line in diff or ()) or "-"),
    ),
    name="revision",
    empty="no revisions are kept",
)
CHANGES: Final = View(
    (
        Column("KIND", "kind"),
        Column("NAME", "name"),
        Column("ACTION", "action"),
        Column("REVISION", "revision"),
    ),
    name="path",
    empty="nothing to apply",
)
CREDENTIALS: Final = View(
    (Column("PRINCIPAL", "principal"), Column("PUBLIC KEY", "public_key"), Column("KEY FILE", "file")),
    name="principal",
    empty="no credentials; make the first ones: manor init",
)
PEERS: Final = View(
    (
        Column("ADDRESS", "address"),
        Column("PID", "pid"),
        Column("VERSION", "version"),
        Column("RECEIVED", "received", number),
        Column("SENT", "sent", number),
        Column("MADE", "calls_pending", number),
        Column("IN FLIGHT", "calls_in_flight", number),
        Column("SUBS", "subscriptions", number),
        Column("SINCE", "connected_s", duration),
        Column("SERVES", "serves", wide=True),
        Column("OWNS", "owns", wide=True),
        Column("WHERE", "where", wide=True),
        Column("DRAINING", "draining", wide=True),
    ),
    name="address",
    empty="nobody is attached",
)
PENDING: Final = View(
    (
        Column("TO", "to"),
        Column("CALLER", "caller"),
        Column("CALLEE", "callee"),
        Column("AGE", "age_ms", lambda ms: duration(ms / 1000)),
        Column("LEFT", "left_ms", lambda ms: duration(ms / 1000)),
        Column("QUEUED", "queued"),
        Column("ID", "id", wide=True),
    ),
    name="id",
    empty="no calls are under way",
)
SUBSCRIPTIONS: Final = View(
    (
        Column("ADDRESS", "address"),
        Column("PATTERN", "pattern"),
        Column("POLICY", "policy"),
        Column("SENT", "sent", number),
        Column("DROPPED", "dropped", number),
        Column("COALESCED", "coalesced", number),
        Column("OUTSTANDING", "outstanding", number),
    ),
    name="address",
    empty="nobody watches",
)


def domain_row(status: DomainStatus, now: float) -> dict[str, Any]:
    """Return everything there is to say about a domain; `now` in seconds since 1970."""
    running = status.started and status.state in LIVE
    row: dict[str, Any] = whole(status)
    row["uptime_s"] = round(max(0.0, now - status.started), 3) if running else 0.0
    return row


def service_row(
    name: str, instance: str, node: str, *, pid: int, ready: bool, version: str, **more: Any
) -> dict[str, Any]:
    """Return one running instance as the contract of `manor service list` names it."""
    return {
        "name": name,
        "instance": instance,
        "pid": pid,
        "ready": ready,
        "version": version,
        "node": node,
        **more,
    }


def operation_row(operation: Operation) -> dict[str, Any]:
    """Return one operation, its error with all fields or null."""
    return dict(whole(operation))


def error_of(body: ErrorBody | None) -> str:
    """Show an error in one line."""
    return problem(whole(body)) if body else ""


def pending_lines(changes: Iterable[PendingChange]) -> list[str]:
    """Show each change that waits for the next start in a line."""
    return [f"{one.path}: {one.old or '-'} -> {one.new or '-'} ({one.applies})" for one in changes]


def document_row(document: AnyDocument) -> dict[str, Any]:
    """Return the metadata of a document with its kind; `path` is `kind/name`."""
    kind = type(document).__name__
    return {"kind": kind, "path": f"{kind.lower()}/{document.metadata.name}", **whole(document.metadata)}


def device_row(device: DeviceStatus) -> dict[str, Any]:
    """Return one connection; `path` is `domain/id`."""
    backend = device.descriptor.type if device.descriptor else ""
    return {
        **whole(device),
        "path": f"{device.domain}/{device.key.id}",
        "id": device.key.id,
        "backend": backend,
    }
