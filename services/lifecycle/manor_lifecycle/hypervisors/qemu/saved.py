"""The file of a saved guest: one block that says what it is, then QEMU's migration stream. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from manor_bus.wire.errors import ManorError, bad_request
from manor_lifecycle.hypervisors.qemu.record import Record, spec_now
from manor_lifecycle.hypervisors.seen import DiskIdentity, SavedImage

MAGIC: Final = b"manor-saved-2\n"
HEADER_BYTES: Final = 1 << 20  # where the stream begins: room for any record, aligned for any file system


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """`record` is the guest as it was; the machine must be built in the same way to take the stream."""

    id: str
    record: Record
    disks: tuple[DiskIdentity, ...] = ()
    version: str  # of the QEMU that wrote it
    length: int  # bytes of the stream
    sha256: str  # of the stream

    @property
    def image(self) -> SavedImage:
        """What others may know of it."""
        record = self.record
        return SavedImage(self.id, record.uuid, record.incarnation, spec_now(record), self.disks)


def encode(header: Header) -> bytes:
    """Return the block."""
    content = MAGIC + msgspec.json.encode(header)
    if len(content) > HEADER_BYTES:
        message = f"what is to be remembered of {header.record.name} is larger than {HEADER_BYTES} bytes"
        raise bad_request(message, hint="Make spec.extra of the document smaller.")
    return content.ljust(HEADER_BYTES, b"\n")


def decode(block: bytes, size: int, path: str) -> Header:
    """Return the header of a file of `size` bytes. Raises `bad_request` when it is not whole."""
    if not block.startswith(MAGIC) or len(block) != HEADER_BYTES:
        raise damaged(path, "it does not begin as a saved guest does")
    try:
        header = msgspec.json.decode(block[len(MAGIC) :], type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise damaged(path, f"its first block cannot be read ({error})") from None
    if size != HEADER_BYTES + header.length:
        raise damaged(path, f"it has {size - HEADER_BYTES} bytes of state instead of {header.length}")
    return header


def check(header: Header, digest: str, path: str) -> None:
    """Raise `bad_request` when the stream is not the one that was written."""
    if digest != header.sha256:
        raise damaged(path, "its digest is not the one of the state that was written")


def damaged(path: str, reason: str) -> ManorError:
    """Return the error for a file that must not be used."""
    return bad_request(
        f"the saved state {path} is damaged: {reason}",
        hint="Bring the file back from a backup, or discard the saved state and start the domain.",
    )
