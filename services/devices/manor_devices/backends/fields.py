"""What each back end of network cards makes of each field: used, or refused, for it had no effect. Pure.

A field that is `used` reaches the card, by the back end or by the front end. A test asks every field.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from manor_bus.wire.errors import Problem, bad_request
from manor_bus.wire.messages.documents import NetworkSpec, Nic

USED: Final = ""
NO_ADDRESSES: Final = "is not enforced: the guest chooses its addresses"
_CARD: Final = dict.fromkeys(
    ("id", "network", "mac", "model", "provider", "required", "on_provider_loss"), USED
)
_USER: Final = "has no effect in user-mode networking: it needs a Network of type bridge"
NIC: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "usernet": _CARD
        | dict.fromkeys(("mtu", "ip", "rate_kib_per_second", "vlan"), _USER)
        | {"queues": _USER},
        "bridge": _CARD
        | {"mtu": USED, "queues": USED, "ip": NO_ADDRESSES}
        | dict.fromkeys(("rate_kib_per_second", "vlan"), "is not offered by back end bridge"),
    }
)
NETWORK: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "usernet": {"type": USED, "cidr": USED}
        | dict.fromkeys(("bridge", "create", "address", "mtu", "isolated"), _USER),
        "bridge": dict.fromkeys(("type", "bridge", "create", "address", "mtu", "isolated"), USED)
        | {"cidr": "is for user-mode networking only"},
    }
)


def check(backend: str, nic: Nic, network: NetworkSpec | None) -> None:
    """Refuse what the document asks for and the back end would leave without effect, naming the field."""
    for prefix, table, asked, plain in (
        ("nic", NIC, nic, Nic(id=nic.id)),
        ("spec", NETWORK, network or NetworkSpec(), NetworkSpec()),
    ):
        for field, reason in table[backend].items():
            value = getattr(asked, field)
            if reason and value != getattr(plain, field):
                raise bad_request(
                    f"{nic.id}: {field} {reason}",
                    Problem(path=f"{prefix}.{field}", reason=reason, value=str(value)),
                )
