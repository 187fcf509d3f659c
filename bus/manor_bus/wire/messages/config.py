"""Calls and events of the config service: the desired system."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from manor_bus.wire.messages import Call, Event, Message
from manor_bus.wire.messages.documents import AnyDocument

KEY_BYTES_MAX: Final = 256
VALUE_BYTES_MAX: Final = 256 * 1024  # of one key
WRITES_MAX: Final = 1_024
PIECE_BYTES: Final = 512 * 1024  # of a backup
BACKUP_BYTES_MAX: Final = 4 * 1024**3
GUARDS_MAX: Final = 2 * WRITES_MAX  # each document and its owner record
_PARTS: Final = "[A-Za-z0-9_.:@+-]"
Key = Annotated[str, Meta(pattern=f"^[A-Za-z0-9_]{_PARTS}*(/{_PARTS}+)*$(?!\n)", max_length=KEY_BYTES_MAX)]
Prefix = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:@+/-]*$(?!\n)", max_length=KEY_BYTES_MAX)]
Limit = Annotated[int, Meta(ge=1)]
Value = Annotated[bytes, Meta(max_length=VALUE_BYTES_MAX)]


class Reference(Message, frozen=True, kw_only=True):
    """One document: by kind and name, by its uuid (whatever its name is by now), or by both. With `revision`
    it is meant in that state only. What is not so is refused with `conflict`.
    """

    kind: str
    name: str = ""
    uuid: str = ""
    revision: int | None = None


class DiffLine(Message, frozen=True, kw_only=True):
    """One changed field. A missing side is an empty string; values are JSON texts."""

    path: str
    old: str = ""
    new: str = ""


class Change(Message, frozen=True, kw_only=True):
    """What a transaction did (or, in a dry run, would do) to one document."""

    kind: str
    name: str
    uuid: str
    action: Literal["created", "changed", "unchanged", "deleted"]
    revision: int
    diff: tuple[DiffLine, ...] = ()


class Apply(Message, frozen=True, kw_only=True):
    """Create or change documents in one transaction.

    Each document is a mapping as parsed from YAML or JSON: {kind, metadata, spec}. A `metadata.revision` in
    it
    makes the write conditional: it is refused with `conflict` when the stored revision differs
    (0 = must not exist yet). All problems of all documents are reported at once as `bad_request`.
    """

    documents: Annotated[tuple[dict[str, Any], ...], Meta(min_length=1, max_length=WRITES_MAX)]
    dry_run: bool = False
    reason: str = ""


class Applied(Message, frozen=True, kw_only=True):
    """The store's revision after the transaction, and what changed."""

    revision: int
    changes: tuple[Change, ...]


class Get(Message, frozen=True, kw_only=True):
    """Ask for one document, now or as it was at a store revision."""

    kind: str
    name: str
    revision: int | None = None


class Got(Message, frozen=True, kw_only=True):
    """One document and the store's revision at the time of reading."""

    document: AnyDocument
    revision: int
    deleting: str = ""  # the operation that is about to delete it


class List(Message, frozen=True, kw_only=True):
    """Ask for documents. `selector` is `key=value,key!=value,key` over labels. Pages of `limit` after a
    name.
    """

    kind: str = ""
    selector: str = ""
    limit: Limit = 500
    after: str = ""  # `<kind>/<name>` of the last one seen


class Listed(Message, frozen=True, kw_only=True):
    """One page, sorted by kind and name. `more` says whether another page follows."""

    documents: tuple[AnyDocument, ...]
    revision: int
    more: bool = False


class Delete(Message, frozen=True, kw_only=True):
    """Delete documents in one transaction; refused with `denied_state` while another document uses one, and
    while a domain runs or is saved (its owner record says so).
    """

    references: Annotated[tuple[Reference, ...], Meta(min_length=1, max_length=WRITES_MAX)]
    reason: str = ""
    revision: int | None = None  # of each of them, when only that state may be deleted
    dry_run: bool = False
    force: bool = False  # a domain's run or saved state may stay behind, without a document
    operation: str = ""  # the one that ends these domains, as their owner records say


