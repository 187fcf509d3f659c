"""What an Apply, Delete, Rename or Rollback does to the documents, or why not. Pure.

Decisions look at the catalog as it is and return an Edit: the writes of one transaction, guarded by the
revisions they were decided upon, and what the caller is told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from msgspec.structs import replace

from manor_bus.wire.errors import Kind, ManorError, Problem, bad_request, denied_state
from manor_bus.wire.messages.config import Applied, Change, DiffLine, Reference
from manor_bus.wire.messages.documents import AnyDocument, Metadata, Volume
from manor_config.catalog import Catalog
from manor_config.diff import REPLY_BYTES_MAX, bounded, differences
from manor_config.documents import Parsed, key_of, parse, same, stored
from manor_config.references import Ref, circles, ref_of, renamed, uses
from manor_config.revision import TRANSACTION_BYTES_MAX, Guard, Write, size_of
from manor_config.rules import NAME

PROBLEMS_MAX: Final = 200  # of one reply
USERS_SHOWN: Final = 8


@dataclass(frozen=True, slots=True)
class Stamp:
    """Who changes something, when (seconds since 1970), and why."""

    by: str
    at: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Edit:
    """What to write and what to tell. `documents` are those that change, None = deleted."""

    documents: tuple[tuple[Ref, AnyDocument | None, int], ...] = ()  # and the size of the stored form
    guards: tuple[Guard, ...] = ()
    writes: tuple[Write, ...] = ()
    changes: tuple[Change, ...] = ()


@dataclass
class _Draft:
    """The documents as they would be: what is wanted over what is there."""

    catalog: Catalog
    wanted: Mapping[Ref, AnyDocument]
    uuids: Counter[str] = field(init=False)

    def __post_init__(self) -> None:
        self.uuids = Counter(document.metadata.uuid for document in self.wanted.values())

    def find(self, ref: Ref) -> AnyDocument | None:
        return self.wanted.get(ref) or self.catalog.find(ref)

    def used_by(self, ref: Ref) -> Iterator[Ref]:
        document = self.find(ref)
        return (used for _, used in uses(document)) if document else iter(())


def read(raws: Sequence[Any]) -> list[Parsed]:
    """Parse the documents of an Apply; everything that is wrong with any of them is refused at once."""
    parsed: list[Parsed] = []
    problems: list[Problem] = []
    seen: dict[Ref, int] = {}
    for number, raw in enumerate(raws):
        outcome = parse(raw)
        if not isinstance(outcome, Parsed):
            problems += _placed(number, outcome)
            continue
        parsed.append(outcome)
        first = seen.setdefault(ref_of(outcome.document), number)
        if first != number:
            reason = f"{ref_of(outcome.document)} stands in documents[{first}] already"
            problems.append(Problem(path=f"documents[{number}].metadata.name", reason=reason))
    _refuse(problems, len(raws))
    return parsed


def _placed(number: int, problems: Iterable[Problem]) -> Iterator[Problem]:
    for problem in problems:
        yield replace(problem, path=f"documents[{number}].{problem.path}".rstrip("."))


def _refuse(problems: Sequence[Problem], total: int) -> None:
    if problems:
        shown = problems[:PROBLEMS_MAX]
        message = (
            f"{len(problems)} problems in {total} documents" if len(problems) > 1 else problems[0].reason
        )
        raise bad_request(message, *shown, hint="Nothing was changed. Correct the fields and apply again.")


def apply(catalog: Catalog, wanted: Sequence[Parsed], stamp: Stamp, new_uuid: Callable[[], str]) -> Edit:
    """Create or change documents, all or none."""
    draft = _Draft(catalog, {ref_of(one.document): one.document for one in wanted})
    problems = [
        problem for number, one in enumerate(wanted) for problem in _placed(number, _misfits(draft, one))
    ]
    problems += _circle_problems(draft, [ref_of(one.document) for one in wanted])
    _refuse(problems, len(wanted))
    _expect(catalog, {ref_of(one.document): one.expected for one in wanted})
    return _edit(catalog, [_next(catalog, one.document, stamp, new_uuid) for one in wanted])


def _misfits(draft: _Draft, one: Parsed) -> Iterator[Problem]:
    """Yield what does not fit to the other documents, or to what config says about this one."""
    document = one.document
    ref, metadata = ref_of(document), document.metadata
    owner = draft.catalog.owner_of(metadata.uuid)
    if metadata.uuid and (owner not in (None, ref) or draft.uuids[metadata.uuid] > 1):
        reason = f"belongs to {owner}" if owner not in (None, ref) else "stands in two of these documents"
        yield Problem(path="metadata.uuid", reason=reason, value=metadata.uuid, allowed="a new one, or none")
    before = draft.catalog.find(ref)
    # An expected revision says it all: an old copy is then a conflict.
    filled_in = ("uuid",) if one.expected is not None else ("uuid", "created", "modified", "modified_by")
    for name in filled_in if before else ():
        value, known = getattr(metadata, name), getattr(before.metadata, name) if before else ""
        if value and value != known:
            allowed = f"{known}, or leave it out: config fills it in"
            yield Problem(path=f"metadata.{name}", reason="it is not so", value=str(value), allowed=allowed)
    for path, used in uses(document):
        if draft.find(used) is None:
            reason = f"there is no {used.kind} {used.name!r}"
            allowed = f"a {used.kind} that exists or stands among these documents"
            yield Problem(path=path, reason=reason, value=used.name, allowed=allowed)
    if isinstance(document, Volume):
        yield from _sizes(draft, document, before)


def _sizes(draft: _Draft, volume: Volume, before: AnyDocument | None) -> Iterator[Problem]:
    """Yield why a volume cannot have this size: it only grows, and what shares clusters does not."""
    ref, size = ref_of(volume), volume.spec.size_mib
    base = draft.find(Ref("Volume", volume.spec.clone_of))
    if before is None and isinstance(base, Volume) and size < base.spec.size_mib:
        reason = f"{ref} would be smaller than {ref_of(base)}, which it starts from"
        yield Problem(
            path="spec.size_mib", reason=reason, value=str(size), allowed=f"{base.spec.size_mib} or more"
        )
    elif isinstance(before, Volume) and size != before.spec.size_mib:
        clones = [user for user in draft.catalog.users_of(ref) if _shares(draft.find(user))]
        reason = f"{ref} cannot shrink" if size < before.spec.size_mib else ""
        if clones and not reason:
            reason = f"{ref} cannot grow: {', '.join(map(str, clones[:USERS_SHOWN]))} share its clusters"
        if reason:
            had = f"{before.spec.size_mib}, which it has"
            yield Problem(path="spec.size_mib", reason=reason, value=str(size), allowed=had)


def _shares(user: AnyDocument | None) -> bool:
    return isinstance(user, Volume) and user.spec.format == "qcow2"


def _circle_problems(draft: _Draft, starts: Sequence[Ref]) -> Iterator[Problem]:
    numbers = {ref: number for number, ref in enumerate(starts)}
    for way in circles(starts, draft.used_by):
        number = min(numbers[ref] for ref in way if ref in numbers)
        text = " -> ".join(str(ref) for ref in (*way, way[0]))
        yield Problem(path=f"documents[{number}].spec", reason=f"uses itself in the end: {text}")


def _expect(catalog: Catalog, expected: Mapping[Ref, int | None]) -> None:
    """Refuse with `conflict` what was meant for another revision."""
    moved = []
    for number, (ref, revision) in enumerate(expected.items()):
        document = catalog.find(ref)
        present = document.metadata.revision if document else 0
        if revision is not None and revision != present:
            reason = f"{ref} is at revision {present}" if present else f"{ref} does not exist"
            path = f"documents[{number}].metadata.revision"
            moved.append(Problem(path=path, reason=reason, value=str(revision), allowed=str(present)))
    if moved:
        hint = "Read the present state, decide again, and apply with its revision (0: must not exist yet)."
        as_expected = "and shall not exist" if moved[0].value == "0" else f"not {moved[0].value} as expected"
        message = f"{moved[0].reason}, {as_expected}"
        raise ManorError(Kind.CONFLICT, message, hint=hint, problems=tuple(moved[:PROBLEMS_MAX]))


def _next(
    catalog: Catalog, document: AnyDocument, stamp: Stamp, new_uuid: Callable[[], str]
) -> tuple[Ref, AnyDocument | None]:
    """Fill in what config says about a document; the present one when nothing would change."""
    ref, before = ref_of(document), catalog.find(ref_of(document))
    if before and same(before, document):
        return ref, before
    said = document.metadata.reason
    reason = stamp.reason or ("" if before and said == before.metadata.reason else said)
    metadata = replace(
        document.metadata,
        uuid=before.metadata.uuid if before else document.metadata.uuid or new_uuid(),
        revision=0,
        created=before.metadata.created if before else stamp.at,
        modified=stamp.at,
        modified_by=stamp.by,
        reason=reason,
    )
    return ref, replace(document, metadata=metadata)


def rollback(catalog: Catalog, ref: Ref, past: AnyDocument, revision: int, stamp: Stamp) -> Edit:
    """Let a document be as it was; a deleted one comes back as the one it was."""
    present, said = catalog.find(ref), past.metadata
    if present is not None and said.uuid != present.metadata.uuid:
        message = f"at revision {revision} {ref.name!r} was another {ref.kind}, {said.uuid}"
        raise denied_state(message, hint="Rename the present one, then roll back under the free name.")
    identity = "" if present else said.uuid
    metadata = Metadata(name=ref.name, uuid=identity, labels=said.labels, annotations=said.annotations)
    return apply(catalog, [Parsed(replace(past, metadata=metadata), None)], stamp, str)


def delete(catalog: Catalog, references: Sequence[Reference], revision: int | None = None) -> Edit:
    """Delete documents, all or none; refused while a document that stays uses one of them."""
    refs = [catalog.resolve(one) for one in references]
    gone = set(refs)
    if len(gone) != len(refs):
        problem = Problem(path="references", reason="one is named twice", allowed="each once")
        raise bad_request(problem.reason, problem, hint="Name each document once.")
    problems = []
    for number, ref in enumerate(refs):
        users = [user for user in catalog.users_of(ref) if user not in gone]
        if users:
            more = f" and {len(users) - USERS_SHOWN} more" if len(users) > USERS_SHOWN else ""
            reason = f"{ref} is used by {', '.join(map(str, users[:USERS_SHOWN]))}{more}"
            problems.append(Problem(path=f"references[{number}]", reason=reason))
    if problems:
        refusal = denied_state(problems[0].reason, hint="Change or delete its users first, or with it.")
        refusal.problems = tuple(problems[:PROBLEMS_MAX])
        raise refusal
    _expect(
        catalog,
        {r: one.revision if revision is None else revision for r, one in zip(refs, references, strict=True)},
    )
    return _edit(catalog, [(ref, None) for ref in refs])


def rename(catalog: Catalog, ref: Ref, name: str, expected: int | None, stamp: Stamp) -> Edit:
    """Give a document another name; what uses it uses it by the new name in the same transaction."""
    document = catalog.get(ref)
    if not NAME.ok(name):
        problem = Problem(path="new_name", reason="not a name", value=name[:80], allowed=NAME.allowed)
        raise bad_request("the new name is refused", problem, hint="Choose another name.")
    new = Ref(ref.kind, name)
    if ref.kind == "ClusterSettings":
        raise denied_state("there is one ClusterSettings", hint="Its name is always cluster.")
    if new == ref:
        return _edit(catalog, [(ref, document)])
    if catalog.find(new) is not None:
        raise ManorError(
            Kind.CONFLICT, f"there is a {new.kind} {new.name!r} already", hint="Choose another name."
        )
    _expect(catalog, {ref: expected})

    def stamped(changed: AnyDocument) -> AnyDocument:
        reason = stamp.reason or f"{ref} was renamed to {name}"
        metadata = replace(changed.metadata, modified=stamp.at, modified_by=stamp.by, reason=reason)
        return replace(changed, metadata=metadata)

    moved = stamped(replace(document, metadata=replace(document.metadata, name=name)))
    users = [(user, stamped(renamed(catalog.get(user), ref, name))) for user in catalog.users_of(ref)]
    return _edit(catalog, [(ref, None), (new, moved), *users])


def _edit(catalog: Catalog, wanted: Sequence[tuple[Ref, AnyDocument | None]]) -> Edit:
    documents, guards, writes, changes = [], [], [], []
    room = REPLY_BYTES_MAX
    for ref, after in wanted:
        before = catalog.find(ref)
        if after is not before:
            value = stored(after) if after else None
            documents.append((ref, after, len(value or b"")))
            guards.append(Guard(key_of(ref), revision=before.metadata.revision if before else 0))
            writes.append(Write(key_of(ref), value))
        change, room = _change(ref, before, after, room)
        changes.append(change)
    if sum(size_of(write.key, write.value) for write in writes) > TRANSACTION_BYTES_MAX:
        allowed = f"{TRANSACTION_BYTES_MAX} bytes as stored"
        problem = Problem(path="documents", reason="too large for one transaction", allowed=allowed)
        raise bad_request(problem.reason, problem, hint="Apply fewer documents at once.")
    return Edit(tuple(documents), tuple(guards), tuple(writes), tuple(changes))


def _change(ref: Ref, before: AnyDocument | None, after: AnyDocument | None, room: int) -> tuple[Change, int]:
    """Return what is told of one document, and how many bytes of differences may still be told."""
    known = after or before
    assert known is not None
    diff: tuple[DiffLine, ...] = ()
    if before and after and before is not after:
        diff, room = bounded(differences(before, after), room)
    action = "deleted" if after is None else "created" if before is None else "changed"
    change = Change(
        kind=ref.kind,
        name=ref.name,
        uuid=known.metadata.uuid,
        action="unchanged" if before is after else action,  # type: ignore[arg-type]
        revision=before.metadata.revision if before else 0,
        diff=diff,
    )
    return change, room


def told(changes: Iterable[Change], revision: int, *, done: bool) -> Applied:
    """Return the reply to an edit: done at `revision`, or only thought through while the store is at it."""
    return Applied(
        revision=revision,
        changes=tuple(
            replace(change, revision=revision) if done and change.action != "unchanged" else change
            for change in changes
        ),
    )
