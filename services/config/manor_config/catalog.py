"""The present documents in memory, and who uses whom: what decisions and questions look at. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator

from manor_bus.wire.errors import ManorError, Problem, bad_request, conflict, not_found
from manor_bus.wire.messages.config import Reference
from manor_bus.wire.messages.documents import AnyDocument
from manor_config.documents import KINDS
from manor_config.references import Ref, ref_of, uses
from manor_config.revision import PAGE_BYTES_MAX, ROW_BYTES
from manor_config.selectors import Selector, matches


class Catalog:
    """Every change costs only what it touches, however many documents there are."""

    def __init__(self) -> None:
        self._documents: dict[Ref, tuple[AnyDocument, int]] = {}  # and the size of its stored form
        self._order: list[Ref] = []
        self._by_uuid: dict[str, Ref] = {}
        self._users: dict[Ref, set[Ref]] = {}

    def __len__(self) -> int:
        return len(self._order)

    def find(self, ref: Ref) -> AnyDocument | None:
        """Return a document, if it exists."""
        known = self._documents.get(ref)
        return known[0] if known else None

    def get(self, ref: Ref) -> AnyDocument:
        """Return a document; `not_found` says where to look."""
        document = self.find(ref)
        if document is None:
            raise absent(ref)
        return document

    def owner_of(self, uuid: str) -> Ref | None:
        """Return which document has this uuid."""
        return self._by_uuid.get(uuid)

    def resolve(self, reference: Reference) -> Ref:
        """Return which document is meant; a uuid finds it whatever its name is by now."""
        check_kind(reference.kind)
        uuid, ref = reference.uuid.lower(), Ref(reference.kind, reference.name)
        known = self._by_uuid.get(uuid) if uuid else ref
        if known is None or known.kind != ref.kind or (not ref.name and not uuid):
            raise not_found(f"there is no {ref.kind} {uuid or ref.name!r}", hint="It may be gone already.")
        self.get(known)
        if ref.name and known != ref:
            hint = "Read it again, then decide."
            raise conflict(f"{ref.kind} {uuid} is {known.name!r}, not {ref.name!r}", hint=hint)
        return known

    def users_of(self, ref: Ref) -> list[Ref]:
        """Return which documents use this one, in order."""
        return sorted(self._users.get(ref, ()))

    def put(self, document: AnyDocument, size: int) -> None:
        """Take a new or changed document."""
        ref = ref_of(document)
        before = self.find(ref)
        if before is None:
            insort(self._order, ref)
        else:
            self._forget(ref, before)
        self._documents[ref] = (document, size)
        self._by_uuid[document.metadata.uuid] = ref
        for _, used in uses(document):
            self._users.setdefault(used, set()).add(ref)

    def drop(self, ref: Ref) -> None:
        """Take the end of a document."""
        document, _ = self._documents.pop(ref)
        del self._order[bisect_left(self._order, ref)]
        self._forget(ref, document)

    def _forget(self, ref: Ref, document: AnyDocument) -> None:
        if self._by_uuid.get(document.metadata.uuid) == ref:
            del self._by_uuid[document.metadata.uuid]
        for _, used in uses(document):
            users = self._users.get(used, set())
            users.discard(ref)
            if not users:
                self._users.pop(used, None)

    def everything(self) -> Iterator[tuple[Ref, AnyDocument]]:
        """Yield all documents in order."""
        for ref in self._order:
            yield ref, self._documents[ref][0]

    def page(self, kind: str, selector: Selector, after: str, limit: int) -> tuple[list[AnyDocument], bool]:
        """Return documents after `<kind>/<name>`, in order, that fit a frame, and whether more follow."""
        start = bisect_right(self._order, Ref(*after.split("/", 1))) if "/" in after else 0
        if kind:
            start = max(start, bisect_left(self._order, Ref(kind, "")))
        found: list[AnyDocument] = []
        size = 0
        for number in range(start, len(self._order)):
            ref = self._order[number]
            if kind and ref.kind != kind:
                break
            document, its_size = self._documents[ref]
            if not matches(selector, document.metadata.labels):
                continue
            size += its_size + ROW_BYTES
            if found and (len(found) >= limit or size > PAGE_BYTES_MAX):
                return found, True
            found.append(document)
        return found, False


def check_kind(kind: str, path: str = "kind") -> None:
    """Refuse what is not a kind of document."""
    if kind not in KINDS:
        problem = Problem(path=path, reason="unknown kind", value=kind[:80], allowed=", ".join(KINDS))
        raise bad_request(f"there is no kind {kind[:80]!r}", problem)


def absent(ref: Ref) -> ManorError:
    """Return the refusal of a name that does not exist."""
    hint = f"`manor get {ref.kind.lower()}` lists those there are."
    return not_found(f"there is no {ref.kind} {ref.name!r}", hint=hint)


def named(kind: str, name: str) -> Ref:
    """Return what a request names."""
    check_kind(kind)
    return Ref(kind, name)


def not_then(ref: Ref, revision: int, why: str) -> ManorError:
    """Return the refusal of a revision at which a document did not exist."""
    hint = f"`manor history {ref.kind.lower()} {ref.name}` shows its revisions."
    return not_found(f"{ref} did not exist at revision {revision}: {why}", hint=hint)