class History(Message, frozen=True, kw_only=True):
    """Ask for the revisions of one document under all its names, newest first; of the last one that had the
    name, or of the one with the uuid.
    """

    kind: str
    name: str = ""
    limit: Limit = 50
    uuid: str = ""


class HistoryEntry(Message, frozen=True, kw_only=True):
    """One past revision of a document."""

    revision: int
    at: float  # seconds since 1970
    by: str
    reason: str
    action: Literal["created", "changed", "deleted", "renamed"]
    diff: tuple[DiffLine, ...] = ()
    name: str = ""  # the document's name then; two documents that had one name have two uuids
    uuid: str = ""


class HistoryListed(Message, frozen=True, kw_only=True):
    """Revisions of one document, newest first; older ones may have been compacted away."""

    entries: tuple[HistoryEntry, ...]
    compacted: int = 0  # revisions up to this one are gone


class Rollback(Message, frozen=True, kw_only=True):
    """Write the state of a document at `revision` as a new revision."""

    kind: str
    name: str
    revision: int
    reason: str = ""


class Rename(Message, frozen=True, kw_only=True):
    """Give a document another name in one transaction; its uuid stays, and documents that use it follow."""

    kind: str
    name: str
    new_name: str
    reason: str = ""
    revision: int | None = None  # the expected one


class OwnerRecord(Message, frozen=True, kw_only=True):
    """What is kept under `owner/domain/<uuid>`, as JSON: who owns a domain. Its owner writes it, config heeds
    it. `token` grows with each change of the owner, `incarnation` with each run.

    `run`: a run was begun and its end is not known. `saved`: the path of the saved state, if any, `image` its
    id. While one of them is there the document is not deleted. `deleting`: the operation that is about to
    delete it. `stopped`: somebody ended it on purpose, so the run policy `always` waits for a start.
    `crashes` and `reboots` count runs in succession that were short. `failed`: why an operator must look.
    `revision` is that of the document the present run was started with. `ended`: runs up to this one are to
    be gone. `boot`: the boot of the node in which it was last started or ended on purpose; `name`: what it
    was called then.
    """

    node: str
    token: int = 1
    incarnation: int = 0
    run: bool = False
    stopped: bool = False
    crashes: int = 0
    reboots: int = 0
    failed: str = ""
    saved: str = ""
    deleting: str = ""
    hypervisor: str = ""
    uid: int = 0
    revision: int = 0
    ended: int = 0
    image: str = ""
    boot: str = ""
    name: str = ""


OWNED: Final = "owner/domain/"  # the keys of owner records: this and the uuid


class Changes(Message, frozen=True, kw_only=True):
    """Ask for what changed after `since` under a key prefix. Waits up to `wait_ms` when nothing did.

    Refused with `stale` when revisions after `since` were compacted: list everything again.
    """

    since: int
    prefix: Prefix = "document/"
    limit: Limit = 500
    wait_ms: Annotated[int, Meta(ge=0)] = 0


class KeyChange(Message, frozen=True, kw_only=True):
    """One change of one key: `value` is None when it was deleted. Documents are JSON: {kind, metadata, spec},
    with `metadata.revision` left out (it is `revision`).
    """

    key: str
    revision: int
    value: bytes | None = None


class ChangesListed(Message, frozen=True, kw_only=True):
    """Changes in revision order; ask again with `since=revision`."""

    changes: tuple[KeyChange, ...]
    revision: int


class Compare(Message, frozen=True, kw_only=True):
    """One guard of a transaction. `revision`: the key's modification revision (0 = absent); or its exact
    value.
    """

    key: Key
    revision: Annotated[int, Meta(ge=0)] | None = None
    value: Value | None = None


