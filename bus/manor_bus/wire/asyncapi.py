"""The whole bus as an AsyncAPI 3 document, for tools. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from manor_bus import VERSION
from manor_bus.wire.messages import Call, Event
from manor_bus.wire.messages.catalogue import CALLS, EVENTS
from manor_bus.wire.schema import components, parts_of

_INTRODUCTION: Final = (
    "The messages of Manor's bus. Sockets, envelope and kinds are described in docs/wire.md. "
    "A string with contentEncoding base64 is MessagePack bin on the wire."
)


def written() -> str:
    """Return the document as YAML."""
    return msgspec.yaml.encode(asyncapi()).decode()


def asyncapi() -> dict[str, Any]:
    """Return the AsyncAPI 3 document of one node's services, as they act: they receive calls, send events."""
    entries: tuple[Call | Event, ...] = (*CALLS, *EVENTS)
    bodies = [body for entry in entries for body in parts_of(entry).values()]
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for call in CALLS:
        _add_call(call, channels, operations)
    for event in EVENTS:
        _add_event(event, channels, operations)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Manor",
            "version": VERSION,
            "description": _INTRODUCTION,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/msgpack",
        "channels": channels,
        "operations": operations,
        "components": {"schemas": components(bodies)},
    }


def _add_call(call: Call, channels: dict[str, Any], operations: dict[str, Any]) -> None:
    """A call has two channels: its subject, and the caller's own session (no address) for what comes back."""
    subject, replies = call.subject, f"{call.subject}/reply"
    answers = {role: _message(call, role) for role in parts_of(call) if role != "request"}
    channels[subject] = {"address": subject, "messages": {"request": _message(call, "request")}}
    channels[replies] = {"address": None, "messages": answers}
    operations[subject] = {
        "action": "receive",
        "channel": _channel(subject),
        "messages": [_in_channel(subject, "request")],
        "reply": {"channel": _channel(replies), "messages": [_in_channel(replies, role) for role in answers]},
    }


def _add_event(event: Event, channels: dict[str, Any], operations: dict[str, Any]) -> None:
    for pattern in event.patterns:
        address, parameters = _address(pattern)
        channel = {"address": address, "messages": {"body": _message(event, "body")}}
        channels[pattern] = channel if not parameters else {**channel, "parameters": parameters}
        operations[f"{event.name}/{pattern}"] = {
            "action": "send",
            "channel": _channel(pattern),
            "messages": [_in_channel(pattern, "body")],
        }


def _address(pattern: str) -> tuple[str, dict[str, Any]]:
    """Turn `domain.*` into `domain.{name1}`, and the parameters that go with it."""
    tokens = pattern.split(".")
    meaning = {"*": "one token", ">": "one or more tokens"}
    names = {at: f"name{at}" for at, token in enumerate(tokens) if token in meaning}
    address = ".".join(f"{{{names[at]}}}" if at in names else token for at, token in enumerate(tokens))
    return address, {name: {"description": meaning[tokens[at]]} for at, name in names.items()}


def _message(entry: Call | Event, role: str) -> dict[str, Any]:
    body = parts_of(entry)[role]
    return {
        "name": entry.type_name if role in ("request", "body") else f"{entry.type_name} {role}",
        "title": body.__name__,
        "payload": {"$ref": f"#/components/schemas/{body.__name__}"},
    }


def _channel(name: str) -> dict[str, str]:
    return {"$ref": f"#/channels/{_pointer(name)}"}


def _in_channel(name: str, message: str) -> dict[str, str]:
    return {"$ref": f"#/channels/{_pointer(name)}/messages/{message}"}


def _pointer(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
