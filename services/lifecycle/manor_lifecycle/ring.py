"""The last bytes that a console printed, each with its number since the incarnation began. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

KEPT: Final = 256 << 10


@dataclass
class Ring:
    """`offset` is the number of the first byte kept; what is older is gone."""

    offset: int = 0
    kept: int = KEPT
    content: bytearray = field(default_factory=bytearray)

    @property
    def end(self) -> int:
        """The number that the next byte will have."""
        return self.offset + len(self.content)

    def add(self, offset: int, content: bytes) -> bytes:
        """Take what was printed from byte `offset` on; return the part of it that is new.

        A hole before it means that the bytes in the hole were lost: what is older is of no use then.
        """
        fresh = content[max(0, self.end - offset) :]
        if offset > self.end:
            self.offset, self.content = offset, bytearray()
        self.content += fresh
        excess = len(self.content) - self.kept
        if excess > 0:
            del self.content[:excess]
            self.offset += excess
        return fresh

    def since(self, offset: int, most: int) -> tuple[int, bytes]:
        """Return up to `most` bytes from `offset` on, or from the first one kept, and where they begin."""
        start = max(offset, self.offset)
        first = start - self.offset
        return start, bytes(self.content[first : first + most])
