"""Events of who offers back ends and what they are made of: the devices service, and third parties."""

from __future__ import annotations

from typing import Final, Literal

from manor_bus.wire.messages import Event, Message


class ProviderStatus(Message, frozen=True, kw_only=True, tag_field="kind", tag="provider"):
    """Who offers back ends of a class, and since which epoch, under `provider.<name>`."""

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
    """Anything else that can be used, under `resource.<name>`: a volume's file, a bridge."""

    name: str
    node: str
    type: str = ""
    state: str = ""
    reason: str = ""
    labels: dict[str, str] = {}


CALLS: Final = ()
EVENTS: Final = (
    Event(("provider.*",), ProviderStatus, "devices", "devices.provider"),
    Event(("resource.*",), ResourceStatus, "devices", "devices.resource"),
)
