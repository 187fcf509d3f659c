"""What is kept beside each revision: who made it, why, and the answer to repeat to the same request. Pure."""

from __future__ import annotations

import hashlib

import msgspec

from manor_bus.wire.errors import Problem, bad_request
from manor_bus.wire.messages import Message
from manor_bus.wire.messages.config import Applied, Change
from manor_config.edits import told
from manor_config.revision import Outcome


class Note(Message, frozen=True, kw_only=True):
    """`digest` tells one request from another under the same key; `changes` are what an edit answered."""

    by: str = ""
    reason: str = ""
    at: float = 0.0  # seconds since 1970
    digest: str = ""
    changes: tuple[Change, ...] = ()


def op_id(label: str, request: Message, key: str) -> str:
    """Return the name under which a request of a caller is done at most once."""
    return f"{label} {type(request).__name__} {key}" if key else ""


def digest(request: Message) -> str:
    """Return what tells this request from another one."""
    return hashlib.sha256(msgspec.json.encode(request)).hexdigest()[:32]


def encode(note: Note) -> bytes:
    """Return the stored form."""
    return msgspec.json.encode(note)


def decode(stored: bytes) -> Note:
    """Return a note; an empty one when there is none (any more)."""
    return msgspec.json.decode(stored, type=Note) if stored else Note()


def repeated(outcome: Outcome, request: Message) -> Applied:
    """Return the first answer to a request that comes again; refuse another request under its key."""
    note = decode(outcome.note)
    if note.digest != digest(request):
        problem = Problem(path="idempotencykey", reason="was used for another request")
        raise bad_request(
            "this idempotency key was used for another request",
            problem,
            hint="A key names one change. Use a new key for a new one.",
        )
    return told(note.changes, outcome.revision, done=True)
