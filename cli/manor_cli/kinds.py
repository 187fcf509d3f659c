"""The words people use for kinds of things, and what they stand for. Pure."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from manor_bus.wire.errors import ManorError, Problem, bad_request

DOCUMENTS: Final = ("Domain", "Network", "Volume", "Node", "Provider", "Credential", "ClusterSettings")
FACTS: Final = ("domain", "node", "service", "provider", "resource")  # what discovery knows
SHORT: Final = MappingProxyType(
    {
        "dom": "domain",
        "vm": "domain",
        "net": "network",
        "vol": "volume",
        "settings": "clustersettings",
        "cluster": "clustersettings",
        "dev": "device",
        "svc": "service",
        "op": "operation",
        "ops": "operation",
    }
)


def singular(word: str) -> str:
    """Return the plain form of a kind: lower case, singular, not abbreviated."""
    lower = word.lower()
    if lower in ("clustersettings", "settings", "ops"):
        return SHORT.get(lower, lower)
    lower = lower.removesuffix("s")
    return SHORT.get(lower, lower)


def document_kind(word: str) -> str:
    """Return the kind of document meant by a word; `bad_request` when there is none."""
    wanted = singular(word)
    for kind in DOCUMENTS:
        if kind.lower() == wanted:
            return kind
    raise unknown(word, DOCUMENTS)


def unknown(word: str, allowed: tuple[str, ...]) -> ManorError:
    """Return the refusal of a word that is no kind."""
    problem = Problem(path="KIND", value=word, reason="no such kind", allowed=", ".join(allowed).lower())
    return bad_request(f"{word!r} is not a kind of thing", problem)