class Put(Message, frozen=True, kw_only=True):
    """Write a key."""

    key: Key
    value: Value


class Remove(Message, frozen=True, kw_only=True):
    """Delete a key."""

    key: Key


class Txn(Message, frozen=True, kw_only=True):
    """If all guards hold, do all operations atomically; otherwise nothing, and say what was found.

    Keys live outside `document/` (`owner/…`, `leader/…`, `settings/…`): documents change through Apply, which
    validates. The call's idempotency key is the op id: a repetition is answered with the first outcome.
    """

    compares: Annotated[tuple[Compare, ...], Meta(max_length=GUARDS_MAX)] = ()
    puts: Annotated[tuple[Put, ...], Meta(max_length=WRITES_MAX)] = ()
    removes: Annotated[tuple[Remove, ...], Meta(max_length=WRITES_MAX)] = ()


class KeyValue(Message, frozen=True, kw_only=True):
    """One stored key."""

    key: str
    value: bytes
    revision: int  # of its last change
    created: int  # revision of its creation


class TxnDone(Message, frozen=True, kw_only=True):
    """The outcome. `found` holds the present values of the compared keys when the guards did not hold."""

    succeeded: bool
    revision: int
    found: tuple[KeyValue, ...] = ()


class Range(Message, frozen=True, kw_only=True):
    """Ask for the keys under a prefix, in order; at most `limit`, after a key."""

    prefix: Prefix
    limit: Limit = 1000
    after: Prefix = ""


class Ranged(Message, frozen=True, kw_only=True):
    """One page of keys."""

    entries: tuple[KeyValue, ...]
    revision: int
    more: bool = False


class Backup(Message, frozen=True, kw_only=True):
    """Ask for a consistent copy of the store; it comes as chunks in order."""


class BackupChunk(Message, frozen=True, kw_only=True):
    """At most 512 KiB of the copy."""

    content: bytes


class BackupDone(Message, frozen=True, kw_only=True):
    """Size in bytes, SHA-256 (hex) and store revision of the copy."""

    size: int
    sha256: str
    revision: int


class Restore(Message, frozen=True, kw_only=True):
    """One chunk of a backup to restore; the documents are replaced when `last` arrived and the digest
    matches. Who owns which domain is not part of it. Refused with `denied_state` while a domain that runs or
    is saved would lose its document.
    """

    upload: str  # chosen by the caller, the same for all chunks
    offset: Annotated[int, Meta(ge=0, le=BACKUP_BYTES_MAX)]
    content: Annotated[bytes, Meta(max_length=PIECE_BYTES)]
    last: bool = False
    sha256: str = ""
    force: bool = False  # such runs stay, without a document
    accept_loss: bool = False  # no backup: where the store lost something, go on with what is left


class Restored(Message, frozen=True, kw_only=True):
    """Bytes received so far; `revision` once the store was replaced. `left`: the uuids of domains that
    run or are saved and have no document now.
    """

    size: int
    revision: int | None = None
    left: tuple[str, ...] = ()


class DocumentChanged(Message, frozen=True, kw_only=True):
    """State of one document under `config.<kind in lower case>.<name>`."""

    document: AnyDocument


CALLS: Final = (
    Call("config.apply", Apply, Applied, changes=True),
    Call("config.get", Get, Got),
    Call("config.list", List, Listed),
    Call("config.delete", Delete, Applied, changes=True),
    Call("config.history", History, HistoryListed),
    Call("config.rollback", Rollback, Applied, changes=True),
    Call("config.rename", Rename, Applied, changes=True),
    Call("config.changes", Changes, ChangesListed),
    Call("config.txn", Txn, TxnDone, changes=True),
    Call("config.range", Range, Ranged),
    Call("config.backup", Backup, BackupDone, part=BackupChunk),
    Call("config.restore", Restore, Restored, changes=True),
)
EVENTS: Final = (Event(("config.>",), DocumentChanged, "config", "config.document"),)
