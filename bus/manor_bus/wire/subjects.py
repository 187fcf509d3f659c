"""Subjects and patterns: `domain.web`, `domain.*` (one token), `config.>` (one or more). Pure.

Grammar: tokens of letters, digits, `_`, `-`, joined by dots; at most 16 tokens and 255 bytes.
"""

from __future__ import annotations

import re
from typing import Final

SUBJECT_BYTES_MAX: Final = 255
TOKENS_MAX: Final = 16

_TOKEN: Final = r"[A-Za-z0-9_-]+"
_SUBJECT: Final = re.compile(rf"{_TOKEN}(?:\.{_TOKEN}){{0,{TOKENS_MAX - 1}}}")
_PATTERN: Final = re.compile(rf"(?:(?:{_TOKEN}|\*)\.){{0,{TOKENS_MAX - 1}}}(?:{_TOKEN}|\*|>)")


def is_subject(text: str) -> bool:
    """Whether `text` may be published under or called."""
    return len(text) <= SUBJECT_BYTES_MAX and _SUBJECT.fullmatch(text) is not None


def is_pattern(text: str) -> bool:
    """Whether `text` may be subscribed to or served."""
    return len(text) <= SUBJECT_BYTES_MAX and _PATTERN.fullmatch(text) is not None


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject (or another pattern, taken as the set of what it matches) lies under `pattern`."""
    wanted, given = pattern.split("."), subject.split(".")
    for at, token in enumerate(wanted):
        if token == ">":
            return len(given) > at
        if at >= len(given) or given[at] == ">" or (token not in ("*", given[at])):
            return False
    return len(wanted) == len(given)


def overlap(left: str, right: str) -> bool:
    """Whether some subject lies under both patterns."""
    ours, theirs = left.split("."), right.split(".")
    for one, other in zip(ours, theirs, strict=False):
        if ">" in (one, other):
            return True
        if "*" not in (one, other) and one != other:
            return False
    return len(ours) == len(theirs)
