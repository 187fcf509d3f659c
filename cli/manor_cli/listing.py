"""What can be listed: for each kind its columns, and the rows that are there now."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from manor_cli import facts, views
from manor_cli.output import show
from manor_cli.render import View, whole

if TYPE_CHECKING:
    from manor_cli.app import App

Row = dict[str, Any]


def listed(app: App, kind: str, output: str) -> None:
    """Print all things of a kind."""
    view, rows = LISTS[kind]
    show(app, view, rows(app, ""), output)


def domains(app: App, selector: str) -> list[Row]:
    """Return the domains that have the labels of a selector."""
    found = facts.domains(app, selector=selector)
    return [views.domain_row(status, app.node_clock) for status in found]


def known(kind: facts.Fact) -> Callable[[App, str], list[Row]]:
    """Return what gives the rows of a kind of facts."""
    return lambda app, selector: [whole(entry.fact) for entry in facts.find(app, kind, selector=selector)]


def nodes(app: App, selector: str) -> list[Row]:
    """Return the nodes that are here, and without a selector those that are not and own domains."""
    from manor_cli import owners

    rows = known("node")(app, selector)
    absent = {} if selector else owners.elsewhere(app, {row["name"] for row in rows})
    blank = dict.fromkeys(rows[0] if rows else ())
    return rows + [
        {**blank, "name": name, "conditions": ["NOT HERE", f"OWNS {owners.domains(count).upper()}"]}
        for name, count in absent.items()
    ]


def volumes(app: App, _selector: str) -> list[Row]:
    """Return the volumes of this node."""
    from manor_bus.wire.messages.devices import VolumeList, VolumesListed

    return [whole(one) for one in app.call(VolumeList(), VolumesListed).volumes]


def devices(app: App, _selector: str, *, domain: str = "") -> list[Row]:
    """Return the connections, all or those of a domain."""
    from manor_bus.wire.messages.devices import DeviceList, DevicesListed

    return [views.device_row(one) for one in app.call(DeviceList(domain=domain), DevicesListed).devices]


def backends(app: App, _selector: str) -> list[Row]:
    """Return the back ends that are installed."""
    from manor_bus.wire.messages.devices import BackendList, BackendsListed

    return [whole(one) for one in app.call(BackendList(), BackendsListed).backends]


def operations(app: App, _selector: str, **asked: Any) -> list[Row]:
    """Return operations, newest first; `asked`: fields of the request."""
    from manor_bus.wire.messages.lifecycle import OperationList, OperationsListed

    return [whole(one) for one in app.call(OperationList(**asked), OperationsListed).operations]


LISTS: Final[dict[str, tuple[View, Callable[[App, str], list[Row]]]]] = {
    "domain": (views.DOMAINS, domains),
    "node": (views.NODES, nodes),
    "service": (views.SERVICES, known("service")),
    "provider": (views.PROVIDERS, known("provider")),
    "resource": (views.RESOURCES, known("resource")),
    "volume": (views.VOLUMES, volumes),
    "device": (views.DEVICES, devices),
    "backend": (views.BACKENDS, backends),
    "operation": (views.OPERATIONS, operations),
}
