"""The whole vocabulary in one place, looked up by type name, by struct and by subject."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from manor_bus.wire.messages import (
    Call,
    Event,
    Message,
    bus,
    config,
    consoles,
    devices,
    discovery,
    guests,
    lifecycle,
    node,
    providers,
)

_ROOMS: Final = (bus, node, config, discovery, lifecycle, guests, consoles, devices, providers)

CALLS: Final[tuple[Call, ...]] = tuple(call for room in _ROOMS for call in room.CALLS)
EVENTS: Final[tuple[Event, ...]] = tuple(event for room in _ROOMS for event in room.EVENTS)

CALL_BY_TYPE: Final = MappingProxyType({call.type_name: call for call in CALLS})
CALL_BY_REQUEST: Final[MappingProxyType[type[Message], Call]] = MappingProxyType(
    {call.request: call for call in CALLS}
)
CALL_BY_SUBJECT: Final = MappingProxyType({call.subject: call for call in CALLS})
EVENT_BY_TYPE: Final = MappingProxyType({event.type_name: event for event in EVENTS})
EVENT_BY_BODY: Final[MappingProxyType[type[Message], Event]] = MappingProxyType(
    {event.body: event for event in EVENTS}
)
