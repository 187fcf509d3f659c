"""Calls and events of the discovery service: who is there now."""

from __future__ import annotations

from typing import Final, Literal

from manor_bus.wire.messages import Call, Event, Message
from manor_bus.wire.messages.lifecycle import DomainStatus


class NodeStatus(Message, frozen=True, kw_only=True, tag_field="kind", tag="node"):
    """A node: its capacity and what really works on it."""

    name: str
    boot_id: str = ""
    cpus: int = 0
    memory_mib: int = 0
    memory_free_mib: int = 0
    accelerators: tuple[str, ...] = ()  # those that ran guest code: `kvm`, `tcg`
    hypervisors: dict[str, str] = {}  # adapter -> version
    version: str = ""
    labels: dict[str, str] = {}


class ServiceStatus(Message, frozen=True, kw_only=True, tag_field="kind", tag="service"):
    """One running instance of a service."""

    name: str  # `<service>.<instance>`
    service: str
    instance: str
    node: str
    pid: int
    version: str
    ready: bool = True
    labels: dict[str, str] = {}


class ProviderStatus(Message, frozen=True, kw_only=True, tag_field="kind", tag="provider"):
    """Who offers back ends of a class, and since which epoch."""

    name: str
    backend: str
    node: str
    epoch: int
    classes: tuple[str, ...] = ()  # `disk`, `nic`, `console`, `channel`
    state: Literal["ready", "loading", "failed", "unloading"] = "ready"
    reason: str = ""
    version: str = ""
    in_use: int = 0
    labels: dict[str, str] = {}


class ResourceStatus(Message, frozen=True, kw_only=True, tag_field="kind", tag="resource"):
    """Anything else that can be used: a volume's file, a bridge."""

    name: str
    node: str
    type: str = ""
    state: str = ""
    reason: str = ""
    labels: dict[str, str] = {}


class DomainFact(Message, frozen=True, kw_only=True, tag_field="kind", tag="domain"):
    """The observed state of a domain, by the node that owns it."""

    name: str
    status: DomainStatus
    labels: dict[str, str] = {}


AnyFact = NodeStatus | ServiceStatus | ProviderStatus | ResourceStatus | DomainFact


class Registration(Message, frozen=True, kw_only=True):
    """A fact with a time limit. `bound` facts also end with the registering bus session, at once."""

    fact: AnyFact
    ttl_ms: int = 6_000
    bound: bool = True


class Register(Message, frozen=True, kw_only=True):
    """Register or change facts of the caller; at most 500 in one call. A first call after a start sends
    all.
    """

    registrations: tuple[Registration, ...]


class FactReference(Message, frozen=True, kw_only=True):
    """Names one fact: `domain`, `web`."""

    kind: str
    name: str


class Registered(Message, frozen=True, kw_only=True):
    """Renew every `period_ms`. A changed `epoch` means discovery restarted: register everything again.

    `stale` were not taken because discovery holds something newer, from another registrant.
    """

    epoch: str
    period_ms: int
    stale: tuple[FactReference, ...] = ()


class Renew(Message, frozen=True, kw_only=True):
    """Keep all facts of the caller alive; refused with `stale` when discovery does not know the caller's
    facts.
    """

    epoch: str
    count: int  # of facts the caller believes registered


class Withdraw(Message, frozen=True, kw_only=True):
    """End facts of the caller."""

    references: tuple[FactReference, ...]
    reason: str = ""


class Find(Message, frozen=True, kw_only=True):
    """Ask for facts of a kind; `selector` as in `config.list`, plus `name=…`. They come as parts of up to
    500.
    """

    kind: Literal["node", "service", "provider", "resource", "domain"]
    selector: str = ""
    name: str = ""


class Entry(Message, frozen=True, kw_only=True):
    """A registered fact, by whom, and for how long it still counts without renewal."""

    fact: AnyFact
    by: str
    since: float  # seconds since 1970
    expires_ms: int
    stale: bool = False  # its registrant is gone, its time limit has not passed yet


class FoundPart(Message, frozen=True, kw_only=True):
    """Some of the answer."""

    entries: tuple[Entry, ...]


class Found(Message, frozen=True, kw_only=True):
    """How many there were. `settling`: discovery has just started and may not know all yet."""

    count: int
    settling: bool = False
    epoch: str = ""


class FactChanged(Message, frozen=True, kw_only=True):
    """State of one fact under `<kind>.<name>` (`domain.web`, `node.n1`, `service.config.3f2a`)."""

    entry: Entry
    reason: str = ""


CALLS: Final = (
    Call("discovery.register", Register, Registered),
    Call("discovery.renew", Renew, Registered),
    Call("discovery.withdraw", Withdraw, Registered),
    Call("discovery.find", Find, Found, part=FoundPart),
)
EVENTS: Final = (
    Event(
        ("domain.*", "node.*", "service.>", "provider.*", "resource.*"),
        FactChanged,
        "discovery",
        "discovery.fact",
    ),
)
