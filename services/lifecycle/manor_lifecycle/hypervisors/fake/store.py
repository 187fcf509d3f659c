"""The fake guests that are there and were there, each in a small file."""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection
from pathlib import Path

import msgspec

from manor_bus.wire.errors import bad_request, denied_state, not_found
from manor_bus.wire.messages.consoles import LastRun
from manor_bus.wire.messages.documents import DomainSpec
from manor_host import clock
from manor_lifecycle.hypervisors.fake.guest import Guest
from manor_lifecycle.hypervisors.seen import EndReason, Leftover, SavedImage


class Store:
    """`there` have a run; `past` had one, and their number is remembered."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.there: dict[str, Guest] = {}
        self.past: dict[str, Guest] = {}
        self.boot = clock.boot_id()
        for path in directory.glob("*.guest"):
            line, _, _ = path.read_bytes().partition(b"\n")
            if line:  # otherwise a kill came before it was whole: it was never created
                guest = msgspec.json.decode(line, type=Guest)
                (self.past if guest.gone else self.there)[guest.uuid] = guest
                if not guest.gone and guest.boot not in ("", self.boot):
                    guest.ended, guest.detail = EndReason.UNKNOWN, "the machine started anew"
                    self.bury(guest)

    def known(self, uuid: str) -> Guest | None:
        """Return the guest, or what is remembered of the last one."""
        return self.there.get(uuid) or self.past.get(uuid)

    def put(self, guest: Guest) -> None:
        """Write it over what is there, in one system call: a kill leaves its first line whole."""
        kept, other = (self.past, self.there) if guest.gone else (self.there, self.past)
        other.pop(guest.uuid, None)
        kept[guest.uuid] = guest
        file = os.open(
            f"{self._directory}/{guest.uuid}.guest", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            os.write(file, msgspec.json.encode(guest) + b"\n")
        finally:
            os.close(file)

    def bury(self, guest: Guest) -> None:
        """Its run is over, and nothing of it is kept but its number and how it ended."""
        if guest.uuid in self.there:
            self.put(msgspec.structs.replace(guest, gone=True, spec=None, devices={}, told={}, io={}))

    def last_run(self, uuid: str) -> LastRun | None:
        """Return what is kept of the last guest that is over: how it ended."""
        there = self.there.get(uuid)
        past = there if there is not None and there.ended is not None else self.past.get(uuid)
        if past is None:
            return None
        said = f"{past.name}, run {past.incarnation}: {past.detail}\r\n".encode()
        return LastRun(console=said, log=said)

    def leftovers(self, uuid: str) -> tuple[Leftover, ...]:
        """Return what is kept of a domain without a run."""
        path = self._directory / f"{uuid}.guest"
        return (Leftover("note", str(path), path.stat().st_size),) if uuid in self.past else ()

    def remove(self, uuid: str, kinds: Collection[str]) -> None:
        """Remove what is kept of a domain without a run. Raises `denied_state` when it has one."""
        if uuid in self.there:
            raise denied_state(f"{uuid} has a run", hint="Destroy it first.")
        if "note" in kinds:
            self.past.pop(uuid, None)
            (self._directory / f"{uuid}.guest").unlink(missing_ok=True)


def write_image(path: Path, guest: Guest, image: str) -> None:
    """Write a file that stands for the memory of a guest."""
    spec = guest.spec or DomainSpec()
    saved = SavedImage(image or secrets.token_hex(8), guest.uuid, guest.incarnation, spec)
    write_whole(path, msgspec.json.encode(saved))


def read_image(path: Path) -> SavedImage:
    """Read what `write_image` wrote."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=SavedImage)
    except FileNotFoundError:
        message = f"there is no saved state at {path}"
        raise not_found(message, hint="Discard the saved state.") from None
    except msgspec.DecodeError as error:
        message = f"the saved state {path} is damaged: {error}"
        raise bad_request(message, hint="Discard the saved state.") from None


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(path)
