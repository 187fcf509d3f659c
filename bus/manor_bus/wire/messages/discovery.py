"""The call of the discovery service: what is there now, of what its owners publish on all nodes."""

from __future__ import annotations

from typing import Final, Literal

from manor_bus.wire.messages import Call, Message
from manor_bus.wire.messages.bus import ServiceStatus
from manor_bus.wire.messages.lifecycle import DomainStatus, NodeStatus
from manor_bus.wire.messages.providers import ProviderStatus, ResourceStatus

AnyFact = NodeStatus | ServiceStatus | ProviderStatus | ResourceStatus | DomainStatus


class Find(Message, frozen=True, kw_only=True):
    """Ask for facts of a kind; `selector` as in `config.list`, `name` also takes the uuid of a domain.

    They come as parts of up to 500. The answer waits within the call's budget until every owner was heard.
    """

    kind: Literal["node", "service", "provider", "resource", "domain"]
    selector: str = ""
    name: str = ""


class Entry(Message, frozen=True, kw_only=True):
    """A fact and who said it. Names are not unique: a domain is its uuid, another thing
    its owner and name."""

    fact: AnyFact
    owner: str  # verified address
    since: float  # seconds since 1970: when discovery first heard of it
    heard: int = 0  # so many ms ago its owner still stood behind it; 0: it does now
    stale: bool = False  # the owner is gone, or not heard again yet


class FoundPart(Message, frozen=True, kw_only=True):
    """Some of the answer."""

    entries: tuple[Entry, ...]


class Found(Message, frozen=True, kw_only=True):
    """How many there were, and whether that is all: `missing` says whose word is missing, and why."""

    count: int
    complete: bool = True
    missing: tuple[str, ...] = ()


CALLS: Final = (Call("discovery.find", Find, Found, part=FoundPart),)
EVENTS: Final = ()
