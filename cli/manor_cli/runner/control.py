"""Ask the supervisor of a state directory for something: one line of JSON each way over a unix socket."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any, Final

from manor_bus.wire.errors import bad_request, unavailable

TIMEOUT_S: Final = 5.0
REPLY_BYTES_MAX: Final = 1_048_576


def ask(run: Path, do: str, within: float = TIMEOUT_S, **more: Any) -> dict[str, Any]:
    """Post a wish to the supervisor and return its reply; `unavailable` when there is no supervisor."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(within)
            link.connect(str(run / "supervisor.sock"))
            link.sendall(json.dumps({"do": do, **more}).encode() + b"\n")
            reply = json.loads(_line(link))
    except PermissionError:
        raise  # there is one, and it is somebody else's
    except OSError as error:
        raise unavailable(
            f"no supervisor answers in {run} ({type(error).__name__})",
            delivered=False,
            hint="services started by `manor up` have one; others are restarted by whoever started them",
        ) from None
    if "error" in reply:
        raise bad_request(str(reply["error"]), hint="`manor status` lists the services")
    return dict(reply)


def _line(link: socket.socket) -> bytes:
    """Read up to the end of the line."""
    found = b""
    while not found.endswith(b"\n") and len(found) < REPLY_BYTES_MAX:
        piece = link.recv(65_536)
        if not piece:
            break
        found += piece
    return found or b"{}"
