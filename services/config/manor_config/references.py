"""Which documents a document uses, and that nobody uses himself in the end. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from msgspec.structs import replace

from manor_bus.wire.messages import documents as d


class Ref(NamedTuple):
    """Names one document."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


def ref_of(document: d.AnyDocument) -> Ref:
    """Return the name of a document with its kind."""
    return Ref(d.kind_of(document), document.metadata.name)


def uses(document: d.AnyDocument) -> Iterator[tuple[str, Ref]]:
    """Yield (path of the field, document named there)."""
    match document:
        case d.Domain(spec=spec):
            for number, disk in enumerate(spec.disks):
                if disk.volume:
                    yield f"spec.disks[{number}].volume", Ref("Volume", disk.volume)
            for number, nic in enumerate(spec.nics):
                if nic.network:
                    yield f"spec.nics[{number}].network", Ref("Network", nic.network)
            if spec.graphics.password_ref:
                yield "spec.graphics.password_ref", Ref("Credential", spec.graphics.password_ref)
            for number, name in enumerate(spec.depends_on):
                yield f"spec.depends_on[{number}]", Ref("Domain", name)
        case d.Volume(spec=volume) if volume.clone_of:
            yield "spec.clone_of", Ref("Volume", volume.clone_of)
        case d.Provider(spec=provider) if provider.domain:
            yield "spec.domain", Ref("Domain", provider.domain)


def renamed(document: d.AnyDocument, old: Ref, name: str) -> d.AnyDocument:
    """Return a document that uses `old` so that it uses it by its new name."""

    def new(kind: str, used: str) -> str:
        return name if Ref(kind, used) == old else used

    match document:
        case d.Domain(spec=spec):
            graphics = replace(spec.graphics, password_ref=new("Credential", spec.graphics.password_ref))
            changed = replace(
                spec,
                disks=tuple(replace(disk, volume=new("Volume", disk.volume)) for disk in spec.disks),
                nics=tuple(replace(nic, network=new("Network", nic.network)) for nic in spec.nics),
                graphics=graphics,
                depends_on=tuple(new("Domain", used) for used in spec.depends_on),
            )
            return replace(document, spec=changed)
        case d.Volume(spec=volume):
            return replace(document, spec=replace(volume, clone_of=new("Volume", volume.clone_of)))
        case d.Provider(spec=provider):
            return replace(document, spec=replace(provider, domain=new("Domain", provider.domain)))
        case _:
            return document


def circles(starts: Iterable[Ref], used_by: Callable[[Ref], Iterable[Ref]]) -> Iterator[tuple[Ref, ...]]:
    """Yield each way from one of the documents over what it uses back to itself; `used_by` says what."""
    done: set[Ref] = set()
    for start in starts:
        path: dict[Ref, Iterator[Ref]] = {start: iter(used_by(start))} if start not in done else {}
        while path:
            here = next(reversed(path))
            further = next(path[here], None)
            if further is None:
                done.add(here)
                del path[here]
            elif further in path:
                way = list(path)
                yield tuple(way[way.index(further) :])
            elif further not in done:
                path[further] = iter(used_by(further))
