"""What an operator may choose about this adapter: `MANOR_LIFECYCLE_QEMU_<NAME>`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from manor_bus.wire.errors import bad_request


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`accelerator`: `auto` takes the best that really works. `spare_slots`: devices a guest can be given
    while it lives, beyond those it starts with. `birthplace`: the socket of a container in which guests are
    born, for a service that itself runs in one. A guest whose QEMU is silent for `silence_s` is hung.
    """

    binary: str = "qemu-system-x86_64"
    birthplace: str = ""
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    heartbeat_s: float = 5.0
    silence_s: float = 10.0
    spare_slots: int = 6


def read(options: Mapping[str, str]) -> Options:
    """Return the options. Raises `bad_request` naming the wrong one."""
    try:
        return msgspec.convert(dict(options), Options, strict=False)
    except msgspec.ValidationError as error:
        hint = f"Known options: {', '.join(Options.__struct_fields__)}."
        raise bad_request(f"an option of the qemu adapter is wrong: {error}", hint=hint) from None
