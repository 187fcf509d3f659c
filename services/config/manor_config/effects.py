"""Which fields of documents have no effect yet: refused, or kept and shown as not in force. Pure.

What is in neither table is used. A test asks all fields of all documents: a field that no service reads has
its line here, and one that is read has none. A person who writes a wish is told when nobody hears it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from manor_bus.wire.messages import documents as d

REFUSED: Final[Mapping[type, frozenset[str]]] = {
    d.Cpu: frozenset({"weight", "cap"}),
    d.Nic: frozenset({"ip"}),
    d.Pci: frozenset({"permissive"}),
    d.Placement: frozenset({"selector", "affinity", "anti_affinity"}),
    d.DomainSpec: frozenset({"channels", "ha", "label"}),
    d.NodeSpec: frozenset({"maintenance", "cpu_overcommit", "memory_reserved_mib", "failure_domain"}),
}
NOT_IN_FORCE: Final[Mapping[type, frozenset[str]]] = {
    d.DomainSpec: frozenset({"extra"}),
}
