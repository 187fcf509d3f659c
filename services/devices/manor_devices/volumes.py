"""What must be done so that a volume's file is as its document says. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from manor_bus.wire.messages.documents import VolumeSpec
from manor_devices.backends import Claim
from manor_devices.routes import NAME_CHARS


@dataclass(frozen=True, slots=True)
class Image:
    """A file to start from, another volume's or one of the node's. `claims`: on its chain, itself first."""

    path: str
    format: str
    size_mib: int
    claims: tuple[Claim, ...] = ()
    volume: str = ""  # its uuid, if it is one


@dataclass(frozen=True, slots=True)
class VolumeRecord:
    """What is durable of a volume, from before its file is made until after it is gone."""

    uuid: str
    name: str
    path: str  # in the folder of the pools
    spec: VolumeSpec  # as it was made: format, pool and origin cannot change
    revision: int = 0  # of the document last taken into account
    made: bool = False
    size_mib: int = 0
    deleted: int = 0  # the revision in which its content was deleted; the wish for it may come back
    origin: str = ""  # the uuid of the volume that it was cloned from
    below: tuple[str, ...] = ()  # the files whose clusters it shares; in the folder of the pools, or absolute


@dataclass(frozen=True, slots=True)
class Seen:
    """What is observed. `users` are `domain/device`; `clones` are volumes that share its clusters."""

    exists: bool = False
    users: tuple[str, ...] = ()
    clones: tuple[str, ...] = ()
    base: Image | None = None  # the origin, when it can be started from
    base_missing: str = ""  # why not
    gone: str = ""  # what is wrong with the files of a volume that was made


@dataclass(frozen=True, slots=True)
class Make:
    """Create the file: empty, over the base (sharing its clusters), or as a full copy of it."""

    base: Image | None = None
    copied: bool = False


@dataclass(frozen=True, slots=True)
class Adopt:
    """Take the file that is there already: it was kept, or made just before a power cut."""


@dataclass(frozen=True, slots=True)
class Grow:
    """Make the file larger."""

    size_mib: int


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove the file, then the record."""


@dataclass(frozen=True, slots=True)
class Forget:
    """Remove the record; the file stays."""


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing to do. `reason` says what the document asks for and does not get."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Wait:
    """Something else must happen first; it is looked at again when it may have."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """The document asks for what cannot be."""

    reason: str


Action = Make | Adopt | Grow | Delete | Forget | Rest | Wait | Refuse


def plan(spec: VolumeSpec | None, record: VolumeRecord, seen: Seen) -> Action:
    """Return the next thing to do; `spec` None: the document was deleted."""
    if spec is None:
        return Forget() if record.deleted else _end(record, seen)
    if record.deleted:
        return Refuse(
            f"its content was deleted in revision {record.deleted}: delete the document and apply it anew"
            " for an empty volume"
        )
    if not record.made:
        return Adopt() if seen.exists else _begin(spec, seen)
    if seen.gone:
        return Refuse(seen.gone)
    return _change(spec, record, seen)


def _end(record: VolumeRecord, seen: Seen) -> Action:
    if record.spec.keep or not record.made:
        return Forget() if record.spec.keep else Delete()
    if seen.users or seen.clones:
        return Wait(
            f"it is deleted when no longer used by {', '.join((*seen.users, *seen.clones))}" + _saved(seen)
        )
    return Delete()


def _begin(spec: VolumeSpec, seen: Seen) -> Action:
    if not spec.pool or not NAME_CHARS.issuperset(spec.pool):  # config has checked it; here it becomes a path
        return Refuse(f"pool {spec.pool[:80]!r} must be letters, digits, - and _")
    if not spec.clone_of and not spec.backing_file:
        return Make()
    if seen.base is None:
        return Wait(seen.base_missing)
    if seen.base.size_mib > spec.size_mib:
        return Refuse(f"size_mib must be at least {seen.base.size_mib}, the size of what it starts from")
    return Make(seen.base, copied=spec.format == "raw")


def _change(spec: VolumeSpec, record: VolumeRecord, seen: Seen) -> Action:
    fixed = ("format", "pool", "clone_of", "backing_file")
    changed = [name for name in fixed if getattr(spec, name) != getattr(record.spec, name)]
    if changed:
        return Rest(f"{', '.join(changed)} cannot change once the volume is made: make another and copy")
    if spec.size_mib < record.size_mib:
        return Rest(
            f"it has {record.size_mib} MiB and is not made smaller: what lies at its end would be lost"
        )
    if spec.size_mib == record.size_mib:
        return Rest()
    if seen.clones:
        return Rest(f"it cannot grow: {', '.join(seen.clones)} share its clusters")
    if seen.users:
        return Wait(
            f"it grows to {spec.size_mib} MiB when it is detached from {', '.join(seen.users)}" + _saved(seen)
        )
    return Grow(spec.size_mib)


def _saved(seen: Seen) -> str:
    """Name the way out where a saved domain stands in the way."""
    saved = any(user.startswith("saved domain ") for user in seen.users)
    return " (a saved domain lets go when it is restored or discarded)" if saved else ""
