"""One document: from a raw mapping to a typed, checked, normalised one; to stored bytes and back. Pure.

What is refused is refused with everything that is wrong, each with its path, value, reason and what is
allowed. Stored documents are JSON, so that a person can read them without us.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from manor_bus.wire.errors import Problem
from manor_bus.wire.messages import documents as d
from manor_bus.wire.messages.config import VALUE_BYTES_MAX
from manor_config.references import Ref, ref_of
from manor_config.shapes import problems_of, shown

PREFIX: Final = "document/"
KINDS: Final[Mapping[str, type[d.AnyDocument]]] = MappingProxyType(
    {
        kind.__name__: kind
        for kind in (
            d.Domain, d.Network, d.Volume, d.Node, d.Provider, d.Credential, d.ClusterSettings,
        )
    }
)  # fmt: skip
_decoder: Final[msgspec.json.Decoder[Any]] = msgspec.json.Decoder(d.AnyDocument)


@dataclass(frozen=True, slots=True)
class Parsed:
    """A raw document that is well-formed. `expected`: the revision it must replace, if it says one."""

    document: d.AnyDocument
    expected: int | None


def parse(raw: Any) -> Parsed | list[Problem]:
    """Return the document, or everything that is wrong with it; never raises."""
    if not isinstance(raw, Mapping):
        return [Problem(path="", reason="not a mapping", value=shown(raw), allowed="kind, metadata, spec")]
    kind = raw.get("kind")
    struct = KINDS.get(kind) if isinstance(kind, str) else None
    if struct is None:
        close = get_close_matches(kind, KINDS, n=1, cutoff=0.5) if isinstance(kind, str) else []
        reason = (
            "missing" if kind is None else "unknown kind" + (f"; did you mean {close[0]}?" if close else "")
        )
        return [Problem(path="kind", reason=reason, value=shown(kind or ""), allowed=", ".join(KINDS))]
    problems = problems_of(raw, struct, "")
    if problems:
        return problems
    document = normalised(msgspec.convert(raw, struct))
    size = len(stored(document))
    if size > VALUE_BYTES_MAX:
        allowed = f"{VALUE_BYTES_MAX} bytes"
        return [Problem(path="", reason="the document is too large", value=str(size), allowed=allowed)]
    expected = document.metadata.revision if "revision" in raw["metadata"] else None
    return Parsed(document, expected)


def normalised(document: d.AnyDocument) -> d.AnyDocument:
    """Return the document with each value in the one spelling that is stored and compared."""
    metadata = document.metadata
    if metadata.uuid != metadata.uuid.lower():
        document = replace(document, metadata=replace(metadata, uuid=metadata.uuid.lower()))
    if isinstance(document, d.Domain):
        spec = document.spec
        pci = tuple(replace(one, address=_pci_address(one.address)) for one in spec.pci)
        nics = tuple(replace(nic, mac=nic.mac.lower()) for nic in spec.nics)
        cpu = replace(spec.cpu, affinity="".join(spec.cpu.affinity.split()))
        return replace(document, spec=replace(spec, pci=pci, nics=nics, cpu=cpu))
    return document


def _pci_address(address: str) -> str:
    return (address if address.count(":") == 2 else f"0000:{address}").lower()


def key_of(ref: Ref) -> str:
    """Return the key a document is stored under."""
    return f"{PREFIX}{ref.kind}/{ref.name}"


def subject_of(ref: Ref) -> str:
    """Return the subject a document is published under."""
    return f"config.{ref.kind.lower()}.{ref.name}"


def stored(document: d.AnyDocument) -> bytes:
    """Return the bytes of a document; its revision is that of its key and not among them."""
    if document.metadata.revision:
        document = replace(document, metadata=replace(document.metadata, revision=0))
    return msgspec.json.encode(document)


def loaded(value: bytes, revision: int) -> d.AnyDocument:
    """Return a stored document; raises msgspec.MsgspecError when another version wrote it differently."""
    document: d.AnyDocument = _decoder.decode(value)
    metadata = replace(document.metadata, revision=revision)
    document = replace(document, metadata=metadata)
    return document


def uuid_of(value: bytes) -> str:
    """Return the uuid in a stored document."""
    return str(msgspec.json.decode(value)["metadata"].get("uuid", ""))


def same(old: d.AnyDocument, new: d.AnyDocument) -> bool:
    """Say whether two versions ask for the same."""
    before, after = old.metadata, new.metadata
    return (old.spec, before.labels, before.annotations) == (
        new.spec,
        after.labels,
        after.annotations,
    ) and ref_of(old) == ref_of(new)
