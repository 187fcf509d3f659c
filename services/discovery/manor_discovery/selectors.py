"""Selectors over labels: `key=value,key!=value,key,!key`; all terms must hold. Pure.

The attributes of a fact (`name`, `node`, `state`, `service`, `backend`) can be asked for like labels;
a label of the same name comes first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from manor_bus.wire.errors import Problem, bad_request
from manor_bus.wire.messages.discovery import AnyFact

TEXT_MAX: Final = 1024
TERMS_MAX: Final = 32
_TERM: Final = re.compile(
    r"(?P<not>!)?(?P<key>[A-Za-z0-9][A-Za-z0-9._/-]{0,252})(?:(?P<op>!=|==?)(?P<value>[A-Za-z0-9._/:-]{0,253}))?"
)
_ATTRIBUTES: Final = ("name", "node", "state", "service", "backend")


@dataclass(frozen=True, slots=True)
class Term:
    """One condition on one key."""

    key: str
    operator: Literal["=", "!=", "present", "absent"]
    value: str = ""

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Say whether the labels meet the condition; an absent key is different from every value."""
        match self.operator:
            case "present":
                return self.key in labels
            case "absent":
                return self.key not in labels
            case "=":
                return labels.get(self.key) == self.value
            case "!=":
                return labels.get(self.key) != self.value


def parse(text: str) -> tuple[Term, ...]:
    """Return the terms of a selector; empty text has none. Raises `bad_request` naming the refused term."""
    if len(text) > TEXT_MAX:
        raise bad_request(
            "the selector is too long",
            Problem(path="selector", reason="too long", allowed=f"at most {TEXT_MAX} characters"),
        )
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if len(parts) > TERMS_MAX:
        raise bad_request(
            "the selector has too many terms",
            Problem(path="selector", reason="too many terms", allowed=f"at most {TERMS_MAX}"),
        )
    return tuple(_term(part) for part in parts)


def _term(part: str) -> Term:
    found = _TERM.fullmatch(part)
    if found is None or (found["not"] and found["op"]):
        raise bad_request(
            f"cannot read the selector at {part!r}",
            Problem(
                path="selector", value=part, reason="not a term", allowed="key=value, key!=value, key, !key"
            ),
        )
    if found["not"]:
        return Term(found["key"], "absent")
    if not found["op"]:
        return Term(found["key"], "present")
    return Term(found["key"], "!=" if found["op"] == "!=" else "=", found["value"])


def attributes(fact: AnyFact) -> dict[str, str]:
    """Return what a selector can ask about a fact: its attributes, overlaid by its labels."""
    own = {key: str(value) for key in _ATTRIBUTES if (value := getattr(fact, key, ""))}
    return own | fact.labels


def matches(terms: tuple[Term, ...], fact: AnyFact) -> bool:
    """Say whether a fact meets all terms."""
    if not terms:
        return True
    labels = attributes(fact)
    return all(term.holds(labels) for term in terms)
