"""Backups on their way in and out: files in the room's folder, in pieces that fit a message."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from manor_bus.wire.errors import Kind, ManorError, Problem, bad_request
from manor_bus.wire.messages.config import Restore

PIECE_BYTES: Final = 512 * 1024
UPLOAD_BYTES_MAX: Final = 4 * 1024**3
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def pieces(path: Path) -> Iterator[bytes]:
    """Yield a file in pieces."""
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


@dataclass
class Upload:
    """The one backup that is coming in; a new one takes the place of one that was given up."""

    path: Path
    name: str = ""
    size: int = 0

    def add(self, request: Restore) -> None:
        """Take the next piece, or one that was taken before (a repetition)."""
        if not _NAME.fullmatch(request.upload):
            allowed = "1 to 128 letters, digits and _.-"
            problem = Problem(path="upload", reason="not a name", value=request.upload[:80], allowed=allowed)
            raise bad_request("the upload has no name", problem)
        if len(request.content) > PIECE_BYTES or request.offset + len(request.content) > UPLOAD_BYTES_MAX:
            allowed = f"{PIECE_BYTES} bytes in a piece, {UPLOAD_BYTES_MAX} in all"
            problem = Problem(path="content", reason="too large", allowed=allowed)
            raise bad_request("the piece is too large", problem)
        if request.upload != self.name and request.offset == 0:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.write_bytes(b"")
            self.name, self.size = request.upload, 0
        if request.upload != self.name or request.offset > self.size:
            hint = "Begin again with offset 0 and another name."
            raise ManorError(Kind.CONFLICT, "this upload is not the present one, or has a gap", hint=hint)
        with self.path.open("r+b") as file:
            file.seek(request.offset)
            file.write(request.content)
        self.size = max(self.size, request.offset + len(request.content))

    def check(self, sha256: str) -> None:
        """Refuse what did not arrive as it was sent."""
        found = hashlib.sha256()
        for piece in pieces(self.path):
            found.update(piece)
        if found.hexdigest() != sha256:
            self.drop()
            problem = Problem(path="sha256", reason="the digest differs", value=sha256[:80])
            raise bad_request("the backup did not arrive as it was sent", problem, hint="Send it again.")

    def drop(self) -> None:
        """Forget the upload."""
        self.path.unlink(missing_ok=True)
        self.name, self.size = "", 0
