"""Which columns each kind of thing is shown with, and the rows behind them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from manor_bus.wire.messages.lifecycle import DomainStatus, State
from manor_cli.render import View, count, number, whole

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
    """Show what of the document the running domain does not have yet, and when it will."""
    shown = (
        f"{one['path']}: {one['old'] or '-'} -> {one['new'] or '-'} ({one['applies']})"
        for one in changes or ()
    )
    return "; ".join(shown) or "-"


def problem(error: Any) -> str:
    """Show the error of an operation."""
    return f"{error['kind']}: {error['message']}" if error else "-"


DOMAINS: Final = View.of(
    "name state! conditions?~ node- hypervisor- cpus memory_mib uptime_s pending? reason?~"
    " uuid+ run+ revision+ incarnation+ devices+ operation+ restarts+",
    prefix="domain/",
    empty="no domains; describe one in a file and say: manor apply -f FILE",
    pending=count,
    devices=count,
)
NODES: Final = View.of(
    "name cpus memory_mib memory_free_mib accelerators hypervisors version conditions?~ labels+ boot_id+",
    prefix="node/",
    empty="no node is registered",
)
SERVICES: Final = View.of(
    "name instance pid ready! version node conditions?~ draining+ uptime_s+ address+",
    prefix="service/",
    empty="no service is attached to the bus",
)
PROVIDERS: Final = View.of(
    "name backend state! classes node epoch- in_use conditions?~ version+ reason?~",
    prefix="provider/",
    empty="no provider offers back ends",
)
RESOURCES: Final = View.of(
    "name type state! node conditions?~ reason?~", prefix="resource/", empty="no resource is registered"
)
OPERATIONS: Final = View.of(
    "id! kind target state! step~ progress created- error~ who+ ended+ reason+",
    name="id",
    empty="no operations",
    error=problem,
)
DEVICES: Final = View.of(
    "domain! id! type state! io? provider- reason?~ backend+ provider_epoch+ generation+",
    name="path",
    prefix="device/",
    empty="no devices are connected",
)
BACKENDS: Final = View.of(
    "name state! version- classes in_use epoch- reason?~",
    prefix="backend/",
    empty="no back ends are installed",
)
VOLUMES: Final = View.of(
    "name state! format- size_mib used_mib users~ reason?~ path+ uuid+",
    prefix="volume/",
    empty="no volumes; make one: manor volume create NAME --size 1G",
)
DOCUMENTS: Final = View.of(
    "kind name! revision modified modified_by~- labels~- uuid+ state+ pending+ reason+",
    name="path",
    empty="no documents",
    pending=pending,
)
HISTORY: Final = View.of(
    "revision at action name by~ reason~ diff~",
    name="revision",
    empty="no revisions are kept",
    diff=lambda diff: ", ".join(line["path"] for line in diff or ()) or "-",
)
CHANGES: Final = View.of("kind name action revision", name="path", empty="nothing to apply")
CREDENTIALS: Final = View.of(
    "principal public_key file~",
    name="principal",
    empty="no credentials; make the first ones: manor init",
)
PEERS: Final = View.of(
    "address pid version- received sent calls_pending calls_in_flight subscriptions connected_s"
    " serves+ owns+ where+ draining+",
    name="address",
    empty="nobody is attached",
    received=number,
    sent=number,
    calls_pending=number,
    calls_in_flight=number,
    subscriptions=number,
)
PENDING: Final = View.of(
    "to~ caller~ callee~ age_ms left_ms queued id+", name="id", empty="no calls are under way"
)
SUBSCRIPTIONS: Final = View.of(
    "address pattern~ policy sent dropped coalesced outstanding",
    name="address",
    empty="nobody watches",
    sent=number,
    dropped=number,
    coalesced=number,
    outstanding=number,
)


def domain_row(status: DomainStatus, now: float | None) -> dict[str, Any]:
    """Return all there is to say about a domain; `now` on its node's monotonic clock, None: unknown."""
    row: dict[str, Any] = whole(status)
    began = row.pop("began_s")
    running = began and status.state in LIVE
    row["uptime_s"] = 0.0 if not running else None if now is None else round(max(0.0, now - began), 3)
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
