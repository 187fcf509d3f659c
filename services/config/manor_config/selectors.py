"""Selectors over labels: `key=value,key!=value,key,!key`; all terms must hold. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from manor_bus.wire.errors import Problem, bad_request

TEXT_MAX: Final = 1_024
LABEL_KEY: Final = r"[A-Za-z0-9][A-Za-z0-9._/-]{0,126}"
LABEL_VALUE: Final = r"[A-Za-z0-9._/:@+-]{0,126}"
_TERM: Final = re.compile(rf"(?P<no>!?)(?P<key>{LABEL_KEY})(?:(?P<op>!?=)(?P<value>{LABEL_VALUE}))?")

Selector = tuple[tuple[str, str, str | None], ...]  # key, operator (`=`, `!=`, ``, `!`), value


def refusal(text: str) -> str:
    """Return why this is not a selector, or an empty string."""
    if len(text) > TEXT_MAX:
        return f"longer than {TEXT_MAX} characters"
    for term in text.split(",") if text.strip() else ():
        found = _TERM.fullmatch(term.strip())
        if found is None or (found["no"] and found["op"]):
            return f"cannot read the term {term.strip()[:80]!r}"
    return ""


def parse(text: str) -> Selector:
    """Return the terms of a selector; an empty text has none and matches everything."""
    reason = refusal(text)
    if reason:
        allowed = "key=value, key!=value, key, !key, joined by commas"
        problem = Problem(path="selector", reason=reason, value=text[:80], allowed=allowed)
        raise bad_request("the selector cannot be read", problem)
    found = [_TERM.fullmatch(term.strip()) for term in text.split(",")] if text.strip() else []
    return tuple((term["key"], term["op"] or term["no"], term["value"]) for term in found if term)


def matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Say whether labels meet all terms; an absent key is different from every value."""
    for key, operator, value in selector:
        present = labels.get(key)
        holds = {"=": present == value, "!=": present != value, "": present is not None}
        if not holds.get(operator, present is None):
            return False
    return True
