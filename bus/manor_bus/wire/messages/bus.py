"""The broker's own words: session set-up, subscriptions, and the questions it answers (`bus.*`)."""

from __future__ import annotations

from typing import Final, Literal

from manor_bus.wire.messages import Call, Done, Event, Message


class Hello(Message, frozen=True, kw_only=True):
    """`data` of HELLO: who wants to attach. `name` is checked against the key's principal, never believed."""

    protocol: tuple[int, int]  # lowest and highest version spoken
    instance: str  # random, new with every process start
    version: str = ""
    pid: int = 0
    serves: tuple[str, ...] = ()  # subject patterns of calls
    owns: tuple[str, ...] = ()  # subject patterns of published state
    group: str = ""  # instances of one group share the calls; default: the principal's name
    types: dict[str, str] = {}  # served type -> what its shape is known by; for people
    batches: bool = False  # takes several messages in one frame


class Limits(Message, frozen=True, kw_only=True):
    """What the broker holds a peer to."""

    frame_bytes: int
    depth: int
    subscriptions: int
    pending_calls: int
    in_flight_per_callee: int
    queued_per_callee: int


class Welcome(Message, frozen=True, kw_only=True):
    """`data` of WELCOME."""

    protocol: int
    broker_epoch: str  # random, new with every broker start
    address: str  # the verified `label@node/instance` the broker stamps on this peer's messages
    boot_id: str  # equal to the peer's own: both share one monotonic clock, deadlines are comparable
    heartbeat_ms: int
    limits: Limits
    serves: tuple[str, ...] = ()  # granted
    denied: tuple[str, ...] = ()  # refused by policy, with the rule where the peer may see it
    batches: bool = False  # the broker takes several messages in one frame


class Subscribe(Message, frozen=True, kw_only=True):
    """`data` of SUB; the pattern is the envelope's `to`. `sid` is chosen by the subscriber, never 0."""

    sid: int
    window: int = 256  # messages the subscriber is ready to hold unacknowledged
    window_bytes: int = 1_048_576
    policy: Literal["coalesce", "gap", "kick"] = "coalesce"
    tap: bool = False  # also calls and replies whose `to` matches (operators only)


class Owner(Message, frozen=True, kw_only=True):
    """A peer that publishes state under a pattern."""

    address: str
    owns: tuple[str, ...]


class Subscribed(Message, frozen=True, kw_only=True):
    """The reply to SUB: the stream is live from number `seq`; ask these owners for their snapshots."""

    sid: int
    seq: int
    owners: tuple[Owner, ...] = ()


class Unsubscribe(Message, frozen=True, kw_only=True):
    """`data` of UNSUB."""

    sid: int


class Credit(Message, frozen=True, kw_only=True):
    """`data` of CREDIT: totals consumed since the subscription began; absolute, so repeating is harmless."""

    sid: int
    messages: int
    size: int  # bytes


class Reset(Message, frozen=True, kw_only=True):
    """`data` of RESET: the broker does not know this connection (any more): greet and subscribe again."""

    broker_epoch: str
    reason: Literal["unknown", "slow", "protocol", "kicked", "revoked", "replaced", "quota"]


class Serving(Message, frozen=True, kw_only=True):
    """News inside sid 0: a service that this peer asked for in vain is there now."""

    group: str


class OwnerChanged(Message, frozen=True, kw_only=True):
    """News inside a subscription: an owner of matching state came or went (subject `bus.owner`)."""

    owner: Owner
    present: bool
    reason: str = ""


class Peers(Message, frozen=True, kw_only=True):
    """Ask who is connected."""


class PeerView(Message, frozen=True, kw_only=True):
    """One connected peer."""

    address: str
    name: str
    instance: str
    version: str
    pid: int
    serves: tuple[str, ...]
    owns: tuple[str, ...]
    subscriptions: int
    calls_pending: int  # made by it
    calls_in_flight: int  # delivered to it
    received: int  # frames
    sent: int
    draining: bool
    connected_s: float
    where: str = ""  # `uid:gid:pid` on ipc, the network address on tcp


class PeersListed(Message, frozen=True, kw_only=True):
    """Connected peers by address."""

    peers: tuple[PeerView, ...]


class Subs(Message, frozen=True, kw_only=True):
    """Ask for subscriptions."""


class SubView(Message, frozen=True, kw_only=True):
    """One subscription."""

    address: str
    sid: int
    pattern: str
    policy: str
    sent: int
    dropped: int
    coalesced: int
    outstanding: int


