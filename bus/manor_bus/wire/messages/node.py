"""Questions every service answers by itself, through the peer library: `srv.*`."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from manor_bus.wire.messages import Call, Done, Message


class Ping(Message, frozen=True, kw_only=True):
    """Ask whether the dispatch loop lives."""


class Info(Message, frozen=True, kw_only=True):
    """Ask who this is."""


class InfoAnswer(Message, frozen=True, kw_only=True):
    """A service about itself. `ready`: it has done what it must after a start."""

    name: str
    instance: str
    node: str
    pid: int
    version: str
    ready: bool
    draining: bool = False
    started: float = 0.0  # seconds since 1970
    types: tuple[str, ...] = ()  # served, as `type` names
    detail: dict[str, Any] = {}


class Stats(Message, frozen=True, kw_only=True):
    """Ask for counters."""


class CallStats(Message, frozen=True, kw_only=True):
    """Counters of one type since the start."""

    type: str
    calls: int
    errors: int
    in_flight: int
    total_ms: float
    max_ms: float


class StatsAnswer(Message, frozen=True, kw_only=True):
    """Counters of a service."""

    calls: tuple[CallStats, ...]
    published: int = 0
    resident_kib: int = 0


class Schema(Message, frozen=True, kw_only=True):
    """Ask for the JSON Schema of a served type, or of all."""

    type: str = ""


class SchemaAnswer(Message, frozen=True, kw_only=True):
    """JSON Schemas by type name."""

    schemas: dict[str, Any]


class Drain(Message, frozen=True, kw_only=True):
    """Take no new calls, finish or cancel the running ones within `deadline_ms`, then exit 0."""

    deadline_ms: int = 10_000


class Snapshot(Message, frozen=True, kw_only=True):
    """Ask an owner for the present values of the objects under a pattern."""

    pattern: str


class SnapshotItem(Message, frozen=True, kw_only=True):
    """One present value. `value` is the body of the event that would publish it."""

    subject: str
    rev: int
    type: str
    value: msgspec.Raw


class SnapshotPart(Message, frozen=True, kw_only=True):
    """Some of the snapshot."""

    items: tuple[SnapshotItem, ...]


class SnapshotDone(Message, frozen=True, kw_only=True):
    """The snapshot is complete and contains every change up to `rev` of this `epoch`."""

    epoch: str
    rev: int


CALLS: Final = (
    Call("srv.ping", Ping, Done),
    Call("srv.info", Info, InfoAnswer),
    Call("srv.stats", Stats, StatsAnswer),
    Call("srv.schema", Schema, SchemaAnswer),
    Call("srv.drain", Drain, Done),
    Call("srv.snapshot", Snapshot, SnapshotDone, part=SnapshotPart),
)
EVENTS: Final = ()
