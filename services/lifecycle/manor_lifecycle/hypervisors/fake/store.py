"""The fake guests that are there and were there, each in a small file."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from manor_lifecycle.hypervisors.fake.guest import Guest


class Store:
    """`there` have a run; `past` had one, and their number is remembered."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.there: dict[str, Guest] = {}
        self.past: dict[str, Guest] = {}
        for path in directory.glob("*.guest"):
            line, _, _ = path.read_bytes().partition(b"\n")
            if line:  # otherwise a kill came before it was whole: it was never created
                guest = msgspec.json.decode(line, type=Guest)
                (self.past if guest.gone else self.there)[guest.uuid] = guest

    def known(self, uuid: str) -> Guest | None:
        """Return the guest, or what is remembered of the last one."""
        return self.there.get(uuid) or self.past.get(uuid)

    def put(self, guest: Guest) -> None:
        """Write it over what is there, in one system call: a kill leaves its first line whole."""
        kept, other = (self.past, self.there) if guest.gone else (self.there, self.past)
        other.pop(guest.uuid, None)
        kept[guest.uuid] = guest
        path = self._directory / f"{guest.uuid}.guest"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, msgspec.json.encode(guest) + b"\n")
        finally:
            os.close(file)

    def bury(self, guest: Guest) -> None:
        """Its run is over, and nothing of it is kept but its number and how it ended."""
        if guest.uuid in self.there:
            self.put(msgspec.structs.replace(guest, gone=True, spec=None, devices={}, told={}, io={}))
