"""Calls and events of the devices service: connections between front ends and back ends."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal

from manor_bus.wire.messages import Call, Done, Event, Message
from manor_bus.wire.messages.documents import Channel, Console, Disk, Nic


class ConnectionState(StrEnum):
    """The states of one connection (design page "Domain life cycle", section 2)."""

    ABSENT = "ABSENT"
    WAITING = "WAITING"  # no provider alive
    REQUESTED = "REQUESTED"
    PREPARING = "PREPARING"
    READY = "READY"
    CONNECTING = "CONNECTING"
    CONNECTED = "CONNECTED"
    CLOSING = "CLOSING"
    CLOSED = "CLOSED"
    REFUSED = "REFUSED"
    DETACH_PENDING = "DETACH_PENDING"
    BROKEN = "BROKEN"
    ORPHANED = "ORPHANED"
    FAILED = "FAILED"


class DeviceKey(Message, frozen=True, kw_only=True):
    """Which device of which run of which domain."""

    uuid: str  # of the domain
    incarnation: int
    id: str


class Descriptor(Message, frozen=True, kw_only=True):
    """How a front end reaches its prepared back end.

    `type` and `args` are a contract between back ends and hypervisor adapters:
    file {path, format, readonly, cache, discard}; nbd {path (unix socket) | host, port, export, reconnect_s,
    readonly};
    tap {ifname, vhost}; user {cidr}; console {}; channel {path}; fake {}.
    """

    type: Literal["file", "nbd", "tap", "user", "console", "channel", "fake"]
    args: dict[str, str | int | bool] = {}
    provider: str = ""
    provider_epoch: int = 0
    generation: int = 0


class Connect(Message, frozen=True, kw_only=True):
    """Prepare the back end of a device; repeated with the same key it answers the same descriptor.

    `uid` owns the domain's process on this node (0 = the service's own user): files are made accessible to
    it. A document on its way and a volume being made are waited for within the call's budget; for an absent
    provider nobody waits: the answer is `unavailable`, and `device.*` says WAITING until it comes. A detach
    withdraws a connect that is under way.
    """

    key: DeviceKey
    domain: str
    type: Literal["disk", "nic", "channel", "console"]
    disk: Disk | None = None  # exactly the one that `type` names is there
    nic: Nic | None = None
    channel: Channel | None = None
    console: Console | None = None
    uid: int = 0

    @property
    def device(self) -> Disk | Nic | Channel | Console | None:
        """The device itself; None when the sender left it out, which is a bad request."""
        by_type = {"disk": self.disk, "nic": self.nic, "channel": self.channel, "console": self.console}
        return by_type[self.type]


class Connected(Message, frozen=True, kw_only=True):
    """The front end is attached to the descriptor of this generation."""

    key: DeviceKey
    generation: int


class Detach(Message, frozen=True, kw_only=True):
    """A detach begins. `safe` waits for the guest; `force` does not. `generation`: of the connection that is
    meant, 0 for whatever there is; one that is over by now is answered `stale`.
    """

    key: DeviceKey
    mode: Literal["safe", "force"] = "safe"
    generation: int = 0


class Refused(Message, frozen=True, kw_only=True):
    """The guest refused a safe detach. `pending`: let it complete when the guest lets go later."""

    key: DeviceKey
    generation: int
    reason: str
    pending: bool = False


class Released(Message, frozen=True, kw_only=True):
    """The front end is gone: the back end releases its resource. Repeating it is harmless."""

    key: DeviceKey
    generation: int


class DomainGone(Message, frozen=True, kw_only=True):
    """A run of a domain ended: all its connections are closed by force. Repeating it is harmless."""

    uuid: str
    incarnation: int


class DeviceStatus(Message, frozen=True, kw_only=True):
    """State of one connection under `device.<domain>.<id>`."""

    key: DeviceKey
    domain: str
    type: Literal["disk", "nic", "channel", "console"]
    state: ConnectionState
    generation: int
    provider: str = ""
    provider_epoch: int = 0
    reason: str = ""
    descriptor: Descriptor | None = None


class DeviceList(Message, frozen=True, kw_only=True):
    """Ask for connections, of one domain (name or uuid) or all."""

    domain: str = ""


class DevicesListed(Message, frozen=True, kw_only=True):
    """Connections, sorted by domain and id."""

    devices: tuple[DeviceStatus, ...]


class BackendStatus(Message, frozen=True, kw_only=True):
    """State of one loadable back end under `backend.<name>`."""

    name: str
    state: Literal["available", "loading", "loaded", "unloading", "failed"]
    version: str = ""
    epoch: int = 0
    classes: tuple[str, ...] = ()
    in_use: int = 0
    reason: str = ""


class BackendList(Message, frozen=True, kw_only=True):
    """Ask for all back ends that are installed on this node."""


class BackendsListed(Message, frozen=True, kw_only=True):
    """Back ends by name."""

    backends: tuple[BackendStatus, ...]


class BackendLoad(Message, frozen=True, kw_only=True):
    """Load a back end; already loaded: nothing changes."""

    name: str


class BackendUnload(Message, frozen=True, kw_only=True):
    """Unload a back end; refused with `denied_state` while in use (naming by whom) unless `force`,
    which orphans its connections until it is loaded again."""

    name: str
    force: bool = False


class VolumeStatus(Message, frozen=True, kw_only=True):
    """State of one volume under `volume.<name>`."""

    name: str
    uuid: str
    state: Literal["creating", "ready", "resizing", "deleting", "failed"]
    path: str = ""
    format: str = ""
    size_mib: int = 0
    used_mib: int = 0
    revision: int = 0
    reason: str = ""
    users: tuple[str, ...] = ()


class VolumeList(Message, frozen=True, kw_only=True):
    """Ask for all volumes of this node."""


class VolumesListed(Message, frozen=True, kw_only=True):
    """Volumes by name."""

    volumes: tuple[VolumeStatus, ...]


CALLS: Final = (
    Call("devices.device.connect", Connect, Descriptor, changes=True),
    Call("devices.device.connected", Connected, Done, changes=True),
    Call("devices.device.detach", Detach, Done, changes=True),
    Call("devices.device.refused", Refused, Done, changes=True),
    Call("devices.device.released", Released, Done, changes=True),
    Call("devices.domain.gone", DomainGone, Done, changes=True),
    Call("devices.device.list", DeviceList, DevicesListed),
    Call("devices.backend.list", BackendList, BackendsListed),
    Call("devices.backend.load", BackendLoad, BackendStatus, changes=True),
    Call("devices.backend.unload", BackendUnload, BackendStatus, changes=True),
    Call("devices.volume.list", VolumeList, VolumesListed),
)
EVENTS: Final = (
    Event(("device.*.*",), DeviceStatus, "devices", "devices.device"),
    Event(("backend.*",), BackendStatus, "devices", "devices.backend"),
    Event(("volume.*",), VolumeStatus, "devices", "devices.volume"),
)
