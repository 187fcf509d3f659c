"""`python -m manor_bus.check NAME`: exit 0 when NAME answers on the bus and is ready. For health checks.

The broker (`bus`) is asked `bus.stats` as `service/health`, a service `srv.info` with the key it has itself:
one attached instance that is ready is enough.
"""

from __future__ import annotations

import sys
from typing import Final

from manor_bus.peer.blocking import Client
from manor_bus.settings import BusSettings
from manor_bus.wire.errors import ManorError, unavailable
from manor_bus.wire.messages.bus import BusStats, BusStatsAnswer, Peers, PeersListed, PeerView
from manor_bus.wire.messages.node import Info, InfoAnswer

TIMEOUT_S: Final = 2.0


def check(client: Client, name: str) -> None:
    """Return when `name` is ready; raises ManorError when it is not."""
    if name == "bus":
        client.call(BusStats(), BusStatsAnswer, timeout=TIMEOUT_S)
        return
    peers = client.call(Peers(), PeersListed, timeout=TIMEOUT_S).peers
    if not any(_ready(client, peer) for peer in peers if peer.name == f"service/{name}" and peer.serves):
        hint = "Its log says why: manor service logs " + name
        raise unavailable(f"no instance of {name} is ready", delivered=False, hint=hint)


def _ready(client: Client, peer: PeerView) -> bool:
    try:
        told = client.call(Info(), InfoAnswer, timeout=TIMEOUT_S, at=peer.address.partition("@")[2])
    except ManorError:
        return False  # it is attached and does not answer
    return told.ready and not told.draining


def main() -> None:
    """Check what the command line names; exit 1 when it is not well."""
    name = sys.argv[1] if len(sys.argv) == 2 else ""
    settings = BusSettings.from_environment("service/health" if name == "bus" else f"service/{name}")
    try:
        with Client(settings) as client:
            check(client, name)
    except (ManorError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
