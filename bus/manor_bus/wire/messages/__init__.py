"""Every message of the bus as a typed struct, one file per owner. No I/O, no logic.

A *call* is a request with one reply (and maybe partial replies before it); its subject
`<service>.<object>.<verb>` routes it, and `<subject>.v<version>` is its `type` on the wire.
An *event* is a new value of one object, published under `<object kind>.<name>…`.
Add fields with defaults only; never reuse or retype one; a breaking change is version 2, served beside 1.
"""

from __future__ import annotations

import msgspec


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=False):
    """What all wire structs have in common: immutable, keyword-only, a MessagePack map on the wire."""


class Done(Message, frozen=True, kw_only=True):
    """The reply of a call that has nothing to say."""


class Call(msgspec.Struct, frozen=True):
    """One request of the catalogue. `part` is the type of its partial replies, if it has any."""

    subject: str
    request: type[Message]
    reply: type[Message]
    part: type[Message] | None = None
    changes: bool = False  # False: a pure question, safe to ask any number of times
    version: int = 1

    @property
    def type_name(self) -> str:
        """The `type` on the wire."""
        return f"{self.subject}.v{self.version}"


class Event(msgspec.Struct, frozen=True):
    """One kind of event: `patterns` are what to subscribe to for all of them."""

    patterns: tuple[str, ...]
    body: type[Message]
    owner: str
    name: str
    state: bool = True  # True: a state stream with snapshot; False: passing news (console bytes)
    version: int = 1

    @property
    def type_name(self) -> str:
        """The `type` on the wire."""
        return f"{self.name}.v{self.version}"