class SubsListed(Message, frozen=True, kw_only=True):
    """Subscriptions by peer."""

    subs: tuple[SubView, ...]


class Pending(Message, frozen=True, kw_only=True):
    """Ask for calls under way."""


class PendingView(Message, frozen=True, kw_only=True):
    """One call under way."""

    caller: str
    callee: str
    to: str
    id: str
    age_ms: int
    left_ms: int
    queued: bool


class PendingListed(Message, frozen=True, kw_only=True):
    """Calls under way, oldest first."""

    pending: tuple[PendingView, ...]


class BusStats(Message, frozen=True, kw_only=True):
    """Ask for the broker's counters."""


class BusStatsAnswer(Message, frozen=True, kw_only=True):
    """The broker's counters since its start."""

    epoch: str
    uptime_s: float
    peers: int
    subscriptions: int
    pending: int
    ring: int
    resident_kib: int
    counters: dict[str, int]


class Explain(Message, frozen=True, kw_only=True):
    """Ask what the policy says, without doing it: may `label` do `verb` on `subject`?"""

    label: str
    verb: Literal["serve", "publish", "call", "watch"]
    subject: str


class Explained(Message, frozen=True, kw_only=True):
    """The decision and the rule behind it."""

    allowed: bool
    rule: str


class RingRead(Message, frozen=True, kw_only=True):
    """Ask for the last events under a pattern that are still in the ring, after number `since`."""

    pattern: str = ">"
    since: int = 0
    limit: int = 500


class RingEvent(Message, frozen=True, kw_only=True):
    """One past event; `envelope` is exactly what the publisher sent."""

    n: int
    at: float  # seconds since 1970
    sender: str
    envelope: bytes


class RingListed(Message, frozen=True, kw_only=True):
    """Past events, oldest first. `first` is the oldest number still kept."""

    events: tuple[RingEvent, ...]
    first: int
    last: int


class Kick(Message, frozen=True, kw_only=True):
    """Disconnect a peer; its library will greet again unless its key was revoked."""

    address: str


class Reload(Message, frozen=True, kw_only=True):
    """Read the keys again; sessions of revoked or changed keys end at once."""


class Authorise(Message, frozen=True, kw_only=True):
    """Let these keys attach beside those of the node's key folder (which win): the Credential documents.

    The whole table, public key -> principal, each time; sessions of keys that have left it end at once.
    Only config may call it, and only for operators, observers and services that are not Manor's own.
    """

    keys: dict[str, str]


class Reloaded(Message, frozen=True, kw_only=True):
    """How many keys there are and how many sessions were ended."""

    keys: int
    ended: int


class PeerChanged(Message, frozen=True, kw_only=True):
    """A peer came or went, under `bus.peer.<kind>.<name>.<instance>`."""

    address: str
    present: bool
    reason: str = ""


class ServiceStatus(Message, frozen=True, kw_only=True, tag_field="kind", tag="service"):
    """One attached instance of a service, under `service.<name>.<instance>`.

    `ready`: it serves or owns something, and does not leave.
    """

    name: str  # `<service>.<instance>`
    service: str
    instance: str
    node: str
    pid: int
    version: str
    ready: bool = True
    labels: dict[str, str] = {}


class SlowPeer(Message, frozen=True, kw_only=True):
    """A subscription falls behind: its policy was applied. Under `bus.slow`; at most one a second per
    subscription.
    """

    address: str
    sid: int
    pattern: str
    policy: str
    dropped: int


CALLS: Final = (
    Call("bus.peers", Peers, PeersListed),
    Call("bus.subs", Subs, SubsListed),
    Call("bus.pending", Pending, PendingListed),
    Call("bus.stats", BusStats, BusStatsAnswer),
    Call("bus.explain", Explain, Explained),
    Call("bus.ring", RingRead, RingListed),
    Call("bus.kick", Kick, Done, changes=True),
    Call("bus.reload", Reload, Reloaded, changes=True),
    Call("bus.authorise", Authorise, Reloaded, changes=True),
)
EVENTS: Final = (
    Event(("service.>",), ServiceStatus, "bus", "bus.service"),
    Event(("bus.peer.>",), PeerChanged, "bus", "bus.peer", state=False),
    Event(("bus.slow",), SlowPeer, "bus", "bus.slow", state=False),
    Event(("bus.owner",), OwnerChanged, "bus", "bus.owner", state=False),
)
