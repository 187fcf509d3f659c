"""Which services are attached: the state that the broker owns and publishes under `service.>`. Pure.

The broker knows who is there: from HELLO, from the end of a session, from a drain. Nobody else may say it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from manor_bus.broker.sessions import Peer
from manor_bus.wire import codec
from manor_bus.wire.messages.bus import ServiceStatus
from manor_bus.wire.messages.node import SnapshotDone, SnapshotItem, SnapshotPart
from manor_bus.wire.subjects import matches

PATTERN: Final = "service.>"
TYPE: Final = "bus.service.v1"
PART_ITEMS: Final = 500


class Services:
    """The attached instances of services by subject, numbered as every owner numbers its changes."""

    def __init__(self, node: str, epoch: str) -> None:
        self._node, self.epoch = node, epoch
        self.rev = 0
        self._present: dict[str, tuple[int, ServiceStatus]] = {}

    def look(self, peer: Peer, *, present: bool) -> tuple[str, ServiceStatus | None] | None:
        """Note what a session looks like now; return what is news (None in it: gone), if anything is."""
        kind, _, service = peer.label.partition("/")
        if kind != "service":
            return None
        subject = f"service.{service}.{peer.instance}"
        before = self._present.get(subject)
        if not present:
            if before is None:
                return None
            del self._present[subject]
            self.rev += 1
            return subject, None
        now = ServiceStatus(
            name=f"{service}.{peer.instance}", service=service, instance=peer.instance, node=self._node,
            pid=peer.pid, version=peer.version, ready=bool(peer.serves or peer.owns) and not peer.draining,
        )  # fmt: skip
        if before is not None and before[1] == now:
            return None
        self.rev += 1
        self._present[subject] = self.rev, now
        return subject, now

    def snapshot(self, pattern: str) -> Iterator[SnapshotPart | SnapshotDone]:
        """Yield the present values under a pattern in parts, then the number they are up to."""
        items = [
            SnapshotItem(subject=subject, rev=rev, type=TYPE, value=msgspec.Raw(codec.encode(status)))
            for subject, (rev, status) in self._present.items()
            if matches(pattern, subject)
        ]
        for at in range(0, len(items), PART_ITEMS):
            yield SnapshotPart(items=tuple(items[at : at + PART_ITEMS]))
        yield SnapshotDone(epoch=self.epoch, rev=self.rev)
